"""Which sessions MCP clients have over HTTP, what is in work in each, and which one has to go when
another client comes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

import trio

__all__ = ["LISTENING", "Busy", "Full", "Session", "Sessions"]

LISTENING: Final = "_GET_stream"
"""What the package calls the stream that a client listens on, among its requests' ids."""


class Full(Exception):
    """There are as many sessions as there may be, and something is in work in each."""


class Busy(Exception):
    """The session has a request of this id in work already, or a stream that is listened on."""


class Session:
    """One client's, from the answer to its `initialize` on."""

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.used_at = trio.current_time()
        self._in_work: set[trio.CancelScope] = set()
        self._keys: set[str] = set()
        self._idle = trio.Event()
        self._idle.set()

    @property
    def idle(self) -> bool:
        """Whether no request of it is in work, and no stream open."""
        return not self._in_work

    @contextmanager
    def work(self, key: str | None) -> Generator[trio.CancelScope, None, None]:
        """Around a request, in a scope that `end` cancels. `key` is its id, `LISTENING`, or None
        for what has no answer. Raises Busy."""
        if key is not None and key in self._keys:
            raise Busy
        scope = trio.CancelScope()
        self._in_work.add(scope)
        self._idle = trio.Event()
        if key is not None:
            self._keys.add(key)
        try:
            with scope:
                yield scope
        finally:
            if key is not None:
                self._keys.remove(key)
            self._in_work.remove(scope)
            self.used_at = trio.current_time()
            if self.idle:
                self._idle.set()

    async def end(self) -> None:
        """Ends what is in work."""
        for scope in self._in_work:
            scope.cancel()
        while not self.idle:
            await self._idle.wait()


class Sessions:
    """At most `limit`, those that are being opened among them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._opening: set[object] = set()
        self._sessions: dict[str, Session] = {}

    def get(self, session_id: str) -> Session | None:
        return self._sessions.get(session_id)

    def all(self) -> list[Session]:
        return list(self._sessions.values())

    def remove(self, session_id: str) -> Session | None:
        return self._sessions.pop(session_id, None)

    @contextmanager
    def opening(self) -> Generator[tuple[Session | None, Callable[[str], None]], None, None]:
        """Around an `initialize`. Yields the session that has made room for it, which is none of
        these any more: the one that has been idle the longest; and what adds the new one, by its
        id, once it has been answered. Raises Full where none is idle."""
        evicted = None
        if len(self._sessions) + len(self._opening) >= self._limit:
            idle = [session for session in self.all() if session.idle]
            if not idle:
                raise Full
            evicted = min(idle, key=lambda session: session.used_at)
            self.remove(evicted.id)
        place = object()
        self._opening.add(place)

        def add(session_id: str) -> None:
            # Whoever has read the answer may open the next one before this block ends.
            self._opening.discard(place)
            self._sessions[session_id] = Session(session_id)

        try:
            yield evicted, add
        finally:
            self._opening.discard(place)
