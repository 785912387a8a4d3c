"""Keys and buttons that a viewer holds down on the desktop.

A desktop knows nothing of sessions: what is down when one ends stays down, for the next viewer
and for whoever sits at it.
"""

from __future__ import annotations

import struct

_key_event = struct.Struct(">BBxxI").pack
_extended_key_event = struct.Struct(">BBHII").pack
_pointer_event = struct.Struct(">BBHH").pack

HELD_KEYS_LIMIT = 256
"""A viewer that changes Shift between a key's press and its release leaves another keysym behind
each time; beyond this many the oldest is forgotten."""

_KEYSYM, _KEYCODE = 0, 1


class Ledger:
    """Fed with every input that goes to the desktop."""

    __slots__ = ("_x", "_y", "buttons", "keys")

    def __init__(self) -> None:
        # By keysym, or for the extended key events by keycode; the value is the keysym.
        self.keys: dict[tuple[int, int], int] = {}
        self.buttons = 0
        self._x = 0
        self._y = 0

    def key(self, keysym: int, down: bool) -> None:
        """A KeyEvent (RFC 6143, Section 7.5.4)."""
        self._note((_KEYSYM, keysym), keysym, down)

    def extended_key(self, keysym: int, keycode: int, down: bool) -> None:
        """A QEMU Extended Key Event (community specification)."""
        self._note((_KEYCODE, keycode), keysym, down)

    def _note(self, key: tuple[int, int], keysym: int, down: bool) -> None:
        if down:
            self.keys[key] = keysym
            if len(self.keys) > HELD_KEYS_LIMIT:
                del self.keys[next(iter(self.keys))]
        else:
            self.keys.pop(key, None)

    def pointer(self, buttons: int, x: int, y: int) -> None:
        """A PointerEvent (RFC 6143, Section 7.5.5), all its buttons as one mask."""
        self.buttons = buttons
        self._x = x
        self._y = y

    def release(self, *, keys: bool = True, buttons: bool = True) -> bytes:
        """Messages that release what is held, which then no longer is."""
        messages = []
        if keys:
            for (kind, code), keysym in self.keys.items():
                if kind == _KEYSYM:
                    messages.append(_key_event(4, 0, keysym))
                else:
                    messages.append(_extended_key_event(255, 0, 0, keysym, code))
            self.keys.clear()
        if buttons and self.buttons:
            messages.append(_pointer_event(5, 0, self._x, self._y))
            self.buttons = 0
        return b"".join(messages)
