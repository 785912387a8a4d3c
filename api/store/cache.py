"""What sessions have started with, for as long as nothing was written.

A session's start then needs neither a thread nor a query: it takes an entry that was read at
the version which the database still has. Whatever changes the version empties the cache. So
what is taken from it is what a query would have found; what depends on the time (whether a
token has expired) is for the taker to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final
from uuid import UUID

from api.store.records import Access

__all__ = ["ENTRIES", "AccessCache"]

ENTRIES: Final = 4_000
"""As many as a process has sessions (`api/live.py`), for they may all come back at once when a
network does. One takes about 1.4 KiB."""

Version = Hashable
Key = tuple[str, UUID]


class AccessCache:
    """`version` is called for the database's present version; None if that cannot be told."""

    def __init__(self, version: Callable[[], Version | None]) -> None:
        self.version = version
        self._of_version: Version | None = None
        self._entries: dict[Key, Access] = {}

    def get(self, key: Key) -> Access | None:
        """What was kept under `key`, if nothing has been written since it was read."""
        self._forget_older(self.version())
        return self._entries.get(key)

    def keep(self, key: Key, access: Access, before: Version | None) -> None:
        """Keeps what was read. `before` is the version before the reading began: where it is
        not the present one, nobody knows which of the two was read."""
        now = self.version()
        self._forget_older(now)
        if now is None or now != before:
            return
        if len(self._entries) >= ENTRIES:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = access

    def _forget_older(self, now: Version | None) -> None:
        if now is None or now != self._of_version:
            self._entries.clear()
            self._of_version = now
