"""VMware's pseudo-encodings beside its cursor and LEDs (community specification)."""

from __future__ import annotations

from relay.rfb import pixel_format
from relay.rfb.encodings.base import NEED, Fixed, Prefixed
from relay.rfb.errors import Violation
from relay.rfb.state import State


class _Notice(Fixed):
    """A few bytes that say something of the desktop; nothing here depends on them."""

    pixels = False
    payload_bytes: int

    def size(self, w: int, h: int, state: State) -> int:
        return self.payload_bytes


class VMwareCursorState(_Notice):
    number = 0x574D5665
    name = "VMware cursor state"
    payload_bytes = 2


class VMwareCursorPosition(_Notice):
    """x and y are the position."""

    number = 0x574D5666
    name = "VMware cursor position"
    payload_bytes = 0


class VMwareKeyRepeat(_Notice):
    number = 0x574D5667
    name = "VMware key repeat"
    payload_bytes = 2 + 4 + 4


class VMwareMachineState(_Notice):
    number = 0x574D566A
    name = "VMware virtual machine state"
    payload_bytes = 2


class VMwareDisplayMode(Prefixed):
    """A new size and a PIXEL_FORMAT, both in effect with the next byte. QEMU sends it too."""

    number = 0x574D5669
    name = "VMware display mode change"
    pixels = False
    element_limit_bytes = pixel_format.SIZE

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        if stop - pos < pixel_format.SIZE:
            return NEED
        try:
            wanted = pixel_format.parse(buf, pos)
        except ValueError as error:
            raise Violation("pixel-format", str(error)) from None
        buf[pos : pos + pixel_format.SIZE] = wanted.pack()
        return pixel_format.SIZE

    def applied(
        self, buf: bytearray, pos: int, x: int, y: int, w: int, h: int, state: State
    ) -> bool:
        state.resize(w, h)
        state.set_pixel_format(pixel_format.parse(buf, pos))
        return False
