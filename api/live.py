"""Which sessions run now, by chat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from relay import CloseCode, Session

__all__ = ["LiveSessions"]


class LiveSessions:
    """The running sessions of this process."""

    def __init__(self) -> None:
        self._by_chat: dict[UUID, set[Session]] = {}

    @contextmanager
    def add(self, chat_id: UUID, session: Session) -> Iterator[None]:
        """Lists `session` under its chat while the block runs."""
        sessions = self._by_chat.setdefault(chat_id, set())
        sessions.add(session)
        try:
            yield
        finally:
            sessions.discard(session)
            if not sessions:
                self._by_chat.pop(chat_id, None)

    @property
    def count(self) -> int:
        """Sessions that run now."""
        return sum(map(len, self._by_chat.values()))

    def end_chat(self, chat_id: UUID, code: CloseCode, reason: str) -> None:
        """Ends every session on a chat's desktop, telling the viewers why."""
        for session in self._by_chat.get(chat_id, ()):
            session.stop(code, reason)

    def end_all(self, code: CloseCode, reason: str) -> None:
        """Ends every session of the process."""
        for sessions in self._by_chat.values():
            for session in sessions:
                session.stop(code, reason)
