"""zlib (community specification, zlib Encoding): a length and a deflated Raw payload."""

from __future__ import annotations

from relay.rfb.pixels.canvas import Canvas, Steps, prefixed


def decode(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    size = w * h * canvas.pixel_format.bytes_per_pixel
    # The framing's limit (relay/rfb/encodings/zlib.py).
    deflated = yield from prefixed("zlib-length", 2 * size + 4096)
    pixels = canvas.decode(canvas.zlib.inflate_all(deflated, size))
    canvas.area(x, y, w, h)[:] = pixels.reshape(h, w, 4)
