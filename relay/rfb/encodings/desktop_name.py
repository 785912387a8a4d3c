"""DesktopName (community specification, DesktopName Pseudo-encoding): a length and the name."""

from __future__ import annotations

from relay.rfb.encodings.base import NEED, Prefixed, u32
from relay.rfb.errors import Violation
from relay.rfb.state import State


class DesktopName(Prefixed):
    number = -307
    name = "DesktopName"
    pixels = False
    element_limit_bytes = 4

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        if stop - pos < 4:
            return NEED
        (length,) = u32(buf, pos)
        if length > state.bounds.name_bytes:
            raise Violation("name-length", f"a name of {length} bytes")
        return 4 + int(length)

    def applied(
        self, buf: bytearray, pos: int, x: int, y: int, w: int, h: int, state: State
    ) -> bool:
        # All four must be zero. TigerVNC's reader ignores the name otherwise.
        return bool(x or y or w or h)
