"""The registry of decoders: what can be painted, one line each. A decoder is a generator that asks
for bytes (`Steps`)."""

from __future__ import annotations

from relay.rfb.pixels import (
    copyrect,
    corre,
    cursor,
    hextile,
    raw,
    rre,
    tight,
    trle,
    zlib,
    zrle,
)
from relay.rfb.pixels.canvas import Decoder

DECODERS: dict[int, Decoder] = {
    0: raw.decode,
    1: copyrect.decode,
    2: rre.decode,
    4: corre.decode,
    5: hextile.decode,
    6: zlib.decode,
    7: tight.decode,
    15: trle.decode,
    16: zrle.decode,
    -239: cursor.decode,
    -240: cursor.decode_x,
    -260: tight.decode_png,
    -314: cursor.decode_with_alpha,
}
"""By an encoding's number what paints its rectangles."""
