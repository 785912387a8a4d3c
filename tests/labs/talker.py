"""A desktop that talks without listening: logins against it, in every way bytes can arrive."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import trio

from relay import DesktopEnd, DesktopError, Password, log_in
from relay.rfb.handshake import ServerInit
from tests.labs.splits import chunkings


class Talker(trio.abc.Stream):
    """A desktop that says `wire` in pieces, whatever it is told, and then ends the stream; it
    notes after how many bytes it was told what."""

    def __init__(self, wire: bytes, cuts: list[int]) -> None:
        bounds = [0, *cuts, len(wire)]
        self._pieces = [wire[a:b] for a, b in pairwise(bounds) if a < b]
        self.said = 0
        self.told: list[tuple[int, bytes]] = []
        self.closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._pieces:
            return b""
        piece = self._pieces[0][:max_bytes]
        self._pieces[0] = self._pieces[0][len(piece) :]
        if not self._pieces[0]:
            del self._pieces[0]
        self.said += len(piece)
        return piece

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append((self.said, bytes(data)))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@dataclass
class Outcome:
    """What came of a login, and when the desktop was told what, if it spoke single bytes."""

    told: list[tuple[int, bytes]] = field(default_factory=list)
    init: ServerInit | None = None
    version: str = ""
    security_type: int = 0
    refusal: str = ""


async def outcome(wire: bytes, password: Password | None, cuts: list[int]) -> Outcome:
    talker = Talker(wire, cuts)
    try:
        end: DesktopEnd = await log_in(talker, password=password)
    except DesktopError as error:
        assert talker.closed
        return Outcome(talker.told, refusal=str(error))
    assert not talker.closed
    return Outcome(talker.told, end.init, end.version, end.security_type)


async def check(wire: bytes, password: Password | None = None) -> Outcome:
    """The same comes of it however the desktop's bytes arrive."""
    single = await outcome(wire, password, list(range(1, len(wire))))
    for cuts in chunkings(len(wire)) if wire else [[]]:
        other = await outcome(wire, password, cuts)
        assert [data for _, data in other.told] == [data for _, data in single.told], cuts
        other.told = single.told
        assert other == single, cuts
    return single
