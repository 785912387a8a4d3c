"""zlib (community specification, Zlib Encoding): a length and a deflated Raw payload."""

from __future__ import annotations

from relay.rfb.encodings.base import NEED, Prefixed, u32
from relay.rfb.errors import Violation
from relay.rfb.state import State


class Zlib(Prefixed):
    number = 6
    name = "zlib"
    element_limit_bytes = 4

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        if stop - pos < 4:
            return NEED
        (length,) = u32(buf, pos)
        # Deflate expands incompressible data by a few bytes per 16 KiB; twice is far beyond.
        if length > 2 * w * h * state.bytes_per_pixel + 4096:
            raise Violation("zlib-length", f"{length} bytes for {w}x{h}")
        return 4 + int(length)
