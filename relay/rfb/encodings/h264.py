"""Open H.264 (community specification, Open H.264 Encoding): a length, flags, and frames."""

from __future__ import annotations

from relay.rfb.encodings.base import NEED, Prefixed, u32
from relay.rfb.errors import Violation
from relay.rfb.state import State


class H264(Prefixed):
    """An empty one only resets a viewer's contexts. Unknown flags are a viewer's to ignore."""

    number = 50
    name = "Open H.264"
    element_limit_bytes = 8

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        if stop - pos < 8:
            return NEED
        (length,) = u32(buf, pos)
        # A whole picture is less than the pixels; several may be in one rectangle.
        if length > 2 * w * h * 4 + 65_536:
            raise Violation("h264-length", f"{length} bytes for {w}x{h}")
        return 8 + int(length)
