"""Feeds a conversation in every way bytes can arrive, and demands one outcome."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from relay.limits import Limits
from relay.rfb import from_desktop, from_viewer
from relay.rfb.conversation import Conversation
from relay.rfb.errors import ProtocolError
from relay.rfb.from_desktop import FromDesktop
from relay.rfb.from_viewer import FromViewer
from tests.peers import INIT

Make = Callable[[], Conversation]

TAILS = {"down": from_desktop.TAIL_LIMIT_BYTES, "up": from_viewer.TAIL_LIMIT_BYTES}


@dataclass(frozen=True)
class Outcome:
    """What came of it: the bytes to forward, and the error as (offset, where, text)."""

    forwarded: bytes
    error: tuple[int, str, str] | None = None


def conversation(*offers: int, limits: Limits | None = None) -> Conversation:
    """A conversation over 640x480 at 32 bits per pixel, after a SetEncodings with `offers`."""
    made = Conversation(INIT, limits or Limits())
    if offers:
        message = bytearray(b"\x02\0" + len(offers).to_bytes(2, "big"))
        for number in offers:
            message += (number & 0xFFFFFFFF).to_bytes(4, "big")
        assert made.up.judge(message, 0, len(message)) == len(message)
    return made


class Feeder:
    """One direction, fed in pieces; keeps the tail as a leg does."""

    def __init__(self, reader: FromDesktop | FromViewer, tail_limit_bytes: int) -> None:
        self.reader = reader
        self._limit = tail_limit_bytes
        self.tail = b""
        self.forwarded = bytearray()

    def feed(self, data: bytes) -> None:
        # Not at the start of the buffer, and with bytes behind: positions must be honoured.
        buf = bytearray(b"\xaa" * 3 + self.tail + data + b"\xbb" * 3)
        stop = len(buf) - 3
        end = self.reader.judge(buf, 3, stop)
        at = 3
        for first, behind, replacement in self.reader.edits:
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


def run(make: Make, way: str, wire: bytes, cuts: list[int]) -> Outcome:
    feeder = Feeder(getattr(make(), way), TAILS[way])
    before = feeder.reader.offset
    try:
        for first, behind in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            feeder.feed(wire[first:behind])
    except ProtocolError as error:
        return Outcome(b"", (error.offset - before, error.where, error.args[0]))
    assert not feeder.tail, "the message is not whole"
    assert not feeder.reader.opaque
    return Outcome(bytes(feeder.forwarded))


def check(make: Make, way: str, wire: bytes, expected: bytes | None = None) -> None:
    """`wire` passes as `expected` (as itself if None), however it is cut."""
    wanted = Outcome(wire if expected is None else expected)
    for cuts in chunkings(len(wire)):
        assert run(make, way, wire, cuts) == wanted, cuts


def check_refused(make: Make, way: str, wire: bytes, offset: int, where: str) -> None:
    """`wire` is refused at `offset` for the same reason, however it is cut."""
    reasons = set()
    for cuts in chunkings(len(wire)):
        outcome = run(make, way, wire, cuts)
        assert outcome.error is not None, cuts
        assert outcome.error[:2] == (offset, where), cuts
        reasons.add(outcome.error[2])
    assert len(reasons) == 1
