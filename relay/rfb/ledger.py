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
each time; beyond this many the oldest is released."""

_KEYSYM, _KEYCODE = 0, 1

_NO_DELTA = 0x7FFF
"""Deltas are around this (community specification, QEMU Pointer Motion Change)."""


class Ledger:
    """Fed with every input that goes to the desktop."""

    __slots__ = ("buttons", "keys", "x", "y")

    def __init__(self) -> None:
        # By keysym, or for the extended key events by keycode where there is one (some viewers
        # send 0); the value is the keysym.
        self.keys: dict[tuple[int, int], int] = {}
        self.buttons = 0
        self.x = 0
        self.y = 0

    def key(self, keysym: int, down: bool) -> bytes:
        """A KeyEvent (RFC 6143, Section 7.5.4). Returns what is to be released for it."""
        return self._note((_KEYSYM, keysym), keysym, down)

    def extended_key(self, keysym: int, keycode: int, down: bool) -> bytes:
        """As `key`, for a QEMU Extended Key Event (community specification)."""
        return self._note((_KEYCODE, keycode or keysym << 32), keysym, down)

    def _note(self, key: tuple[int, int], keysym: int, down: bool) -> bytes:
        if not down:
            self.keys.pop(key, None)
            return b""
        self.keys[key] = keysym
        if len(self.keys) <= HELD_KEYS_LIMIT:
            return b""
        oldest = next(iter(self.keys))
        return _released(*oldest, self.keys.pop(oldest))

    def pointer(self, buttons: int, x: int, y: int) -> None:
        """A PointerEvent (RFC 6143, Section 7.5.5), all its buttons as one mask."""
        self.buttons = buttons
        self.x = x
        self.y = y

    def release(self, *, relative: bool, keys: bool = True, buttons: bool = True) -> bytes:
        """Messages that release what is held, which then no longer is. `relative`: whether the
        desktop reads positions as deltas."""
        messages = []
        if keys:
            messages += [_released(*key, keysym) for key, keysym in self.keys.items()]
            self.keys.clear()
        if buttons and self.buttons:
            x, y = (_NO_DELTA, _NO_DELTA) if relative else (self.x, self.y)
            messages.append(_pointer_event(5, 0, x, y))
            self.buttons = 0
        return b"".join(messages)


def _released(kind: int, code: int, keysym: int) -> bytes:
    if kind == _KEYSYM:
        return _key_event(4, 0, keysym)
    return _extended_key_event(255, 0, 0, keysym, code & 0xFFFFFFFF)
