"""Raw (RFC 6143, Section 7.7.1): the pixels themselves, row by row."""

from __future__ import annotations

from relay.rfb.pixels.canvas import Canvas, Steps


def decode(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    pixels = canvas.decode((yield w * h * canvas.pixel_format.bytes_per_pixel))
    canvas.area(x, y, w, h)[:] = pixels.reshape(h, w, 4)
