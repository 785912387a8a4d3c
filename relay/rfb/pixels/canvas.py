"""The picture of a desktop, and how the pixels of the wire become its colours (RFC 6143, Section
7.4)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relay.rfb.errors import Violation
from relay.rfb.pixel_format import PixelFormat

Steps = Generator[int, bytes, None]
"""A decoder at work: yields how many bytes of the payload it needs next, which may be none, and
gets exactly those. Raises Violation."""

PIECE_STEPS = 256
"""A decoder that goes on for longer by itself asks for no bytes after so many steps."""

Taken = Generator[int, bytes, bytes]
"""Steps that return some of the payload."""

Array = NDArray[np.uint8]

OPAQUE = 255


@dataclass(frozen=True, eq=False)
class Cursor:
    """A pointer's shape. `image` is (height, width, 4), RGBA, colours not multiplied with alpha;
    one without pixels is a hidden pointer. `hot_x` and `hot_y` are the pixel that points."""

    image: Array
    hot_x: int
    hot_y: int


class Inflater:
    """A zlib stream that goes on from rectangle to rectangle."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._stream = zlib.decompressobj()

    def inflate(self, data: bytes, limit_bytes: int) -> bytes:
        """What `data` adds to the stream. Raises Violation where that is more than the limit, of
        which no more than one byte is inflated."""
        try:
            # One byte of room makes zlib read `data` to its end, flush marker and all.
            inflated = self._stream.decompress(data, limit_bytes + 1)
        except zlib.error as error:
            raise Violation("zlib-data", str(error)) from None
        if len(inflated) > limit_bytes:
            raise Violation("inflated-length", f"more than {limit_bytes} bytes inflated")
        return inflated

    def inflate_all(self, data: bytes, size_bytes: int) -> bytes:
        """As `inflate`, where the size is known."""
        inflated = self.inflate(data, size_bytes)
        if len(inflated) < size_bytes:
            raise Violation("inflated-length", f"{len(inflated)} bytes inflated of {size_bytes}")
        return inflated


