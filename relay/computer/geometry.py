"""Sizes of the pictures a model gets, and coordinates between them and the desktop.

A model's coordinates are pixels of the screenshot it was given (the *declared space*), which is
the desktop's picture, shrunk until the model's interface takes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height in pixels."""

Point = tuple[int, int]
"""x and y in pixels, the origin in the top left corner."""

Region = tuple[int, int, int, int]
"""x0, y0, x1, y1: edges between pixels, so that x1 and y1 may equal the width and height."""


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What an image may measure: a longest side, and a number of square tiles that cover it."""

    side_px: int
    tile_px: int
    tiles: int

    def cost(self, size: Size) -> int:
        """Tiles that cover a picture; those that stand over an edge count whole."""
        return math.prod(-(-side // self.tile_px) for side in size)


def fitted(size: Size, limits: PictureLimits) -> Size:
    """The largest size of the same shape within `limits`, and never larger than `size`."""
    longest = max(size)
    area = limits.tiles * limits.tile_px**2
    scale = min(1.0, limits.side_px / longest, math.sqrt(area / math.prod(size)))
    while True:
        # What should be a whole number may come out as a little less.
        width, height = (max(1, math.floor(side * scale + 1e-6)) for side in size)
        if limits.cost((width, height)) <= limits.tiles:
            return width, height
        # The root counts parts of tiles at the edges. A few pixels less, and they fit.
        scale -= 1 / longest


def filling(size: Size, frame: Size) -> Size:
    """The largest size of the same shape as `size` within `frame`, larger than it or not."""
    scale = min(frame[0] / size[0], frame[1] / size[1])
    width, height = (
        min(limit, max(1, round(side * scale))) for side, limit in zip(size, frame, strict=True)
    )
    return width, height


def mapped(point: Point, size: Size, to: Size) -> Point:
    """The pixel of a picture of size `to` that shows what `point` does in one of `size`.

    Pixels are mapped by their centres, (c + 0.5) * to / from - 0.5, rounded and clamped. In whole
    numbers: the rounding takes back the half that was subtracted, so it is the floor of the centre.
    """
    x, y = (
        min(max((2 * c + 1) * new // (2 * old), 0), new - 1)
        for c, old, new in zip(point, size, to, strict=True)
    )
    return x, y


def mapped_region(region: Region, size: Size, to: Size) -> Region:
    """The same area in a picture of size `to`; pixels that it cuts belong to it."""
    x0, y0, x1, y1 = region
    (width, height), (new_width, new_height) = size, to
    return (
        x0 * new_width // width,
        y0 * new_height // height,
        -(-x1 * new_width // width),
        -(-y1 * new_height // height),
    )
