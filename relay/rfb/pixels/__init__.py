"""Decoders of rectangles to a picture: one file per encoding, named as what frames it.

They do no I/O. A decoder is a generator that asks for bytes (`Steps`). They need NumPy and Pillow
(the extra `client`), so what only frames does not import this package.
"""

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
from relay.rfb.pixels.canvas import Array, Canvas, Cursor, Decoder, Steps

__all__ = ["DECODERS", "Array", "Canvas", "Cursor", "Decoder", "Steps"]

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
