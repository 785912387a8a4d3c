"""Cursors: Cursor (RFC 6143, Section 7.8.1), XCursor and CursorWithAlpha (community
specification). x and y are the hot spot; one without pixels is hidden."""

from __future__ import annotations

import numpy as np

from relay.rfb.errors import Violation
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.pixels import hextile, raw, tight, zrle
from relay.rfb.pixels.canvas import (
    OPAQUE,
    Array,
    Canvas,
    Cursor,
    Decoder,
    Steps,
    packed_bytes,
    unpack,
)

MAX_SIDE_PX = 1024
"""Nothing else bounds a shape, for it need not fit on the canvas. Viewers take 256 (TigerVNC)."""

_RGBA = PixelFormat(32, 32, False, True, 255, 255, 255, 0, 8, 16)

_INNER: dict[int, Decoder] = {
    0: raw.decode,
    5: hextile.decode,
    7: tight.decode,
    16: zrle.decode,
}
"""What CursorWithAlpha may hold (relay/rfb/encodings/cursor.py)."""


def decode(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    """Cursor: pixels and a mask."""
    _check_size(w, h)
    pixels = canvas.decode((yield w * h * canvas.pixel_format.bytes_per_pixel))
    mask = yield packed_bytes(w, h, 1)
    canvas.cursor = _masked(pixels.reshape(h, w, 4), mask, x, y)


def decode_x(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    """XCursor: two colours of three bytes, a bitmap that chooses between them, and a mask."""
    _check_size(w, h)
    image = np.zeros((h, w, 4), np.uint8)
    mask = b""
    if image.size:
        primary, secondary = np.frombuffer((yield 6), np.uint8).reshape(2, 3)
        bitmap = unpack((yield packed_bytes(w, h, 1)), w, h, 1)
        image[..., :3] = np.where(bitmap[..., np.newaxis], primary, secondary)
        mask = yield packed_bytes(w, h, 1)
    canvas.cursor = _masked(image, mask, x, y)


def decode_with_alpha(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    """CursorWithAlpha: an encoding and its payload, whose pixels are red, green, blue and alpha,
    the colours multiplied with it."""
    _check_size(w, h)
    number = int.from_bytes((yield 4), "big", signed=True)
    inner = _INNER.get(number)
    if inner is None:
        raise Violation("cursor-encoding", f"encoding {number} inside a cursor")
    shape = _Shape(canvas, w, h)
    yield from inner(shape, 0, 0, w, h)
    image = shape.pixels
    alpha = image[..., 3:].astype(np.uint16)
    colours = (image[..., :3] * np.uint16(255) + alpha // 2) // np.maximum(alpha, 1)
    image[..., :3] = np.minimum(colours, 255)
    canvas.cursor = Cursor(image, x, y)


class _Shape(Canvas):
    """A canvas for a shape, with alpha. Its zlib streams are the screen's."""

    def __init__(self, screen: Canvas, width: int, height: int) -> None:
        super().__init__(width, height, _RGBA)
        self.zlib, self.zrle, self.tight = screen.zlib, screen.zrle, screen.tight

    def decode(self, pixel_bytes: bytes) -> Array:
        return np.frombuffer(pixel_bytes, np.uint8).reshape(-1, 4)


def _check_size(w: int, h: int) -> None:
    if max(w, h) > MAX_SIDE_PX:
        raise Violation("cursor-size", f"a cursor of {w}x{h}")


def _masked(image: Array, mask: bytes, x: int, y: int) -> Cursor:
    h, w = image.shape[:2]
    image[..., 3] = unpack(mask, w, h, 1) * OPAQUE
    return Cursor(image, x, y)


def draw(cursor: Cursor, x: int, y: int, picture: Array) -> None:
    """Draws a cursor that points at x, y on a picture, which may have but a part of it."""
    left, top = x - cursor.hot_x, y - cursor.hot_y
    height, width = cursor.image.shape[:2]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, picture.shape[1]), min(top + height, picture.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    shape = cursor.image[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.uint16)
    under = picture[y0:y1, x0:x1]
    alpha = shape[..., 3:]
    under[..., :3] = (shape[..., :3] * alpha + under[..., :3] * (255 - alpha) + 127) // 255
