"""Which sessions there are now, and how they are ended from outside.

A session is listed from before its chat is looked up. So whoever archives the chat later than
that look finds it here, whether it relays already or still waits for its desktop.
"""

from __future__ import annotations

import ctypes
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final, NamedTuple, Self
from uuid import UUID

import trio

from api.budgets import EVERYBODY, Held, OverBudget, Place
from api.store import Store, StoreError
from relay import CloseCode, Session

__all__ = ["LiveSession", "LiveSessions", "Opened", "reserve_capacity"]

CAPACITY_LIMIT: Final = 4_000
"""Sessions at once, those that wait for their desktop included. One core is busy with fewer."""

SPARE_CONNECTIONS: Final = 100
"""Connections beyond those of the sessions: requests, and what has not asked for anything yet."""

DESCRIPTORS_KEPT: Final = 600
"""For everything that is no session: those connections, the store, spare pipes, and desktops, of
which each Xvnc takes 13. Where the system grants few, half of them."""

CHECK_S: Final = 30.0
"""How often the tokens and chats of the sessions are looked up again."""

TRIM_FROM: Final = 100
"""When of so many sessions half have ended, the process gives memory back."""

_log = logging.getLogger(__name__)


def reserve_capacity() -> int:
    """How many sessions the process has descriptors for, having asked the system for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A session is two sockets. Many systems grant 1,024 descriptors, and more to who asks.
    wanted = 2 * CAPACITY_LIMIT + DESCRIPTORS_KEPT
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(CAPACITY_LIMIT, max(soft - DESCRIPTORS_KEPT, soft // 2) // 2)


def trim() -> None:
    """Gives free memory back to the system. By itself glibc keeps what lies before anything that is
    not free: 28 MiB after 1,000 sessions, where 15 stay this way. It takes less than a ms."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if malloc_trim is not None:
        malloc_trim(0)


class Opened(NamedTuple):
    """Whose session it is, and what else its owner is told of it."""

    user_id: UUID
    since: datetime
    address: str
    view_only: bool


class LiveSession:
    """One request for a desktop, later the session on it; `too_many` for one over the capacity."""

    __slots__ = (
        "_address_key",
        "_held",
        "_live",
        "_session",
        "_stays",
        "chat_id",
        "ending",
        "opened",
        "starting",
        "token_id",
        "too_many",
        "workspace_id",
    )

    def __init__(
        self,
        live: LiveSessions,
        chat_id: str,
        token_id: str,
        opened: Opened | None,
        *,
        too_many: bool,
    ) -> None:
        self._live = live
        self._held: Held | None = None
        self._address_key: str | None = None
        self.workspace_id: UUID | None = None
        self._stays = False
        self.chat_id = chat_id
        self.token_id = token_id
        self.opened = opened
        self.too_many = too_many
        self.starting = trio.CancelScope()
        self.ending: tuple[CloseCode, str] | None = None
        self._session: Session | None = None

    def __enter__(self) -> Self:
        self._live.add(self)
        return self

    def __exit__(self, *_exc: object) -> None:
        if not self._stays:
            self.leave()

    def stay(self) -> None:
        """It is listed until `leave`, also after the block."""
        self._stays = True

    def leave(self) -> None:
        """There is no such session any more."""
        self._live.discard(self)
        if self._held is not None:
            self._held.release(*self._places())
            self._held = None

    def take(self, held: Held, address_key: str | None) -> None:
        """Takes the places of `held` of its user and its address, until the session leaves. Raises
        OverBudget."""
        self._address_key = address_key
        held.take(*self._places())
        self._held = held

    def take_desktop(self, workspace_id: UUID) -> None:
        """And that of its desktop. Raises OverBudget."""
        assert self._held is not None
        self._held.take(("desktop", workspace_id))
        self.workspace_id = workspace_id

    def _places(self) -> list[Place]:
        # Made anew, for each would be some hundred bytes for as long as the session lasts.
        assert self.opened is not None
        places: list[Place] = [("user", self.opened.user_id), ("address", self._address_key)]
        if self.workspace_id is not None:
            places.append(("desktop", self.workspace_id))
        return places

    def attach(self, session: Session) -> None:
        """From here on it is `session` that `end` ends; at once, if `end` was called already."""
        self._session = session
        if self.ending is not None:
            session.stop(*self.ending)

    @property
    def running(self) -> bool:
        """Whether there is a session already."""
        return self._session is not None

    def end(self, code: CloseCode, reason: str) -> None:
        """Tells the viewer `code` and `reason`; what is not a session yet is cancelled, inside
        `starting`."""
        self.ending = self.ending or (code, reason)
        self.starting.cancel()
        if self._session is not None:
            self._session.stop(code, reason)