class Canvas:
    """What a desktop shows, (height, width, 4) RGBA in `pixels`, without its pointer.

    `pixel_format` is that of the rectangles to come. `colour_map`, (256, 3) RGB, is for formats
    without true colour; what has been painted keeps its colours when the map changes. `cursor` is
    the newest shape, None before the first. The zlib streams live as long as the connection.
    """

    def __init__(self, width: int, height: int, pixel_format: PixelFormat) -> None:
        self.pixels = _black(width, height)
        self.colour_map: Array = np.zeros((256, 3), np.uint8)
        self.cursor: Cursor | None = None
        self.zlib = Inflater()
        self.zrle = Inflater()
        self.tight = [Inflater() for _ in range(4)]
        self.pixel_format = pixel_format

    @property
    def pixel_format(self) -> PixelFormat:
        return self._pixel_format

    @pixel_format.setter
    def pixel_format(self, wanted: PixelFormat) -> None:
        self._pixel_format = wanted
        self._dtype = np.dtype(f"{'<>'[wanted.big_endian]}u{wanted.bytes_per_pixel}")
        self._fields = (
            (wanted.red_shift, wanted.red_max),
            (wanted.green_shift, wanted.green_max),
            (wanted.blue_shift, wanted.blue_max),
        )
        self._scales = [_scale(maximum) for _, maximum in self._fields if wanted.true_colour]
        self._is_rgba = (
            wanted.true_colour
            and wanted.bits_per_pixel == 32
            and not wanted.big_endian
            and self._fields == ((0, 255), (8, 255), (16, 255))
        )
        mask = sum(maximum << shift for shift, maximum in self._fields)
        # Where a CPIXEL of three bytes stands in its pixel. With both ends of the pixel unused the
        # specification leaves it open; servers then send the first three (TigerVNC, libvncserver).
        ends_unused = (not mask & 0xFF, mask <= 0xFFFFFF)
        self._cpixel_at = 0 if ends_unused[not wanted.big_endian] else 1

    def resize(self, width: int, height: int) -> None:
        """Keeps what both sizes have; the rest is black."""
        before = self.pixels
        self.pixels = _black(width, height)
        kept = before[:height, :width]
        self.pixels[: kept.shape[0], : kept.shape[1]] = kept

    def area(self, x: int, y: int, w: int, h: int) -> Array:
        """A part of `pixels`, (h, w, 4), to paint on."""
        return self.pixels[y : y + h, x : x + w]

    def decode(self, pixel_bytes: bytes) -> Array:
        """Wire pixels as (n, 4), RGBA. A channel's maximum becomes 255, what is between is
        rounded to the nearest."""
        if self._is_rgba:
            rgba = np.frombuffer(pixel_bytes, np.uint8).reshape(-1, 4).copy()
            rgba[:, 3] = OPAQUE
            return rgba
        if self._pixel_format.true_colour:
            return self.shade(self.channels(pixel_bytes))
        values = np.frombuffer(pixel_bytes, self._dtype)
        return _opaque(look_up(self.colour_map, values))

    def decode_cpixels(self, data: bytes) -> Array:
        """As `decode`, of CPIXELs (RFC 6143, Section 7.7.5)."""
        if self._pixel_format.cpixel_bytes == self._pixel_format.bytes_per_pixel:
            return self.decode(data)
        whole = np.zeros((len(data) // 3, 4), np.uint8)
        whole[:, self._cpixel_at : self._cpixel_at + 3] = _triples(data)
        return self.decode(whole.tobytes())

    def decode_tpixels(self, data: bytes) -> Array:
        """As `decode`, of TPIXELs (community specification, Tight Encoding)."""
        if self._pixel_format.tpixel_bytes == self._pixel_format.bytes_per_pixel:
            return self.decode(data)
        return _opaque(_triples(data))

    def channels(self, pixel_bytes: bytes) -> NDArray[np.uint16]:
        """Red, green and blue of wire pixels in true colour as they are, (n, 3)."""
        values = np.frombuffer(pixel_bytes, self._dtype)
        found = np.empty((len(values), 3), np.uint16)
        for channel, (shift, maximum) in enumerate(self._fields):
            found[:, channel] = values >> shift & maximum
        return found

    def tpixel_channels(self, data: bytes) -> NDArray[np.uint16]:
        """As `channels`, of TPIXELs."""
        if self._pixel_format.tpixel_bytes == self._pixel_format.bytes_per_pixel:
            return self.channels(data)
        return _triples(data).astype(np.uint16)

    def shade(self, channels: NDArray[np.uint16]) -> Array:
        """The colours of what `channels` returns, (n, 4), RGBA."""
        rgba = np.empty((len(channels), 4), np.uint8)
        for channel, scale in enumerate(self._scales):
            rgba[:, channel] = scale[channels[:, channel]]
        rgba[:, 3] = OPAQUE
        return rgba


Decoder = Callable[[Canvas, int, int, int, int], Steps]
"""Paints a rectangle: canvas, x, y, w, h, which lie on the canvas. A cursor's x and y are its hot
spot."""


def prefixed(rule: str, limit_bytes: int) -> Taken:
    """A length of four bytes, and as many bytes. Raises Violation where it is above the limit."""
    length = int.from_bytes((yield 4), "big")
    if length > limit_bytes:
        raise Violation(rule, f"{length} bytes, at most {limit_bytes} make sense")
    return (yield length)


def packed_bytes(w: int, h: int, bits: int) -> int:
    """Bytes of h rows of w values of so many bits, each row of whole bytes."""
    return (w * bits + 7) // 8 * h


def unpack(data: bytes, w: int, h: int, bits: int) -> Array:
    """Packed values of 1, 2, 4 or 8 bits, the leftmost in the highest bits, as (h, w)."""
    in_a_row = packed_bytes(w, 1, bits)
    rows = np.frombuffer(data, np.uint8).reshape(h, in_a_row, 1)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    values = rows >> shifts & np.uint8((1 << bits) - 1)
    return values.reshape(h, in_a_row * 8 // bits)[:, :w]


def look_up(palette: Array, indices: NDArray[np.unsignedinteger]) -> Array:
    """The colours at `indices`, of their shape and that of a colour."""
    highest = int(indices.max(initial=0))
    if highest >= len(palette):
        raise Violation("colour-index", f"colour {highest} of {len(palette)}")
    return palette.take(indices, axis=0)


def _black(width: int, height: int) -> Array:
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[..., 3] = OPAQUE
    return pixels


def _opaque(rgb: Array) -> Array:
    rgba = np.full((len(rgb), 4), OPAQUE, np.uint8)
    rgba[:, :3] = rgb
    return rgba


def _triples(data: bytes) -> Array:
    return np.frombuffer(data, np.uint8).reshape(-1, 3)


def _scale(maximum: int) -> Array:
    """By a channel's value, its share of 255."""
    values = np.arange(maximum + 1, dtype=np.uint32)
    return ((values * 255 + maximum // 2) // maximum).astype(np.uint8)
