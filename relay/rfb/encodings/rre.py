"""RRE (RFC 6143, Section 7.7.3): a background and sub-rectangles of one colour each."""

from __future__ import annotations

import struct
from collections.abc import Generator

from relay.rfb.encodings.base import Walker, Window, u32
from relay.rfb.errors import Violation
from relay.rfb.state import State

_area = struct.Struct(">HHHH")


class RRE(Walker):
    number = 2
    name = "RRE"
    element_limit_bytes = 4 + 8  # a pixel and an area
    area = _area

    def walk(self, w: int, h: int, state: State) -> Generator[int, Window, int]:
        bytes_per_pixel = state.bytes_per_pixel
        area = self.area.unpack_from
        buf, pos, stop = yield 0
        while stop - pos < 4 + bytes_per_pixel:
            buf, pos, stop = yield pos
        (left,) = u32(buf, pos)
        # Every sub-rectangle paints a pixel at least. The product of count and size wrapped in
        # 32 bits in several viewers (TigerVNC's RREDecoder, libvncclient).
        if left > w * h:
            raise Violation("rre-count", f"{left} sub-rectangles in {w}x{h}", pos)
        pos += 4 + bytes_per_pixel
        step = bytes_per_pixel + self.area.size
        while left:
            if stop - pos < step:
                buf, pos, stop = yield pos
                continue
            sx, sy, sw, sh = area(buf, pos + bytes_per_pixel)
            if sx + sw > w or sy + sh > h:
                raise Violation(
                    "rre-subrectangle", f"sub-rectangle {sx},{sy} {sw}x{sh} outside {w}x{h}", pos
                )
            pos += step
            left -= 1
        return pos