class LiveSessions:
    """The sessions of this process, and its streams: `capacity` of both at the most."""

    def __init__(self, capacity: int = CAPACITY_LIMIT) -> None:
        self.capacity = capacity
        self.streams = 0
        self._sessions: set[LiveSession] = set()
        self._most = 0

    def enter(self, chat_id: str, token_id: str, opened: Opened | None = None) -> LiveSession:
        """A session that is listed inside a `with` block. `chat_id` is a UUID's text."""
        return LiveSession(self, chat_id, token_id, opened, too_many=self.full)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """A stream, while the block runs: a connection that stays, as a session is. Raises
        OverBudget where there are as many sessions and streams as there may be."""
        if self.full:
            raise OverBudget("streams", EVERYBODY, None, self.capacity)
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    @property
    def full(self) -> bool:
        """Whether there are as many as there may be."""
        return self.count + self.streams >= self.capacity

    def add(self, session: LiveSession) -> None:
        """Lists it."""
        self._sessions.add(session)
        self._most = max(self._most, self.count)

    def discard(self, session: LiveSession) -> None:
        """Has it listed no more."""
        self._sessions.discard(session)
        if self._most >= TRIM_FROM and self.count <= self._most // 2:
            self._most = self.count
            trim()

    @property
    def count(self) -> int:
        """Sessions there are now, those that wait for their desktop included."""
        return len(self._sessions)

    def of_user(self, user_id: UUID) -> list[tuple[LiveSession, Opened]]:
        """A user's sessions that relay, newest first."""
        found = [
            (session, session.opened)
            for session in self._sessions
            if session.opened is not None and session.opened.user_id == user_id and session.running
        ]
        return sorted(found, key=lambda pair: pair[1].since, reverse=True)

    def end_chat(self, chat_id: UUID, code: CloseCode, reason: str) -> None:
        """Ends every session on a chat's desktop, telling the viewers why."""
        text = str(chat_id)
        for session in self._sessions:
            if session.chat_id == text:
                session.end(code, reason)

    def end_token(self, token_id: str, code: CloseCode, reason: str) -> None:
        """Ends every session that was opened with a token."""
        for session in self._sessions:
            if session.token_id == token_id:
                session.end(code, reason)

    def end_all(self, code: CloseCode, reason: str) -> None:
        """Ends every session of the process."""
        for session in self._sessions:
            session.end(code, reason)

    async def watch_store(self, store: Store) -> None:
        """Ends sessions whose token has expired or is gone, and those of chats that were archived
        elsewhere. Runs until cancelled."""
        while True:
            await trio.sleep(CHECK_S)
            try:
                await self._check(store)
            except StoreError:
                # The store has logged it. A database that is away ends no session.
                _log.warning("tokens and chats of running sessions could not be checked")

    async def _check(self, store: Store) -> None:
        for token_id in {session.token_id for session in self._sessions}:
            token = await store.token(token_id)
            if token is None or token.user_status != "active" or store.expired(token):
                self.end_token(token_id, CloseCode.SIGNED_OUT, "signed out")
        # Of one that has no session yet the id may be any text.
        running = {UUID(session.chat_id) for session in self._sessions if session.running}
        for chat_id in await store.archived(running):
            self.end_chat(chat_id, CloseCode.ARCHIVED, "chat archived")
