"""Pseudo-rectangles without payload, by which a desktop confirms an extension of the viewer's
messages (community specification)."""

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

    def applied(self, x: int, y: int, w: int, h: int, state: State) -> None:
        state.extended_keys = True


class ExtendedMouseButtons(_Confirmation):
    """Extended Mouse Buttons Pseudo-encoding: PointerEvents of seven bytes."""

    number = -316
    name = "extended mouse buttons"

    def applied(self, x: int, y: int, w: int, h: int, state: State) -> None:
        state.extended_buttons = True
