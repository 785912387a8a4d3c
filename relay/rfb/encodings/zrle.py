"""ZRLE (RFC 6143, Section 7.7.6) and ZYWRLE: a length and deflated tiles."""

from __future__ import annotations

from relay.rfb.encodings.base import NEED, Prefixed, u32
from relay.rfb.errors import Violation
from relay.rfb.state import State

_DEFLATE_32K = 0x78
"""How every zlib stream of a VNC server begins (RFC 1950, Section 2.2)."""


class ZRLE(Prefixed):
    number = 16
    name = "ZRLE"
    element_limit_bytes = 4 + 1

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        if stop - pos < 4:
            return NEED
        (length,) = u32(buf, pos)
        tiles = ((w + 63) // 64) * ((h + 63) // 64)
        if length > 2 * w * h * state.cpixel_bytes + 64 * tiles + 4096:
            raise Violation("zrle-length", f"{length} bytes for {w}x{h}")
        if length and not state.zrle_begun:
            if stop - pos < 5:
                return NEED
            if buf[pos + 4] != _DEFLATE_32K:
                raise Violation("zrle-header", f"a zlib stream begins with 0x{buf[pos + 4]:02x}")
            state.zrle_begun = True
        return 4 + int(length)


class ZYWRLE(ZRLE):
    """ZRLE whose tiles went through a wavelet: lossy, and framed alike (libvncclient)."""

    number = 17
    name = "ZYWRLE"
