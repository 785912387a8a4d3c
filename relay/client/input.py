"""Pointer, buttons and keys of an RFB client: the messages, and what is held down meanwhile.

A release that is cut off counts as not sent: the key may still be down, so whoever lets go of
everything lets go of it too.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import index

import trio

from relay.client.connection import Connection
from relay.errors import DesktopError
from relay.keysyms import KEYCODES, KEYSYM_LIMIT, combination

RELEASE_TIMEOUT_S = 1.0

# Characters behind which the desktop is waited for, so that long text does not fill its buffers.
_TYPED_AT_ONCE = 64

# With a keycode the desktop's own layout decides what a letter is, so only keys that are the same
# in every layout have one. Of those not the ones that give several keysyms: on the keypad Num Lock
# decides, and Sys_Req is on the key of Print.
_FUNCTIONS = {keysym: keycode for keysym, keycode in KEYCODES.items() if keysym >= 0xFF00}
_KEYSYMS_ON = Counter(_FUNCTIONS.values())
_KEYCODES = {keysym: code for keysym, code in _FUNCTIONS.items() if _KEYSYMS_ON[code] == 1}

_key_event = struct.Struct(">BBxxI").pack
_extended_key_event = struct.Struct(">BBHII").pack
_pointer_event = struct.Struct(">BBHH").pack
_extended_pointer_event = struct.Struct(">BBHHB").pack


class Input:
    """One connection's. Every method that sends raises DesktopError once the desktop is gone; what
    its arguments may be, `relay.client.Desktop` says."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages = connection.messages
        self._buttons = 0
        self._keys: dict[int, None] = {}

    # The pointer and its buttons.

    async def move(self, x: int, y: int) -> None:
        self._messages.pointer = self.on_desktop(x, y)
        await self._connection.send(self._point(self._buttons))

    def on_desktop(self, x: int, y: int) -> tuple[int, int]:
        """The point, in whole numbers. Raises ValueError for one that is not on the desktop."""
        width, height = self._connection.size_px
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"({x}, {y}) is not on the desktop, which is {width}x{height}")
        # A number that is not whole could not be sent, now or later.
        return index(x), index(y)

    async def button_down(self, button: int) -> None:
        self._buttons |= self._mask(button)
        await self._connection.send(self._point(self._buttons))

    async def button_up(self, button: int) -> None:
        mask = self._mask(button)
        await self._connection.send(self._point(self._buttons & ~mask))
        # Not before: where this is cancelled, it is still down.
        self._buttons &= ~mask

    async def let_go(self, button: int) -> None:
        """After a click or a drag: one that is still down was being held when it was cut off."""
        if self._buttons & self._mask(button):
            with letting_go():
                await self.button_up(button)

    def _point(self, buttons: int) -> bytes:
        if self._messages.pointer is None:
            # RFB has no way to ask where it is. X servers put it there at their start.
            width, height = self._connection.size_px
            self._messages.pointer = width // 2, height // 2
        x, y = self._messages.pointer
        if buttons > 127 and self._messages.extended_buttons:
            return _extended_pointer_event(5, 128 | buttons & 127, x, y, buttons >> 7)
        return _pointer_event(5, buttons, x, y)

    def _mask(self, button: int) -> int:
        last = 9 if self._messages.extended_buttons else 8
        if not 1 <= button <= last:
            raise ValueError(f"there is no button {button}; this desktop's are 1 to {last}")
        return 1 << (button - 1)

    # Keys.

    async def key_down(self, keysym: int) -> None:
        pressed = self._key(keysym, down=True)
        self._keys[keysym] = None
        await self._connection.send(pressed)

    async def key_up(self, keysym: int) -> None:
        await self._connection.send(self._key(keysym, down=False))
        # Not before: where this is cancelled, it is still down.
        self._keys.pop(keysym, None)

    async def press(self, keys: str, *, count: int = 1) -> None:
        keysyms = combination(keys)
        for _ in range(count):
            try:
                for keysym in keysyms:
                    await self.key_down(keysym)
            finally:
                with letting_go():
                    for keysym in reversed(keysyms):
                        if keysym in self._keys:
                            await self.key_up(keysym)
        await self._connection.sync()

    async def type(self, keysyms: Sequence[int]) -> None:
        """Presses and releases one key after the other."""
        for at in range(0, len(keysyms), _TYPED_AT_ONCE):
            some = keysyms[at : at + _TYPED_AT_ONCE]
            # In one send: it is whole or the connection is broken, so no key stays down.
            await self._connection.send(
                b"".join(self._key(key, down=True) + self._key(key, down=False) for key in some)
            )
            await self._connection.sync()

    def _key(self, keysym: int, *, down: bool) -> bytes:
        if not 0 < keysym <= KEYSYM_LIMIT:
            raise ValueError(f"{keysym} is no keysym: they go from 1 to {KEYSYM_LIMIT:#x}")
        keycode = _KEYCODES.get(keysym, 0)
        if keycode and self._messages.extended_keys:
            return _extended_key_event(255, 0, down, keysym, keycode)
        return _key_event(4, down, keysym)

    # Both.

    async def release_all(self) -> None:
        """Every key and button that is held down goes up."""
        keysyms, buttons = list(reversed(self._keys)), self._buttons
        released = b"".join(self._key(keysym, down=False) for keysym in keysyms)
        if buttons:
            released += self._point(0)
        if released:
            await self._connection.send(released)
            self._buttons &= ~buttons
            for keysym in keysyms:
                self._keys.pop(keysym, None)


@contextmanager
def letting_go() -> Iterator[None]:
    """Sends although the caller is cancelled, for a while. That the desktop is gone is told by
    whatever is asked of it next: here it would take the place of a cancellation."""
    deadline = trio.current_time() + RELEASE_TIMEOUT_S
    with trio.CancelScope(shield=True, deadline=deadline), suppress(DesktopError):
        yield
