"""Real sessions, recorded by others, replayed through the conversation.

What is in them comes from independent parsers: counts from expected.json, the offset of every
message and rectangle from the detail file beside each capture. What may change on the way is
computed from those offsets here, and everything else must come out as it went in.
"""

from __future__ import annotations

import json
import lzma
import random
import struct
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import pytest

from relay.limits import Limits
from relay.rfb import encodings, from_desktop, from_viewer, offers, pixel_format
from relay.rfb.conversation import Conversation
from relay.rfb.encodings.base import Encoding, Window
from relay.rfb.handshake import ServerInit
from relay.rfb.state import State
from tests.labs import captures
from tests.labs.captures import FROM_DESKTOP, FROM_VIEWER, Capture
from tests.labs.splits import TAILS, Feeder

Place = tuple[int, int]
"""A message type or an encoding, and the offset at which it begins."""


def rectangles(capture: Capture) -> set[int]:
    return {int(number) for number in capture.expected.get("rects", {})}


def left_out(capture: Capture) -> str:
    """Why a capture cannot be replayed; empty when it can."""
    if not capture.expected["rfb_session"]:
        return "no RFB session in it"
    unknown = rectangles(capture) - set(encodings.REGISTRY) - {encodings.LAST_RECT}
    return ", ".join(map(str, sorted(unknown)))


def oracle(capture: Capture) -> list[dict[str, Any]]:
    """Its lines; libvncclient's, which reads the desktop's stream alone, do not say so."""
    raw = lzma.decompress((captures.TRACES / f"{capture.name}.detail.jsonl.xz").read_bytes())
    return [{"d": "s"} | json.loads(line) for line in raw.splitlines()]


