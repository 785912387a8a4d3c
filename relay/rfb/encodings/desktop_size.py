"""DesktopSize (RFC 6143, Section 7.8.2) and ExtendedDesktopSize (community specification)."""

from __future__ import annotations

from relay.rfb.encodings.base import NEED, Fixed, Prefixed
from relay.rfb.errors import Violation
from relay.rfb.state import State

_OWN_REQUEST = 1
_MAX_SCREENS = 16
"""More screens than any X server drives; the count byte allows 255."""


class DesktopSize(Fixed):
    number = -223
    name = "DesktopSize"
    pixels = False

    def size(self, w: int, h: int, state: State) -> int:
        return 0

    def applied(
        self, buf: bytearray, pos: int, x: int, y: int, w: int, h: int, state: State
    ) -> bool:
        state.resize(w, h)
        return False


class ExtendedDesktopSize(Prefixed):
    """x is the reason, y the status, w and h the size; then a count and 16 bytes a screen."""

    number = -308
    name = "ExtendedDesktopSize"
    pixels = False
    element_limit_bytes = 4

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        if stop - pos < 4:
            return NEED
        # Zero screens come from libvncserver, whose count is an application's answer.
        screens = buf[pos]
        if screens > _MAX_SCREENS:
            raise Violation("screens", f"{screens} screens")
        buf[pos + 1 : pos + 4] = b"\0\0\0"
        return 4 + 16 * screens

    def applied(
        self, buf: bytearray, pos: int, x: int, y: int, w: int, h: int, state: State
    ) -> bool:
        state.extended_desktop_size = True
        # A refused request of this viewer leaves the size as it was; w and h mean nothing.
        if x != _OWN_REQUEST or y == 0:
            state.resize(w, h)
        return False
