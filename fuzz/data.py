"""A fuzzer's bytes as choices, in the way of libFuzzer's FuzzedDataProvider.

A target's input is a sequence of choices, so that most inputs get past the first check; an input
that ends early goes on with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_SIZES = (0, 1, 2, 3, 4, 8, 9, 15, 16, 17, 24, 33)
_ODD_U32 = (0, 1, 0x7F, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFC, 0xFFFFFFFF)


class Data:
    """Reads choices off `data` from its beginning."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def left(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        at = self._at
        if at >= len(self._data):
            return 0
        self._at = at + 1
        return self._data[at]

    def u16(self) -> int:
        return self.byte() << 8 | self.byte()

    def u32(self) -> int:
        return self.u16() << 16 | self.u16()

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.byte() % len(choices)]

    def one_in(self, count: int) -> bool:
        """False where the input has ended."""
        return self.byte() % count == 1

    def size(self) -> int:
        """A small number, now and then any of 16 bits."""
        choice = self.byte()
        if choice >= 250:
            return self.u16()
        return _SIZES[choice] if choice < len(_SIZES) else choice % 20

    def odd_u32(self) -> int:
        """A number at which arithmetic of 32 bits goes wrong, or any."""
        choice = self.byte()
        return _ODD_U32[choice] if choice < len(_ODD_U32) else self.u32()

    def about(self, number: int) -> int:
        """Mostly `number` itself; else one beside it, or any of 32 bits."""
        choice = self.byte()
        if choice < 240:
            return number
        if choice < 250:
            return max(0, number + choice - 245)
        return self.odd_u32()

    def take(self, count: int) -> bytes:
        """At most `count` bytes."""
        at = self._at
        self._at = at + count
        return self._data[at : at + count]

    def fill(self, count: int) -> bytes:
        """Exactly `count` bytes, of which the input need not have as many."""
        return self.take(min(count, 8)).ljust(count, b"\x5a")

    def rest(self) -> bytes:
        at = self._at
        self._at = len(self._data)
        return self._data[at:]
