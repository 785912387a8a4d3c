"""Feeds a conversation in every way bytes can arrive, and demands one outcome."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from relay.rfb import from_desktop, from_viewer
from relay.rfb.conversation import Conversation
from relay.rfb.errors import CloseCode, Direction, ProtocolError
from relay.rfb.from_desktop import FromDesktop
from relay.rfb.from_viewer import FromViewer
from relay.rfb.state import State
from tests.labs.peers import BELL
from tests.labs.rfb_messages import KEY

Make = Callable[[], Conversation]

TAILS = {"down": from_desktop.TAIL_LIMIT_BYTES, "up": from_viewer.TAIL_LIMIT_BYTES}
BLAME = {
    "down": (Direction.DOWN, CloseCode.DESKTOP_FAULT),
    "up": (Direction.UP, CloseCode.POLICY),
}
SHORT = {"down": BELL, "up": KEY}
"""A message that goes through whatever came before."""


@dataclass(frozen=True)
class Outcome:
    """What came of it: the bytes to forward, what both sides then know of each other, and the
    error as (offset, where, text)."""

    forwarded: bytes
    known: dict[str, Any] = field(default_factory=dict)
    error: tuple[int, str, str] | None = None


class Feeder:
    """One direction, fed in pieces; keeps the tail as a leg does, and presents it again."""

    BEFORE = 3
    """Bytes that stand in the buffer before the window."""

    def __init__(self, reader: FromDesktop | FromViewer, tail_limit_bytes: int) -> None:
        self.reader = reader
        self._limit = tail_limit_bytes
        self.tail = b""
        self.forwarded = bytearray()

    def feed(self, data: bytes) -> None:
        # Not at the start of the buffer, and with bytes behind: positions must be honoured. Those
        # bytes differ, for a reader that looks at them may find what does no harm.
        before, behind_it = b"\xaa" * self.BEFORE, (b"\0" if len(data) == 1 else b"\xbb") * 3
        buf = bytearray(before + self.tail + data + behind_it)
        stop = len(buf) - 3
        end = self.reader.judge(buf, self.BEFORE, stop)
        assert buf.startswith(before)
        assert buf.endswith(behind_it)
        at = self.BEFORE
        for first, behind, replacement in self.reader.edits:
            assert at <= first <= behind <= end
            self.forwarded += buf[at:first] + replacement
            at = behind
        self.forwarded += buf[at:end]
        assert not self.reader.opaque or end == stop
        self.tail = bytes(buf[end:stop])
        assert len(self.tail) <= self._limit


def chunkings(size: int) -> Iterator[list[int]]:
    """Cut positions: none, every byte, every single cut, 50 seeded sets of cuts."""
    yield []
    yield list(range(1, size))
    if size <= 2000:
        for cut in range(1, size):
            yield [cut]
    rng = random.Random(size)
    for _ in range(50):
        yield sorted(rng.sample(range(1, size), min(size - 1, rng.randint(1, 9))))


def known(made: Conversation) -> dict[str, Any]:
    """The shared state and what each reader counts."""
    state = {name: getattr(made.state, name) for name in State.__slots__}
    return state | {
        "allowed": sorted(made.flow.offers.allowed),
        "inputs": made.up.inputs,
        "offsets": (made.down.offset, made.up.offset),
    }


def run(make: Make, way: str, wire: bytes, cuts: list[int]) -> Outcome:
    made = make()
    feeder = Feeder(getattr(made, way), TAILS[way])
    before = feeder.reader.offset
    try:
        for first, behind in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            feeder.feed(wire[first:behind])
    except ProtocolError as error:
        fault = error
    else:
        assert not feeder.tail, "the message is not whole"
        assert not feeder.reader.opaque
        assert feeder.reader.offset - before == len(wire)
        return Outcome(bytes(feeder.forwarded), known(made))
    assert (fault.direction, fault.close_code) == BLAME[way]
    place = (fault.offset - before, fault.where, fault.args[0])
    return Outcome(bytes(feeder.forwarded), error=place)


def check(make: Make, way: str, wire: bytes, expected: bytes | None = None) -> Conversation:
    """`wire` passes as `expected` (as itself if None), and leaves the same state, however it is
    cut. Returns a conversation that has read it."""
    whole = run(make, way, wire, [])
    assert whole == Outcome(wire if expected is None else expected, whole.known)
    for cuts in chunkings(len(wire)):
        assert run(make, way, wire, cuts) == whole, cuts
    made = make()
    Feeder(getattr(made, way), TAILS[way]).feed(wire)
    return made


def passes(make: Make, way: str, *messages: bytes, expected: bytes | None = None) -> Conversation:
    """As `check`, and it is so many messages: a length that is read wrong would swallow some."""
    behind = SHORT[way]
    wanted = None if expected is None else expected + behind
    made = check(make, way, b"".join(messages) + behind, wanted)
    before: int = getattr(make(), way).messages
    assert getattr(made, way).messages == before + len(messages) + 1
    return made


def passes_head(make: Make, way: str, wire: bytes, opaque: int) -> None:
    """`wire` ends with the head of a payload of which `opaque` bytes are still to come."""
    for cuts in chunkings(len(wire)):
        feeder = Feeder(getattr(make(), way), TAILS[way])
        for first, behind in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            feeder.feed(wire[first:behind])
        assert not feeder.tail
        assert feeder.reader.opaque == opaque


def check_refused(make: Make, way: str, wire: bytes, offset: int, where: str) -> str:
    """`wire` is refused at `offset` for the same reason, which is returned, however it is cut;
    and nothing from `offset` on is let through."""
    reasons = set()
    for cuts in chunkings(len(wire)):
        outcome = run(make, way, wire, cuts)
        assert outcome.error is not None, cuts
        assert outcome.error[:2] == (offset, where), cuts
        assert len(outcome.forwarded) <= offset, cuts
        reasons.add(outcome.error[2])
    (reason,) = reasons
    return reason


def refused(make: Make, way: str, wire: bytes, offset: int, where: str) -> str:
    """As `check_refused`; returns the word of the rule that refuses it."""
    check_refused(make, way, wire, offset, where)
    with pytest.raises(ProtocolError) as caught:
        Feeder(getattr(make(), way), TAILS[way]).feed(wire)
    return caught.value.rule


def rectangle(name: str, index: int = 0) -> str:
    """Where a fault in a rectangle of an encoding is said to be."""
    return f"FramebufferUpdate > rectangle {index} > {name}"
