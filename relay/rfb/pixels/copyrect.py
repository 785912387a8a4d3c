"""CopyRect (RFC 6143, Section 7.7.2): an area of the canvas once more, in another place."""

from __future__ import annotations

import struct

from relay.rfb.errors import Violation
from relay.rfb.pixels.canvas import Canvas, Steps

_source = struct.Struct(">HH")


def decode(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    from_x, from_y = _source.unpack((yield _source.size))
    height, width = canvas.pixels.shape[:2]
    if from_x + w > width or from_y + h > height:
        raise Violation(
            "copyrect-source", f"copies from {from_x},{from_y} {w}x{h}, outside the framebuffer"
        )
    # The two may overlap, as in scrolling.
    canvas.area(x, y, w, h)[:] = canvas.area(from_x, from_y, w, h).copy()
