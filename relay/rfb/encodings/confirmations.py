"""Pseudo-rectangles without payload, by which a desktop confirms an extension of the viewer's
messages, or says how it reads them (community specification)."""

from __future__ import annotations

from relay.rfb.encodings.base import Fixed
from relay.rfb.state import State


class _Confirmation(Fixed):
    pixels = False

    def size(self, w: int, h: int, state: State) -> int:
        return 0


class ExtendedKeyEvent(_Confirmation):
    """QEMU Extended Key Event Pseudo-encoding."""

    number = -258
    name = "QEMU extended keys"

    def applied(
        self, buf: bytearray, pos: int, x: int, y: int, w: int, h: int, state: State
    ) -> bool:
        state.extended_keys = True
        return False


class ExtendedMouseButtons(_Confirmation):
    """Extended Mouse Buttons Pseudo-encoding: PointerEvents of seven bytes."""

    number = -316
    name = "extended mouse buttons"

    def applied(
        self, buf: bytearray, pos: int, x: int, y: int, w: int, h: int, state: State
    ) -> bool:
        state.extended_buttons = True
        return False


class PointerMotion(_Confirmation):
    """QEMU Pointer Motion Change Pseudo-encoding: x is 1 for absolute coordinates, 0 for
    relative ones. QEMU puts the screen's size into w and h."""

    number = -257
    name = "QEMU pointer motion"

    def applied(
        self, buf: bytearray, pos: int, x: int, y: int, w: int, h: int, state: State
    ) -> bool:
        state.pointer_relative = x == 0
        return False


class Audio(_Confirmation):
    """QEMU Audio Pseudo-encoding."""

    number = -259
    name = "QEMU audio"

    def applied(
        self, buf: bytearray, pos: int, x: int, y: int, w: int, h: int, state: State
    ) -> bool:
        state.audio = True
        return False
