"""Drives the decoders of relay/rfb/pixels, and tells plainly what they should have painted."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest

from relay.rfb.errors import Violation
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.pixels import DECODERS, Array, Canvas, Steps

RGBA = PixelFormat(32, 24, False, True, 255, 255, 255, 0, 8, 16)
MAPPED = PixelFormat(8, 8, False, False, 0, 0, 0, 0, 0, 0)
RGB565 = PixelFormat(16, 16, False, True, 31, 63, 31, 11, 5, 0)

FORMATS = {
    "RGBA": RGBA,
    "RGBA, big endian": PixelFormat(32, 24, True, True, 255, 255, 255, 24, 16, 8),
    "RGBA, depth 32": PixelFormat(32, 32, False, True, 255, 255, 255, 0, 8, 16),
    "BGRA": PixelFormat(32, 24, False, True, 255, 255, 255, 16, 8, 0),
    "BGRA, big endian": PixelFormat(32, 24, True, True, 255, 255, 255, 16, 8, 0),
    "ABGR": PixelFormat(32, 24, False, True, 255, 255, 255, 24, 16, 8),
    "ABGR, big endian": PixelFormat(32, 24, True, True, 255, 255, 255, 0, 8, 16),
    "channels apart": PixelFormat(32, 24, False, True, 255, 255, 255, 0, 8, 24),
    "30 bits": PixelFormat(32, 30, False, True, 1023, 1023, 1023, 20, 10, 0),
    "a channel of 16 bits": PixelFormat(32, 24, True, True, 65535, 15, 7, 0, 16, 20),
    "the middle of 32": PixelFormat(32, 16, False, True, 31, 63, 31, 19, 13, 8),
    "the middle of 32, big endian": PixelFormat(32, 16, True, True, 31, 63, 31, 19, 13, 8),
    "565": RGB565,
    "565, big endian": PixelFormat(16, 16, True, True, 31, 63, 31, 11, 5, 0),
    "444": PixelFormat(16, 12, False, True, 15, 15, 15, 8, 4, 0),
    "332": PixelFormat(8, 8, False, True, 7, 7, 3, 5, 2, 0),
    "BGR233": PixelFormat(8, 8, True, True, 7, 7, 3, 0, 3, 6),
    "3 bits": PixelFormat(8, 3, False, True, 1, 1, 1, 2, 1, 0),
    "a map": MAPPED,
    "a map, 16 bits": PixelFormat(16, 8, True, False, 0, 0, 0, 0, 0, 0),
}

GROUND = (1, 2, 3, 255)
"""What a canvas shows where nothing was painted."""

_LETTERS = {
    "R": (255, 0, 0, 255),
    "G": (0, 255, 0, 255),
    "B": (0, 0, 255, 255),
    "W": (255, 255, 255, 255),
    ".": GROUND,
}


def picture(*lines: str) -> list[list[tuple[int, ...]]]:
    """A letter a pixel: red, green, blue, white; a dot is what was there before."""
    return [[_LETTERS[letter] for letter in line] for line in lines]


def deflated(data: bytes) -> bytes:
    """A zlib stream of its own behind its length, as the encodings zlib and ZRLE have it."""
    body = zlib.compress(data)
    return struct.pack(">I", len(body)) + body


def colour_map() -> Array:
    """A colour for each index, no two alike."""
    return np.array([(i, 255 - i, i * 7 % 256) for i in range(256)], np.uint8)


def canvas(width: int, height: int, pixel_format: PixelFormat = RGBA) -> Canvas:
    made = Canvas(width, height, pixel_format)
    made.pixels[:] = GROUND
    made.colour_map[:] = colour_map()
    return made


def wire(value: int, pixel_format: PixelFormat) -> bytes:
    """A pixel as it is sent (RFC 6143, Section 7.4)."""
    return value.to_bytes(
        pixel_format.bytes_per_pixel, "big" if pixel_format.big_endian else "little"
    )


def channels(value: int, pixel_format: PixelFormat) -> tuple[int, int, int]:
    return (
        value >> pixel_format.red_shift & pixel_format.red_max,
        value >> pixel_format.green_shift & pixel_format.green_max,
        value >> pixel_format.blue_shift & pixel_format.blue_max,
    )


def colour(value: int, pixel_format: PixelFormat) -> tuple[int, int, int, int]:
    """What a pixel shows: each channel's share of its maximum, of 255, to the nearest."""
    if not pixel_format.true_colour:
        r, g, b = colour_map()[value].tolist()
        return r, g, b, 255
    maxima = (pixel_format.red_max, pixel_format.green_max, pixel_format.blue_max)
    parts = zip(channels(value, pixel_format), maxima, strict=True)
    r, g, b = (int(Fraction(255 * part, maximum) + Fraction(1, 2)) for part, maximum in parts)
    return r, g, b, 255


def run(steps: Steps, payload: bytes) -> None:
    """Feeds a decoder what it asks for; it takes the payload exactly."""
    at = 0
    need = next(steps, None)
    while need is not None:
        assert need >= 0
        assert at + need <= len(payload), "asks for more than the payload has"
        piece = payload[at : at + need]
        at += need
        try:
            need = steps.send(piece)
        except StopIteration:
            need = None
    assert at == len(payload), "leaves some of the payload"


def paint(
    on: Canvas, number: int, area: tuple[int, int, int, int], payload: bytes
) -> list[list[tuple[int, ...]]]:
    """Decodes a rectangle; returns the rows of its area as tuples."""
    x, y, w, h = area
    run(DECODERS[number](on, x, y, w, h), payload)
    return rows(on.pixels[y : y + h, x : x + w])


def rows(pixels: Array) -> list[list[tuple[int, ...]]]:
    return [[tuple(pixel) for pixel in row] for row in pixels.tolist()]


def refused(
    rule: str,
    number: int,
    size: tuple[int, int],
    payload: bytes,
    pixel_format: PixelFormat = RGBA,
    on: Canvas | None = None,
) -> str:
    """Decodes a rectangle that breaks `rule`; returns what is said of it."""
    on = on or canvas(*size, pixel_format)
    with pytest.raises(Violation) as caught:
        run(DECODERS[number](on, 0, 0, *size), payload)
    assert caught.value.rule == rule
    return str(caught.value)
