"""Raw (RFC 6143, Section 7.7.1): the pixels themselves, row by row, no padding."""

from __future__ import annotations

from relay.rfb.encodings.base import Fixed
from relay.rfb.state import State


class Raw(Fixed):
    number = 0
    name = "Raw"

    def size(self, w: int, h: int, state: State) -> int:
        return w * h * state.bytes_per_pixel