class Replay:
    """One capture through one conversation, in the order in which it was recorded."""

    def __init__(self, capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = capture.expected
        self.capture = capture
        said = expected["server_init"]
        self.skip = {FROM_VIEWER: expected["client_messages_start"], FROM_DESKTOP: said["end"]}
        self.messages: dict[int, list[Place]] = {FROM_VIEWER: [], FROM_DESKTOP: []}
        self.rectangles: list[Place] = []
        self._note_messages(monkeypatch)
        self._note_rectangles(monkeypatch)
        init = ServerInit(
            said["width"],
            said["height"],
            pixel_format.parse(bytes.fromhex(said["pixel_format"])),
            said["name"].encode(),
        )
        self.conversation = Conversation(init, Limits(), passive=True)
        self.feeders = {
            FROM_VIEWER: Feeder(self.conversation.up, TAILS["up"]),
            FROM_DESKTOP: Feeder(self.conversation.down, TAILS["down"]),
        }

    def _offset(self, way: int, pos: int) -> int:
        """The offset in the capture's stream of a position in the buffer being judged."""
        feeder = self.feeders[way]
        offset: int = self.skip[way] + feeder.reader.offset + pos - Feeder.BEFORE
        return offset

    def _note_messages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def noting(way: int, number: int, check: Any) -> Any:
            def note(reader: Any, buf: bytearray, pos: int, stop: int) -> int:
                reached: int = check(reader, buf, pos, stop)
                if reached >= 0:
                    self.messages[way].append((number, self._offset(way, pos)))
                return reached

            return note

        for way, module in ((FROM_VIEWER, from_viewer), (FROM_DESKTOP, from_desktop)):
            table: dict[int, tuple[Any, ...]] = module._MESSAGES
            noted = {n: (*row[:-1], noting(way, n, row[-1])) for n, row in table.items()}
            monkeypatch.setattr(module, "_MESSAGES", noted)

    def _note_rectangles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def note(number: int, payload: int) -> None:
            self.rectangles.append((number, self._offset(FROM_DESKTOP, payload - 12)))

        def noting_measure(number: int, measure: Any) -> Any:
            def noted(
                self: Any, buf: bytearray, pos: int, stop: int, w: int, h: int, state: Any
            ) -> int:
                size: int = measure(self, buf, pos, stop, w, h, state)
                # A cursor asks another encoding about its inside, with no session's state.
                if size >= 0 and isinstance(state, State):
                    note(number, pos)
                return size

            return noted

        def noting_walk(number: int, walk: Any) -> Any:
            def noted(self: Any, w: int, h: int, state: State) -> Generator[int, Window, int]:
                steps = walk(self, w, h, state)
                next(steps)
                window = yield 0
                note(number, window[1])
                while True:
                    try:
                        reached = steps.send(window)
                    except StopIteration as done:
                        end: int = done.value
                        return end
                    window = yield reached

            return noted

        patches: list[tuple[type[Encoding], str, Any]] = []
        for number, encoding in encodings.REGISTRY.items():
            cls = type(encoding)
            if encoding.walks:
                patches.append((cls, "walk", noting_walk(number, getattr(cls, "walk"))))  # noqa: B009
            else:
                patches.append((cls, "measure", noting_measure(number, cls.measure)))
        for cls, name, noted in patches:
            monkeypatch.setattr(cls, name, noted)
        # What conversations share has the methods of before.
        monkeypatch.setattr(offers, "_permits", offers._permits.__wrapped__)

    def feed(self, cut: Callable[[bytes], list[bytes]]) -> None:
        """`cut` divides a record's bytes into pieces."""
        skip = dict(self.skip)
        for way, data in self.capture.records:
            left = min(skip[way], len(data))
            skip[way] -= left
            for piece in cut(data[left:]):
                if piece:
                    self.feeders[way].feed(piece)


def zero(stream: bytearray, first: int, behind: int) -> None:
    stream[first:behind] = bytes(behind - first)


def expected_down(capture: Capture, lines: list[dict[str, Any]]) -> bytes:
    """The desktop's stream with padding zero (RFC 6143, Section 7.6; community specification)."""
    stream = bytearray(capture.stream(FROM_DESKTOP))
    padding = {
        "msg": {0: (1, 2), 1: (1, 2), 3: (1, 4), 248: (1, 4)},
        "rect": {-308: (13, 16), 0x574D5664: (13, 14)},
    }
    for line in lines:
        for kind, table in padding.items():
            if line["d"] == "s" and line.get(kind) in table:
                first, behind = table[line[kind]]
                zero(stream, line["off"] + first, line["off"] + behind)
    return bytes(stream[capture.expected["server_init"]["end"] :])


def kept(number: int) -> bool:
    """Whether SetEncodings keeps an entry: what is framed, what a message or LastRect answers,
    and levels (community specification, Pseudo-encodings: quality, compression, fine quality
    and subsampling)."""
    return (
        number in encodings.REGISTRY
        or number in (-224, -305, -309, -312, -313, 0xC0A1E5CE - (1 << 32))
        or -32 <= number <= -23
        or -256 <= number <= -247
        or -512 <= number <= -412
        or -768 <= number <= -763
    )


def corrected(message: bytes, size: tuple[int, int]) -> bytes:
    """One message of a viewer as the desktop should get it (RFC 6143, Section 7.5), when the
    framebuffer has that size."""
    edited = bytearray(message)
    kind = edited[0]
    if kind == 0:
        zero(edited, 1, 4)
        edited[6], edited[7] = edited[6] > 0, edited[7] > 0
        zero(edited, 17, 20)
    elif kind == 2:
        (count,) = struct.unpack_from(">H", edited, 2)
        numbers = [n for n in struct.unpack_from(f">{count}i", edited, 4) if kept(n)]
        return struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers)
    elif kind == 3:
        x, y, w, h = struct.unpack_from(">4H", edited, 2)
        struct.pack_into(">2H", edited, 6, min(w, size[0] - x), min(h, size[1] - y))
    elif kind == 4:
        zero(edited, 2, 4)
    elif kind in (6, 248):
        zero(edited, 1, 4)
    elif kind == 251:
        edited[1] = edited[7] = 0
    return bytes(edited)


