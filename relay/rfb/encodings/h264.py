"""Open H.264 (community specification, Open H.264 Encoding): a length, flags, and frames."""

from __future__ import annotations

from relay.rfb.encodings.base import NEED, Prefixed, u32
from relay.rfb.errors import Violation
from relay.rfb.state import State

LIMIT_BYTES = 4_194_304
"""Frames of several moments may be in one rectangle, so its size says nothing."""


class H264(Prefixed):
    """An empty one only resets a viewer's contexts. Unknown flags are a viewer's to ignore."""

    number = 50
    name = "Open H.264"
    element_limit_bytes = 8

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        if stop - pos < 8:
            return NEED
        (length,) = u32(buf, pos)
        if length > LIMIT_BYTES:
            raise Violation("h264-length", f"{length} bytes, at most {LIMIT_BYTES} make sense")
        return 8 + int(length)
