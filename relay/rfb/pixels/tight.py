"""Tight and TightPNG (community specification, Tight Encoding and Tight PNG Encoding): one colour,
an image, or filtered and deflated pixels."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from relay.rfb.encodings.tight import MAX_WIDTH_PX, UNCOMPRESSED_BELOW_BYTES
from relay.rfb.errors import Violation
from relay.rfb.pixels.canvas import (
    OPAQUE,
    Array,
    Canvas,
    Steps,
    Taken,
    look_up,
    packed_bytes,
    unpack,
)

_FILL, _JPEG, _PNG = 8, 9, 10

_MAX_SCANS = 64
"""Of a JPEG. Each costs a pass over the whole image however few bytes it has; servers send one,
progressive files have about ten."""

_Colours = Generator[int, bytes, Array]
"""Steps that return a rectangle's colours, whose shape may lack that of the rectangle."""


def decode(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    return _decode(canvas, x, y, w, h, _TIGHT)


def decode_png(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    # QEMU and libvncserver have no PNG at 8 bits per pixel, and send what Tight has.
    basic = canvas.pixel_format.bits_per_pixel == 8
    return _decode(canvas, x, y, w, h, _TIGHT_PNG | _BASIC if basic else _TIGHT_PNG)


def _decode(canvas: Canvas, x: int, y: int, w: int, h: int, kinds: dict[int, _Kind]) -> Steps:
    (control,) = yield 1
    for number, stream in enumerate(canvas.tight):
        if control >> number & 1:
            stream.reset()
    kind = kinds.get(control >> 4)
    if kind is None:
        raise Violation("tight-control", f"compression control {control >> 4}")
    # A gradient takes seven times its pixels' memory while it is undone.
    if w > MAX_WIDTH_PX and control >> 4 != _FILL:
        raise Violation("tight-width", f"{w} pixels wide, more than {MAX_WIDTH_PX}")
    colours = yield from kind(canvas, control >> 4, w, h)
    canvas.area(x, y, w, h)[:] = colours


def _fill(canvas: Canvas, _control: int, _w: int, _h: int) -> _Colours:
    return canvas.decode_tpixels((yield canvas.pixel_format.tpixel_bytes))


def _basic(canvas: Canvas, control: int, w: int, h: int) -> _Colours:
    number = (yield 1)[0] if control & 4 else 0
    if number not in _FILTERS:
        raise Violation("tight-filter", f"filter {number}")
    return (yield from _FILTERS[number](canvas, control & 3, w, h))


def _copy(canvas: Canvas, stream: int, w: int, h: int) -> _Colours:
    data = yield from _deflated(canvas, stream, w * h * canvas.pixel_format.tpixel_bytes)
    return canvas.decode_tpixels(data).reshape(h, w, 4)


def _palette(canvas: Canvas, stream: int, w: int, h: int) -> _Colours:
    count = (yield 1)[0] + 1
    palette = canvas.decode_tpixels((yield count * canvas.pixel_format.tpixel_bytes))
    bits = 1 if count <= 2 else 8
    data = yield from _deflated(canvas, stream, packed_bytes(w, h, bits))
    return look_up(palette, unpack(data, w, h, bits))


def _gradient(canvas: Canvas, stream: int, w: int, h: int) -> _Colours:
    pixel_format = canvas.pixel_format
    if pixel_format.bits_per_pixel == 8 or not pixel_format.true_colour:
        raise Violation("tight-gradient", "gradient filter at 8 bits per pixel or with a map")
    data = yield from _deflated(canvas, stream, w * h * pixel_format.tpixel_bytes)
    differences = canvas.tpixel_channels(data).reshape(h, w, 3)
    maxima = (pixel_format.red_max, pixel_format.green_max, pixel_format.blue_max)
    values = _integrated(differences, np.array(maxima, np.int32))
    return canvas.shade(values.reshape(-1, 3)).reshape(h, w, 4)


def _integrated(differences: NDArray[np.uint16], maxima: NDArray[np.int32]) -> NDArray[np.uint16]:
    """Undoes the gradient filter. Both are (h, w, 3).

    A value depends on those to its left and above it, so all on one rising diagonal can be had at
    once: with a row and a column of zeros before, they stand `w` apart in memory.
    """
    h, w, _ = differences.shape
    padded = np.zeros((h + 1, w + 1, 3), np.int32)
    padded[1:, 1:] = differences
    row = w + 1
    flat = padded.reshape(-1, 3)
    for diagonal in range(w + h - 1 if w and h else 0):
        top = max(0, diagonal - w + 1)
        count = min(h - 1, diagonal) - top + 1
        first = (top + 1) * row + diagonal - top + 1
        behind = first + (count - 1) * w + 1
        here = flat[first:behind:w]
        left, above, corner = (flat[first - back : behind - back : w] for back in (1, row, row + 1))
        here += np.clip(left + above - corner, 0, maxima)
        here &= maxima
    return padded[1:, 1:].astype(np.uint16)


def _deflated(canvas: Canvas, stream: int, size: int) -> Taken:
    """Bytes behind a filter; few are not deflated."""
    if size < UNCOMPRESSED_BELOW_BYTES:
        return (yield size)
    length = yield from _compact_length()
    # The framing's limit (relay/rfb/encodings/tight.py).
    limit = size + size // 8 + 4096
    if length > limit:
        raise Violation("tight-length", f"{length} bytes, at most {limit} make sense")
    return canvas.tight[stream].inflate_all((yield length), size)


def _compact_length() -> Generator[int, bytes, int]:
    (byte,) = yield 1
    length = byte & 127
    if byte > 127:
        (byte,) = yield 1
        length |= (byte & 127) << 7
        if byte > 127:
            (byte,) = yield 1
            length |= byte << 14
    return length


def _image(_canvas: Canvas, control: int, w: int, h: int) -> _Colours:
    length = yield from _compact_length()
    # The framing's limit (relay/rfb/encodings/tight.py).
    limit = 8 * w * h + 65_536
    if length > limit:
        raise Violation("image-length", f"an image of {length} bytes, at most {limit} make sense")
    data = yield length
    if control == _JPEG and data.count(b"\xff\xda") > _MAX_SCANS:
        raise Violation("image-data", f"more than {_MAX_SCANS} scans")
    try:
        # Reads as far as the size. Not Image.open, which warns of large ones, and would take a
        # file of another kind.
        image = _READERS[control](io.BytesIO(data))
        if image.size != (w, h):
            raise Violation("image-size", f"{image.size[0]}x{image.size[1]} in {w}x{h}")
        # Not RGB: Pillow warns where it has to drop transparency.
        colours = np.array(image.convert("RGBA"))
    except _BROKEN as error:
        raise Violation("image-data", f"a broken image: {error}") from None
    colours[..., 3] = OPAQUE
    return colours


_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError)
"""What Pillow raises for a file that is none, is cut off or makes no sense."""

_READERS: dict[int, Callable[[io.BytesIO], ImageFile]] = {_JPEG: JpegImageFile, _PNG: PngImageFile}

_FILTERS = {0: _copy, 1: _palette, 2: _gradient}

_Kind = Callable[[Canvas, int, int, int], _Colours]
"""Reads what follows a control byte: canvas, its upper four bits, w, h."""

_BASIC: dict[int, _Kind] = dict.fromkeys(range(8), _basic)
_TIGHT_PNG: dict[int, _Kind] = {_FILL: _fill, _JPEG: _image, _PNG: _image}
_TIGHT: dict[int, _Kind] = _BASIC | {_FILL: _fill, _JPEG: _image}
