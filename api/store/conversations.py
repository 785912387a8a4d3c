"""What is said in chats, and who runs them, over the store.

A chat is run by one task of one process, which holds it by a lease: it has said until when it runs
the chat, and says so again. That moment is also what tells its lease from another's. What a process
left running that has died is found by its lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, select, update

from api.store.records import Chat, File, Message
from api.store.schema import chats, files, messages, waiting_messages

if TYPE_CHECKING:
    from api.store.store import Store

__all__ = ["ABANDONED", "BUSY", "LEASE_S", "Conversations"]

LEASE_S: Final = 30
"""How long a chat may stand as running when nobody runs it any more. It is renewed three times as
often."""

ABANDONED: Final = "The server stopped while it was at work. Send a message to go on."

BUSY: Final = ("pending", "running")
"""Statuses of a chat that somebody works at, or is about to."""

_parents = chats.alias("parents")
_OPEN: Final = ~chats.c.archived & ~exists(_parents.c.id).where(
    _parents.c.id == chats.c.parent_id, _parents.c.archived
)
"""Of a chat: neither it nor the one that has spawned it is archived."""

Content = list[dict[str, Any]]


class Conversations:
    """Every method raises StoreError where the database fails."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # Chats that others have spawned.

    async def create_child(self, parent: Chat, title: str, prompt: Content) -> Chat | None:
        """A new, pending chat of mode `computer_use` under `parent`, on the same workspace, whose
        first message is `prompt`. None where the parent is archived."""
        now = self._store.now()
        child = Chat(
            uuid4(),
            parent.owner_id,
            parent.workspace_id,
            title,
            False,
            now,
            now,
            parent.id,
            "computer_use",
            "pending",
            None,
            now + timedelta(seconds=LEASE_S),
        )

        def work(connection: Connection) -> Chat | None:
            # The lock is held from the start, so nobody archives it in between.
            where = select(chats.c.archived).where(chats.c.id == parent.id).with_for_update()
            if connection.execute(where).scalar_one_or_none() in (None, True):
                return None
            connection.execute(insert(chats).values(**asdict(child)))
            _add(connection, child.id, "user", prompt, now)
            return child

        return await self._store.run(work, write=True)

    async def children(self, chat_id: UUID) -> list[Chat]:
        """Those that a chat has spawned, newest first."""
        query = (
            select(chats)
            .where(chats.c.parent_id == chat_id)
            .order_by(chats.c.created_at.desc(), chats.c.id)
        )
        rows = await self._store.run(lambda connection: connection.execute(query).all())
        return [Chat(**row._mapping) for row in rows]

    # Who runs a chat.

    async def begin(self, chat_id: UUID) -> datetime | None:
        """Takes the lease, and tells until when it holds. None where the chat is archived, or
        another runs it."""
        now = self._store.now()
        until = now + timedelta(seconds=LEASE_S)
        free = (chats.c.status != "running") | (chats.c.running_until < now)
        values = {"status": "running", "last_error": None, "running_until": until}
        return until if await self._set(chat_id, free & _OPEN, **values) else None

    async def renew(self, chat_id: UUID, lease: datetime) -> datetime | None:
        """Prolongs the lease that holds until `lease`, and tells until when it does now. None where
        it was lost, or the chat archived."""
        until = self._store.now() + timedelta(seconds=LEASE_S)
        return (
            until if await self._set(chat_id, _held(lease) & _OPEN, running_until=until) else None
        )

    async def finish(
        self, chat_id: UUID, lease: datetime | None, status: str, last_error: str | None = None
    ) -> bool:
        """Gives the lease back; without one, a chat is only done with being pending. Whether it has
        ended so and something waits that was not heard."""
        if last_error is not None:
            # PostgreSQL has no U+0000, and no database takes half a surrogate pair.
            last_error = last_error.replace("\0", "").encode(errors="replace").decode()
        held = chats.c.status == "pending" if lease is None else _held(lease)
        ending = (
            update(chats)
            .where(chats.c.id == chat_id, held)
            .values(
                status=status,
                last_error=last_error,
                running_until=None,
                updated_at=self._store.now(),
            )
        )
        waiting = select(exists().where(waiting_messages.c.chat_id == chat_id))

        def work(connection: Connection) -> bool:
            # In this order: who asks later finds the chat free.
            if not connection.execute(ending).rowcount:
                return False
            return bool(connection.execute(waiting).scalar_one())

        return await self._store.run(work, write=True)

    async def _set(self, chat_id: UUID, where: ColumnElement[bool], **values: object) -> bool:
        statement = update(chats).where(chats.c.id == chat_id, where).values(**values)
        result = await self._store.run(lambda connection: connection.execute(statement), write=True)
        return bool(result.rowcount)

    async def mark_abandoned(self) -> list[UUID]:
        """Chats that stand as busy and whose lease is over become `error`; which those were."""
        over = chats.c.status.in_(BUSY) & (chats.c.running_until < self._store.now())
        found = select(chats.c.id).where(over)
        # Nearly always there are none, and looking is no write.
        ids = await self._store.run(lambda connection: connection.execute(found).scalars().all())
        for chat_id in ids:
            await self._set(chat_id, over, status="error", last_error=ABANDONED, running_until=None)
        return list(ids)

    # Messages.

    async def messages(
        self, chat_id: UUID, *, after: int = 0, limit: int | None = None
    ) -> list[Message]:
        """What was said behind message `after`, oldest first."""
        query = (
            select(messages)
            .where(messages.c.chat_id == chat_id, messages.c.id > after)
            .order_by(messages.c.id)
            .limit(limit)
        )
        rows = await self._store.run(lambda connection: connection.execute(query).all())
        return [Message(**row._mapping) for row in rows]

    async def add(
        self, chat_id: UUID, role: str, content: Content, pictures: Sequence[File] = ()
    ) -> None:
        """Says something in a chat, with the pictures that it has."""
        now = self._store.now()

        def work(connection: Connection) -> None:
            if pictures:
                rows = [asdict(picture) | {"created_at": now} for picture in pictures]
                connection.execute(insert(files), rows)
            _add(connection, chat_id, role, content, now)

        await self._store.run(work, write=True)

    async def ask(self, chat_id: UUID, content: Content, *, limit: int) -> bool:
        """Something of the user's, for when the model listens: a chat at which nobody works is
        pending from here on. False where `limit` wait already for somebody who works, or the chat
        is archived."""
        now = self._store.now()
        until = now + timedelta(seconds=LEASE_S)
        idle = (chats.c.id == chat_id) & chats.c.status.not_in(BUSY)
        pending = (
            update(chats).where(idle).values(status="pending", last_error=None, running_until=until)
        )

        def work(connection: Connection) -> bool:
            waiting = select(func.count()).where(waiting_messages.c.chat_id == chat_id)
            there = (
                select(_OPEN.label("open"), chats.c.status)
                .where(chats.c.id == chat_id)
                .with_for_update(of=chats)
            )
            chat = connection.execute(there).one_or_none()
            if chat is None or not chat.open:
                return False
            # An interrupt leaves what waits unheard, and only something new has it heard.
            if chat.status in BUSY and connection.execute(waiting).scalar_one() >= limit:
                return False
            connection.execute(
                insert(waiting_messages).values(chat_id=chat_id, content=content, created_at=now)
            )
            connection.execute(pending)
            return True

        return await self._store.run(work, write=True)

    async def listen(self, chat_id: UUID) -> bool:
        """What waits becomes part of the conversation; whether there was anything."""
        waiting = (
            select(waiting_messages)
            .where(waiting_messages.c.chat_id == chat_id)
            .order_by(waiting_messages.c.id)
            .with_for_update()
        )

        def work(connection: Connection) -> bool:
            rows = connection.execute(waiting).all()
            for row in rows:
                _add(connection, chat_id, "user", row.content, row.created_at)
                connection.execute(delete(waiting_messages).where(waiting_messages.c.id == row.id))
            return bool(rows)

        return await self._store.run(work, write=True)

    async def picture(self, file_id: UUID) -> File | None:
        """The file of that id."""
        columns = (files.c.id, files.c.chat_id, files.c.media_type, files.c.data)
        row = await self._store.run(
            lambda connection: connection.execute(
                select(*columns).where(files.c.id == file_id)
            ).one_or_none()
        )
        return None if row is None else File(**row._mapping)


def _held(lease: datetime) -> ColumnElement[bool]:
    return (chats.c.status == "running") & (chats.c.running_until == lease)


def _add(connection: Connection, chat_id: UUID, role: str, content: Content, now: object) -> None:
    connection.execute(
        insert(messages).values(chat_id=chat_id, role=role, content=content, created_at=now)
    )
