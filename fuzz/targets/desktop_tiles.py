"""Only ProtocolError escapes; the tail is bounded; whole equals split; approved passes again.

Hextile, zlibhex, TRLE, in updates of a desktop.
"""

from __future__ import annotations

from fuzz.conversations import OFFERS_LAST, check_messages
from fuzz.data import Data
from fuzz.rectangles import framed, update
from relay.rfb.pixel_format import PixelFormat

_NUMBERS = framed("tiles")


def _updates(data: Data, pixel: PixelFormat) -> bytes:
    return update(data, _NUMBERS, pixel) + update(data, _NUMBERS, pixel) + b"\x02"


def run(data: bytes) -> None:
    check_messages(data, "down", (*_NUMBERS, *OFFERS_LAST), _updates)
