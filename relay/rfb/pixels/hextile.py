"""Hextile (RFC 6143, Section 7.7.4): tiles of 16x16, each raw or made of sub-rectangles."""

from __future__ import annotations

from itertools import repeat

import numpy as np

from relay.rfb.errors import Violation
from relay.rfb.pixels.canvas import Canvas, Steps

_RAW, _BACKGROUND, _FOREGROUND, _SUBRECTS, _COLOURED = 1, 2, 4, 8, 16
_MASKS = range(32)
_SIDE_PX = 16


def decode(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    pixel_bytes = canvas.pixel_format.bytes_per_pixel
    # Both stay from tile to tile. That they may not behind a raw one binds the desktop.
    background = foreground = None
    for top in range(0, h, _SIDE_PX):
        for left in range(0, w, _SIDE_PX):
            tile_w, tile_h = min(_SIDE_PX, w - left), min(_SIDE_PX, h - top)
            tile = canvas.area(x + left, y + top, tile_w, tile_h)
            (mask,) = yield 1
            if mask not in _MASKS:
                raise Violation("hextile-mask", f"tile mask 0x{mask:02x}")
            if mask & _RAW:
                pixels = canvas.decode((yield tile_w * tile_h * pixel_bytes))
                tile[:] = pixels.reshape(tile.shape)
                continue
            if mask & _BACKGROUND:
                background = canvas.decode((yield pixel_bytes))[0]
            if mask & _FOREGROUND:
                foreground = canvas.decode((yield pixel_bytes))[0]
            if background is None:
                raise Violation("hextile-background", "a first tile without a background")
            tile[:] = background
            if not mask & _SUBRECTS:
                continue
            (count,) = yield 1
            own = pixel_bytes if mask & _COLOURED else 0
            rows = np.frombuffer((yield count * (own + 2)), np.uint8).reshape(count, own + 2)
            if own:
                colours = iter(canvas.decode(rows[:, :own].tobytes()))
            elif foreground is None:
                raise Violation("hextile-foreground", "sub-rectangles without a colour")
            else:
                colours = repeat(foreground)
            for (xy, wh), colour in zip(rows[:, own:].tolist(), colours, strict=False):
                right, bottom = (xy >> 4) + (wh >> 4) + 1, (xy & 15) + (wh & 15) + 1
                if right > tile_w or bottom > tile_h:
                    raise Violation(
                        "hextile-subrectangle",
                        f"sub-rectangle outside a tile of {tile_w}x{tile_h}",
                    )
                tile[xy & 15 : bottom, xy >> 4 : right] = colour
