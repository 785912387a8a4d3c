"""The registry: what the relay can frame, one line each, and which of it a viewer may ask for.

A number that is not here is cut out of SetEncodings, so no desktop uses it.
"""

from __future__ import annotations

from relay.rfb.encodings.base import Encoding
from relay.rfb.encodings.confirmations import (
    Audio,
    ExtendedKeyEvent,
    ExtendedMouseButtons,
    PointerMotion,
)
from relay.rfb.encodings.copyrect import CopyRect
from relay.rfb.encodings.corre import CoRRE
from relay.rfb.encodings.cursor import (
    Cursor,
    CursorWithAlpha,
    PointerPosition,
    VMwareCursor,
    XCursor,
)
from relay.rfb.encodings.desktop_name import DesktopName
from relay.rfb.encodings.desktop_size import DesktopSize, ExtendedDesktopSize
from relay.rfb.encodings.h264 import H264
from relay.rfb.encodings.hextile import Hextile
from relay.rfb.encodings.jpeg import JPEG
from relay.rfb.encodings.led_state import LedState, VMwareLedState
from relay.rfb.encodings.libvncserver import (
    KeyboardLedState,
    ServerIdentity,
    SupportedEncodings,
    SupportedMessages,
)
from relay.rfb.encodings.raw import Raw
from relay.rfb.encodings.rre import RRE
from relay.rfb.encodings.tight import Tight, TightPNG
from relay.rfb.encodings.trle import TRLE
from relay.rfb.encodings.ultra import Ultra, Ultra2, UltraZip
from relay.rfb.encodings.vmware import (
    VMwareCursorPosition,
    VMwareCursorState,
    VMwareDisplayMode,
    VMwareKeyRepeat,
    VMwareMachineState,
)
from relay.rfb.encodings.zlib import Zlib
from relay.rfb.encodings.zlibhex import ZlibHex
from relay.rfb.encodings.zrle import ZRLE, ZYWRLE

REGISTRY: dict[int, Encoding] = {
    encoding.number: encoding
    for encoding in (
        Raw(),
        CopyRect(),
        RRE(),
        CoRRE(),
        Hextile(),
        Zlib(),
        Tight(),
        ZlibHex(),
        Ultra(),
        Ultra2(),
        TRLE(),
        ZRLE(),
        ZYWRLE(),
        JPEG(),
        H264(),
        TightPNG(),
        UltraZip(),
        Cursor(),
        XCursor(),
        PointerPosition(),
        VMwareCursor(),
        CursorWithAlpha(),
        DesktopSize(),
        ExtendedDesktopSize(),
        DesktopName(),
        LedState(),
        VMwareLedState(),
        PointerMotion(),
        ExtendedKeyEvent(),
        Audio(),
        ExtendedMouseButtons(),
        VMwareCursorState(),
        VMwareCursorPosition(),
        VMwareKeyRepeat(),
        VMwareDisplayMode(),
        VMwareMachineState(),
        KeyboardLedState(),
        ServerIdentity(),
        SupportedEncodings(),
        SupportedMessages(),
    )
}

EXTENDED_MOUSE_BUTTONS = ExtendedMouseButtons.number
LAST_RECT = -224
GII = -305
XVP = -309
FENCE = -312
CONTINUOUS_UPDATES = -313
EXTENDED_CLIPBOARD = -0x3F5E1A32  # 0xC0A1E5CE as a signed number

# Offers that ask for a behaviour or a message and never appear as a rectangle, or, like
# LastRect, end an update: the readers of the two directions know them.
SIGNALS: frozenset[int] = frozenset(
    {LAST_RECT, GII, XVP, FENCE, CONTINUOUS_UPDATES, EXTENDED_CLIPBOARD}
)

# Framed, and left out of SetEncodings unless the settings say otherwise.
RISKY: frozenset[int] = frozenset(
    {
        # LZO, unpacked into memory whose size the desktop announces (CVE-2016-9942,
        # CVE-2018-15127); framing cannot tell a good payload from a bad one.
        Ultra.number,
        # An image of any size where one of the rectangle's is due.
        Ultra2.number,
        # Rectangles inside LZO that no relay sees, with x and y that are none (CVE-2026-32853).
        UltraZip.number,
        # A pixel format the viewer did not choose, in effect at once. noVNC and TigerVNC do not
        # know it, and a viewer that misreads it reads everything behind it wrong.
        VMwareDisplayMode.number,
    }
)

# What a viewer's SetEncodings may ask for whatever the settings; the levels below too.
LET_THROUGH: frozenset[int] = frozenset(REGISTRY) - RISKY | SIGNALS

# Levels a viewer asks for; nothing on the wire answers them.
QUALITY_LEVELS = range(-32, -22)
FINE_QUALITY_LEVELS = range(-512, -411)
LEVELS: tuple[range, ...] = (
    QUALITY_LEVELS,
    FINE_QUALITY_LEVELS,
    range(-256, -246),  # compression
    range(-768, -762),  # chroma subsampling
)


def is_quality(number: int) -> bool:
    """Whether an offer permits JPEG inside Tight."""
    return number in QUALITY_LEVELS or number in FINE_QUALITY_LEVELS
