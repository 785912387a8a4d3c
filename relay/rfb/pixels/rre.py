"""RRE (RFC 6143, Section 7.7.3): a background and sub-rectangles of one colour each."""

from __future__ import annotations

import numpy as np

from relay.rfb.errors import Violation
from relay.rfb.pixels.canvas import Canvas, Steps

_AT_ONCE = 4096
"""Sub-rectangles asked for at a time: a rectangle may have as many as pixels."""

_COVERED_AT_MOST = 4
"""How often they cover their rectangle. The specification parts it by them, so once; but each could
be as large as all of it."""


def decode(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    return paint(canvas, x, y, w, h, np.dtype(">u2"))


def paint(
    canvas: Canvas, x: int, y: int, w: int, h: int, side: np.dtype[np.unsignedinteger]
) -> Steps:
    """`side` is how x, y, width and height of a sub-rectangle are written."""
    pixel_bytes = canvas.pixel_format.bytes_per_pixel
    head = yield 4 + pixel_bytes
    left = int.from_bytes(head[:4], "big")
    if left > w * h:
        raise Violation("rre-count", f"{left} sub-rectangles in {w}x{h}")
    area = canvas.area(x, y, w, h)
    area[:] = canvas.decode(head[4:])
    step = pixel_bytes + 4 * side.itemsize
    left_px = _COVERED_AT_MOST * w * h
    while left:
        count = min(left, _AT_ONCE)
        rows = np.frombuffer((yield count * step), np.uint8).reshape(count, step)
        colours = canvas.decode(rows[:, :pixel_bytes].tobytes())
        places = np.frombuffer(rows[:, pixel_bytes:].tobytes(), side).reshape(count, 4)
        for colour, (sx, sy, sw, sh) in zip(colours, places.tolist(), strict=True):
            if sx + sw > w or sy + sh > h:
                raise Violation(
                    "rre-subrectangle", f"sub-rectangle {sx},{sy} {sw}x{sh} outside {w}x{h}"
                )
            left_px -= sw * sh
            if left_px < 0:
                raise Violation("rre-area", f"sub-rectangles of far more pixels than {w}x{h}")
            area[sy : sy + sh, sx : sx + sw] = colour
        left -= count
