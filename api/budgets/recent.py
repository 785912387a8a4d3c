"""A table that anybody can write into, and that is bounded all the same."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Recent"]

_Value = TypeVar("_Value")


class Recent(Generic[_Value]):
    """The `limit` entries that were put last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[Hashable, _Value] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> _Value | None:
        """What was put there last."""
        return self._entries.get(key)

    def put(self, key: Hashable, value: _Value) -> None:
        """The entry is the newest then."""
        self._entries.pop(key, None)
        self._entries[key] = value
        if len(self._entries) > self._limit:
            del self._entries[next(iter(self._entries))]

    def drop(self, key: Hashable) -> None:
        """There is none of that key then."""
        self._entries.pop(key, None)
