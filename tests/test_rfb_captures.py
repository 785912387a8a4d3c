"""Real sessions, recorded by others, replayed through the conversation.

Counts come from independent parsers (expected.json beside each capture).
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from relay.limits import Limits
from relay.rfb import encodings, from_desktop, from_viewer, pixel_format
from relay.rfb.conversation import Conversation
from relay.rfb.handshake import ServerInit
from tests import captures
from tests.captures import FROM_DESKTOP, FROM_VIEWER, Capture
from tests.splits import TAILS, Feeder

# What this version does not frame, and so cuts out of SetEncodings; the recorded desktops were
# offered it.
NOT_FRAMED = {
    "-131071": "libvncserver's own",
    "-259": "QEMU audio",
    "-257": "QEMU pointer motion",
    "21": "JPEG",
    "-232": "pointer position",
    "-240": "XCursor",
}


def _left_out(capture: Capture) -> str:
    expected = capture.expected
    if not expected["rfb_session"]:
        return "no RFB session"
    for number in expected["rects"]:
        if number in NOT_FRAMED:
            return NOT_FRAMED[number]
    return ""


class Replay:
    """One capture through one conversation, in the order in which it was recorded."""

    def __init__(self, capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = capture.expected
        self.capture = capture
        self.skip = {
            FROM_VIEWER: expected["client_messages_start"],
            FROM_DESKTOP: expected["server_init"]["end"],
        }
        said = expected["server_init"]
        init = ServerInit(
            said["width"],
            said["height"],
            pixel_format.parse(bytes.fromhex(said["pixel_format"])),
            said["name"].encode(),
        )
        self.conversation = Conversation(init, Limits())
        self.feeders = {
            FROM_VIEWER: Feeder(self.conversation.up, TAILS["up"]),
            FROM_DESKTOP: Feeder(self.conversation.down, TAILS["down"]),
        }
        self.messages = {FROM_VIEWER: Counter[str](), FROM_DESKTOP: Counter[str]()}
        self._count_messages(monkeypatch)

    def _count_messages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for way, module in ((FROM_VIEWER, from_viewer), (FROM_DESKTOP, from_desktop)):
            table: dict[int, tuple[Any, ...]] = module._MESSAGES
            counted = {}
            for number, (*head, check) in table.items():

                def count(
                    reader: Any,
                    buf: bytearray,
                    pos: int,
                    stop: int,
                    key: tuple[int, int] = (way, number),
                    check: Any = check,
                ) -> int:
                    reached: int = check(reader, buf, pos, stop)
                    if reached >= 0:
                        self.messages[key[0]][str(key[1])] += 1
                    return reached

                counted[number] = (*head, count)
            monkeypatch.setattr(module, "_MESSAGES", counted)

    def feed(self, cut: Any) -> None:
        """`cut` divides a record's bytes into pieces."""
        skip = dict(self.skip)
        for way, data in self.capture.records:
            left = min(skip[way], len(data))
            skip[way] -= left
            for piece in cut(data[left:]):
                if piece:
                    self.feeders[way].feed(piece)

    def check(self) -> None:
        expected = self.capture.expected
        down, up = self.feeders[FROM_DESKTOP], self.feeders[FROM_VIEWER]
        assert not down.tail
        assert not up.tail
        assert dict(self.messages[FROM_DESKTOP]) == expected["server_messages"]
        assert dict(self.messages[FROM_VIEWER]) == expected["client_messages"]
        state = self.conversation.state
        assert [state.width, state.height] == expected["final_framebuffer"]
        sent = self.capture.stream(FROM_DESKTOP)[self.skip[FROM_DESKTOP] :]
        assert len(down.forwarded) == len(sent)
        different = [i for i, (a, b) in enumerate(zip(sent, down.forwarded, strict=True)) if a != b]
        # Only padding changes, and it becomes zero: at most three bytes of a message.
        assert all(down.forwarded[i] == 0 for i in different)
        assert len(different) <= 3 * sum(self.messages[FROM_DESKTOP].values())
        said = self.capture.stream(FROM_VIEWER)[self.skip[FROM_VIEWER] :]
        # SetEncodings loses four bytes for each number cut out of it, and nothing else changes
        # in length.
        assert len(up.forwarded) <= len(said)
        assert (len(said) - len(up.forwarded)) % 4 == 0


NAMES = captures.names() or ["missing"]


@pytest.mark.parametrize("how", ["as recorded", "byte by byte", "at random"])
@pytest.mark.parametrize("name", NAMES)
def test_replayed(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = captures.load(name)
    if reason := _left_out(capture):
        assert reason == "no RFB session" or reason in NOT_FRAMED.values()
        return
    rng = random.Random(name)

    def at_random(data: bytes) -> list[bytes]:
        cuts = sorted(rng.sample(range(len(data) + 1), min(4, len(data))))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    cut = {
        "as recorded": lambda data: [data],
        "byte by byte": lambda data: [data[i : i + 1] for i in range(len(data))],
        "at random": at_random,
    }[how]
    replay = Replay(capture, monkeypatch)
    replay.feed(cut)
    replay.check()


def test_most_captures_are_replayed() -> None:
    if NAMES == ["missing"]:
        captures.load("missing")
    replayed = [name for name in NAMES if not _left_out(captures.load(name))]
    assert len(replayed) >= 20
    seen = {number for name in replayed for number in captures.load(name).expected["rects"]}
    real = {str(n) for n, e in encodings.REGISTRY.items() if e.pixels} - {"-260"}
    # TightPNG is in no capture: no recorded server was built with it.
    assert real <= seen
