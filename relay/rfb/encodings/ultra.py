"""UltraVNC's encodings (registered, not described): a length, then bytes packed with LZO or JPEG.

How to frame them is read from UltraVNC's viewer and libvncclient.
"""

from __future__ import annotations

from relay.rfb.encodings.base import NEED, Prefixed, u32
from relay.rfb.errors import Violation
from relay.rfb.state import State


class Ultra(Prefixed):
    number = 9
    name = "Ultra"
    element_limit_bytes = 4

    def limit(self, w: int, h: int, state: State) -> int:
        """Payload in bytes, at most. LZO adds a sixteenth to what it cannot pack."""
        return 2 * w * h * state.bytes_per_pixel + 4096

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        if stop - pos < 4:
            return NEED
        (length,) = u32(buf, pos)
        if length > self.limit(w, h, state):
            raise Violation("ultra-length", f"{length} bytes for {w}x{h}")
        return 4 + int(length)


class Ultra2(Ultra):
    """The payload is a JPEG image."""

    number = 10
    name = "Ultra2"

    def limit(self, w: int, h: int, state: State) -> int:
        return 2 * w * h * 4 + 65_536


class UltraZip(Ultra):
    """Many rectangles packed as one: x is their number, y and w the size unpacked."""

    number = -65527
    name = "UltraZip"
    pixels = False

    def limit(self, w: int, h: int, state: State) -> int:
        rectangles = 65_535 * 12
        return 2 * (state.width * state.height * state.bytes_per_pixel + rectangles) + 4096
