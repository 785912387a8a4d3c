"""TRLE (RFC 6143, Section 7.7.5): tiles of 16x16, each raw, of one colour, packed, or in runs."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from relay.rfb.errors import Violation
from relay.rfb.pixels.canvas import Array, Canvas, Steps, look_up, packed_bytes, unpack

_RAW, _SOLID, _PACKED_REUSED, _RUNS, _RUNS_REUSED = 0, 1, 127, 128, 129
_MAX_PACKED_COLOURS = 16

_Runs = Generator[int, bytes, tuple[bytes, list[int]]]
"""Steps that return the colours of a tile's runs and their lengths."""


def decode(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    return tiles(canvas, x, y, w, h, side_px=16, reuse=True)


def tiles(canvas: Canvas, x: int, y: int, w: int, h: int, *, side_px: int, reuse: bool) -> Steps:
    """Paints a rectangle of tiles. `reuse` says whether one may use the palette of one before."""
    cpixel_bytes = canvas.pixel_format.cpixel_bytes
    palette: Array = np.empty((0, 4), np.uint8)
    for top in range(0, h, side_px):
        for left in range(0, w, side_px):
            tile_w, tile_h = min(side_px, w - left), min(side_px, h - top)
            tile = canvas.area(x + left, y + top, tile_w, tile_h)
            (kind,) = yield 1
            if kind in (_PACKED_REUSED, _RUNS_REUSED) and reuse:
                if not len(palette):
                    raise Violation("trle-palette", "no palette yet to be used again")
                if kind == _PACKED_REUSED and len(palette) > _MAX_PACKED_COLOURS:
                    raise Violation("trle-palette", f"packed pixels of {len(palette)} colours")
            elif _MAX_PACKED_COLOURS < kind < _RUNS or kind == _RUNS_REUSED:
                raise Violation("trle-subencoding", f"sub-encoding {kind}")
            elif kind & 127 > 1:
                palette = canvas.decode_cpixels((yield (kind & 127) * cpixel_bytes))

            if kind == _RAW:
                colours = canvas.decode_cpixels((yield tile_w * tile_h * cpixel_bytes))
            elif kind == _SOLID:
                tile[:] = canvas.decode_cpixels((yield cpixel_bytes))
                continue
            elif kind < _RUNS:
                bits = 1 if len(palette) == 2 else 2 if len(palette) <= 4 else 4
                packed = yield packed_bytes(tile_w, tile_h, bits)
                indices = unpack(packed, tile_w, tile_h, bits)
                colours = look_up(palette, indices)
            elif kind == _RUNS:
                found, lengths = yield from _runs(tile_w * tile_h, cpixel_bytes)
                colours = canvas.decode_cpixels(found).repeat(lengths, axis=0)
            else:
                found, lengths = yield from _palette_runs(tile_w * tile_h)
                used = look_up(palette, np.frombuffer(found, np.uint8))
                colours = used.repeat(lengths, axis=0)
            tile[:] = colours.reshape(tile.shape)


def _runs(pixels: int, cpixel_bytes: int) -> _Runs:
    """Runs of a CPIXEL each, which fill so many pixels."""
    found = bytearray()
    lengths = []
    while pixels:
        run = yield cpixel_bytes + 1
        found += run[:-1]
        lengths.append((yield from _length(run[-1], pixels)))
        pixels -= lengths[-1]
    return bytes(found), lengths


def _palette_runs(pixels: int) -> _Runs:
    """Runs of an index each, and pixels of their own."""
    found = bytearray()
    lengths = []
    while pixels:
        (index,) = yield 1
        length = 1
        if index > 127:
            (first,) = yield 1
            length = yield from _length(first, pixels)
        found.append(index & 127)
        lengths.append(length)
        pixels -= length
    return bytes(found), lengths


def _length(byte: int, pixels: int) -> Generator[int, bytes, int]:
    """A run's length from its first byte: one more than the sum of its bytes, of which all but
    the last are 255."""
    length = 1 + byte
    while byte == 255 and length <= pixels:
        (byte,) = yield 1
        length += byte
    if length > pixels:
        raise Violation("trle-run", f"a run of {length} where {pixels} pixels are left")
    return length
