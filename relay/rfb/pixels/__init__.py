"""Decoders of rectangles to a picture: one file per encoding, named as what frames it.

They do no I/O. They need NumPy and Pillow (the extra `client`), so what only frames does not import
this package.
"""

from relay.rfb.pixels.canvas import Array, Canvas, Cursor, Decoder, Steps
from relay.rfb.pixels.decoders import DECODERS

__all__ = ["DECODERS", "Array", "Canvas", "Cursor", "Decoder", "Steps"]
