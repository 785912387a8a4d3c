"""What libvncserver says of itself in pseudo-rectangles of its own (registered, not described;
rfbproto.h and libvncclient). The byte count stands in w, whatever h is."""

from __future__ import annotations

from relay.rfb.encodings.base import Fixed
from relay.rfb.errors import Violation
from relay.rfb.state import State


class ServerIdentity(Fixed):
    number = -131069
    name = "libvncserver identity"
    pixels = False

    def size(self, w: int, h: int, state: State) -> int:
        return w


class SupportedEncodings(ServerIdentity):
    """`h` numbers of four bytes."""

    number = -131070
    name = "libvncserver supported encodings"


class SupportedMessages(ServerIdentity):
    """A bitmap of the message types in either direction."""

    number = -131071
    name = "libvncserver supported messages"

    def size(self, w: int, h: int, state: State) -> int:
        # libvncclient reads 64 bytes whatever w says.
        if w != 64:
            raise Violation("supported-messages-length", f"{w} bytes, not 64")
        return w


class KeyboardLedState(Fixed):
    """x is the state; no payload."""

    number = -131072
    name = "libvncserver LED state"
    pixels = False

    def size(self, w: int, h: int, state: State) -> int:
        return 0
