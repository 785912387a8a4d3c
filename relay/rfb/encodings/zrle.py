"""ZRLE (RFC 6143, Section 7.7.6) and ZYWRLE: a length and deflated tiles."""

from __future__ import annotations

from relay.rfb.encodings.base import NEED, Prefixed, u32
from relay.rfb.errors import Violation
from relay.rfb.state import State


class ZRLE(Prefixed):
    number = 16
    name = "ZRLE"
    element_limit_bytes = 4

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        if stop - pos < 4:
            return NEED
        (length,) = u32(buf, pos)
        tiles = ((w + 63) // 64) * ((h + 63) // 64)
        if length > 2 * w * h * state.cpixel_bytes + 64 * tiles + 4096:
            raise Violation("zrle-length", f"{length} bytes for {w}x{h}")
        return 4 + int(length)


class ZYWRLE(ZRLE):
    """ZRLE whose tiles went through a wavelet: lossy, and framed alike (libvncclient)."""

    number = 17
    name = "ZYWRLE"
