"""CoRRE (community specification, CoRRE Encoding): RRE with sub-rectangles of one byte a side."""

from __future__ import annotations

import numpy as np

from relay.rfb.pixels import rre
from relay.rfb.pixels.canvas import Canvas, Steps


def decode(canvas: Canvas, x: int, y: int, w: int, h: int) -> Steps:
    return rre.paint(canvas, x, y, w, h, np.dtype(np.uint8))
