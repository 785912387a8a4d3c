"""ZRLE (RFC 6143, Section 7.7.6): a length and deflated tiles of 64x64, those of TRLE."""

from __future__ import annotations

import itertools

from relay.rfb.errors import Violation
from relay.rfb.pixels.canvas import PIECE_STEPS, Canvas, Steps, prefixed
from relay.rfb.pixels.trle import tiles

_SIDE_PX = 64


def decode(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    cpixel_bytes = canvas.pixel_format.cpixel_bytes
    count = ((w + _SIDE_PX - 1) // _SIDE_PX) * ((h + _SIDE_PX - 1) // _SIDE_PX)
    # The framing's limit (relay/rfb/encodings/zrle.py).
    limit = 2 * w * h * cpixel_bytes + 64 * count + 4096
    deflated = yield from prefixed("zrle-length", limit)
    # At worst every pixel is a run, behind a palette of 127 colours.
    limit = w * h * (cpixel_bytes + 1) + count * (1 + 127 * cpixel_bytes)
    inflated = canvas.zrle.inflate(deflated, limit)
    yield from _feed(tiles(canvas, x, y, w, h, side_px=_SIDE_PX, reuse=False), inflated)


def _feed(steps: Steps, data: bytes) -> Steps:
    """Runs `steps` to the end with the whole of `data`."""
    at = 0
    need = next(steps, None)
    for number in itertools.count(1):
        if need is None:
            break
        if at + need > len(data):
            raise Violation("zrle-length", f"{len(data)} bytes inflated, and tiles need more")
        piece = data[at : at + need]
        at += need
        try:
            need = steps.send(piece)
        except StopIteration:
            need = None
        if number % PIECE_STEPS == 0:
            yield 0
    if at < len(data):
        raise Violation("zrle-length", f"{len(data)} bytes inflated, and tiles take {at}")