def expected_up(capture: Capture, lines: list[dict[str, Any]]) -> bytes:
    """The viewer's messages, each corrected: the lists cut, padding zero, flags 0 or 1, areas
    inside the framebuffer. No recorded viewer points outside it."""
    stream = capture.stream(FROM_VIEWER)
    size = (capture.expected["server_init"]["width"], capture.expected["server_init"]["height"])
    starts, sizes = [], []
    for line in lines:
        if line.get("ev") == "resize":
            size = (line["w"], line["h"])
        if line["d"] == "c" and "msg" in line:
            starts.append(line["off"])
            sizes.append(size)
    ends = [line["end"] for line in lines if line["d"] == "c" and "done" in line]
    assert starts == [capture.expected["client_messages_start"], *ends[:-1]]
    assert ends[-1] == len(stream)
    bounds = zip(starts, ends, sizes, strict=True)
    return b"".join(corrected(stream[a:b], size) for a, b, size in bounds)


ALL = captures.names()
REPLAYED = [name for name in ALL if not left_out(captures.load(name))]
if not ALL:
    # One test that tells why nothing is replayed.
    ALL = REPLAYED = ["tiger-novnc-basic"]

CUTS: dict[str, Callable[[random.Random, bytes], list[bytes]]] = {
    "as recorded": lambda _, data: [data],
    "byte by byte": lambda _, data: [data[i : i + 1] for i in range(len(data))],
}


def at_random(rng: random.Random, data: bytes) -> list[bytes]:
    cuts = sorted(rng.sample(range(len(data) + 1), min(rng.randint(1, 12), len(data))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


for _seed in range(3):
    CUTS[f"at random, seed {_seed}"] = at_random


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", REPLAYED)
def test_replayed(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = captures.load(name)
    expected = capture.expected
    lines = oracle(capture)
    replay = Replay(capture, monkeypatch)
    rng = random.Random(how)
    replay.feed(lambda data: CUTS[how](rng, data))

    down, up = replay.feeders[FROM_DESKTOP], replay.feeders[FROM_VIEWER]
    assert not down.tail
    assert not up.tail
    assert not down.reader.opaque
    assert not up.reader.opaque

    for way, key in ((FROM_DESKTOP, "server_messages"), (FROM_VIEWER, "client_messages")):
        side = "sc"[way == FROM_VIEWER]
        found = replay.messages[way]
        assert found == [(e["msg"], e["off"]) for e in lines if e["d"] == side and "msg" in e]
        assert Counter(str(number) for number, _ in found) == expected[key]
    # LastRect has no payload to measure; the messages behind it are where they should be.
    last = encodings.LAST_RECT
    assert replay.rectangles == [
        (e["rect"], e["off"]) for e in lines if "rect" in e and e["rect"] != last
    ]
    counted = Counter(str(number) for number, _ in replay.rectangles)
    assert counted == {n: c for n, c in expected["rects"].items() if n != str(last)}

    state = replay.conversation.state
    assert [state.width, state.height] == expected["final_framebuffer"]
    assert bytes(down.forwarded) == expected_down(capture, lines)
    assert bytes(up.forwarded) == expected_up(capture, lines)


def test_every_session_is_replayed() -> None:
    reasons = {name: left_out(captures.load(name)) for name in ALL}
    assert [name for name in ALL if not reasons[name]] == REPLAYED
    assert set(reasons.values()) <= {"", "no RFB session in it"}
    assert reasons["tiger-vncviewer-tlsnone"] == "no RFB session in it"


def test_every_real_encoding_is_in_some_replayed_capture() -> None:
    seen = {number for name in REPLAYED for number in rectangles(captures.load(name))}
    # No recorded server sent zlibhex, Ultra2, TRLE, Open H.264 or TightPNG.
    assert {n for n, e in encodings.REGISTRY.items() if e.pixels} - {8, 10, 15, 50, -260} <= seen
