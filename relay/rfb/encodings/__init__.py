"""The registry: what the relay can frame, one line each.

A number that is not here is cut out of SetEncodings, so no desktop uses it.
"""

from __future__ import annotations

from relay.rfb.encodings.base import Encoding
from relay.rfb.encodings.confirmations import ExtendedKeyEvent, ExtendedMouseButtons
from relay.rfb.encodings.copyrect import CopyRect
from relay.rfb.encodings.cursor import Cursor, CursorWithAlpha, VMwareCursor
from relay.rfb.encodings.desktop_name import DesktopName
from relay.rfb.encodings.desktop_size import DesktopSize, ExtendedDesktopSize
from relay.rfb.encodings.hextile import Hextile
from relay.rfb.encodings.led_state import LedState, VMwareLedState
from relay.rfb.encodings.raw import Raw
from relay.rfb.encodings.rre import RRE
from relay.rfb.encodings.tight import Tight, TightPNG
from relay.rfb.encodings.zlib import Zlib
from relay.rfb.encodings.zrle import ZRLE

REGISTRY: dict[int, Encoding] = {
    encoding.number: encoding
    for encoding in (
        Raw(),
        CopyRect(),
        RRE(),
        Hextile(),
        Zlib(),
        Tight(),
        ZRLE(),
        TightPNG(),
        Cursor(),
        VMwareCursor(),
        CursorWithAlpha(),
        DesktopSize(),
        ExtendedDesktopSize(),
        DesktopName(),
        LedState(),
        VMwareLedState(),
        ExtendedKeyEvent(),
        ExtendedMouseButtons(),
    )
}

LAST_RECT = -224
FENCE = -312
CONTINUOUS_UPDATES = -313
EXTENDED_CLIPBOARD = -0x3F5E1A32  # 0xC0A1E5CE as a signed number

# Offers that ask for a behaviour or a message and never appear as a rectangle, or, like
# LastRect, end an update: the readers of the two directions know them.
SIGNALS: frozenset[int] = frozenset({LAST_RECT, FENCE, CONTINUOUS_UPDATES, EXTENDED_CLIPBOARD})

# Levels a viewer asks for; nothing on the wire answers them.
QUALITY_LEVELS = range(-32, -22)
FINE_QUALITY_LEVELS = range(-512, -411)
LEVELS: tuple[range, ...] = (
    QUALITY_LEVELS,
    FINE_QUALITY_LEVELS,
    range(-256, -246),  # compression
    range(-768, -762),  # chroma subsampling
)
