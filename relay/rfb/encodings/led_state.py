"""The keyboard's LEDs: QEMU's pseudo-encoding and VMware's (community specification)."""

from __future__ import annotations

from relay.rfb.encodings.base import Fixed
from relay.rfb.state import State


class LedState(Fixed):
    number = -261
    name = "LED state"
    pixels = False

    def size(self, w: int, h: int, state: State) -> int:
        return 1


class VMwareLedState(Fixed):
    number = 0x574D5668
    name = "VMware LED state"
    pixels = False

    def size(self, w: int, h: int, state: State) -> int:
        return 4
