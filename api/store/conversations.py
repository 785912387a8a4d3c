"""What is said in chats, and who runs them, over the store.

A chat is run by one task of one process, which holds it by a lease: under an id of its own it has
said until when it runs the chat, and says so again. Who has lost the chat writes nothing more into
it. What a process left running that has died is found by its lease's end. Who wants a run to stop
that may be another process's writes it down, and the run looks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    Select,
    Text,
    cast,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from api.budgets import BudgetSettings
from api.store.database import StoreError
from api.store.records import Chat, File, Message, MessageText, Page
from api.store.schema import chats, files, messages, users, waiting_messages
from api.store.spent import CHATS, STORED_BYTES, WAITING_MESSAGES, spend
from api.store.store import Store
from relay.controls import escaped

__all__ = ["ABANDONED", "BUSY", "LEASE_S", "Conversations"]

LEASE_S: Final = 30
"""How long a chat may stand as running when nobody runs it any more. It is renewed three times as
often."""

MESSAGES_AT_ONCE: Final = 4
"""Read from the database for a page of them. What a user says has 384 KB at the most, what a model
says 1 MiB."""

ABANDONED: Final = "The server stopped while it was at work. Send a message to go on."

BUSY: Final = ("pending", "running")
"""Statuses of a chat that somebody works at, or is about to."""

_ASKED: Final = "asked"
_ANSWER: Final = "answer"

_parents = chats.alias("parents")
_OPEN: Final = ~chats.c.archived & ~exists(_parents.c.id).where(
    _parents.c.id == chats.c.parent_id, _parents.c.archived
)
"""Of a chat: neither it nor the one that has spawned it is archived."""

_ALLOWED: Final = _OPEN & exists(users.c.id).where(
    users.c.id == chats.c.owner_id, users.c.status == "active"
)
"""Of a chat: its model may be at work."""

_NOBODYS: Final[dict[str, object]] = {"running_until": None, "run_id": None, "interruption": None}

Content = list[dict[str, Any]]


class Conversations:
    """Every method raises StoreError where the database fails. Those that write what a user has a
    budget for raise OverBudget where it is used up, and have written nothing then."""

    def __init__(self, store: Store, budgets: BudgetSettings | None = None) -> None:
        self._store = store
        self._budgets = budgets or BudgetSettings()

    # Chats that others have spawned.

    async def create_child(
        self, parent: Chat, title: str, prompt: Content, child_id: UUID | None = None
    ) -> Chat | None:
        """A new, pending chat of mode `computer_use` under `parent`, on the same workspace, whose
        first message is `prompt`. None where the parent is archived."""
        now = self._store.now()
        child = Chat(
            child_id or uuid4(),
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
            spend(connection, parent.owner_id, CHATS, 1, self._budgets.chats_per_user)
            connection.execute(insert(chats).values(**asdict(child)))
            self._spend_bytes(connection, child.id, _size_bytes(prompt))
            _add(connection, child.id, "user", prompt, now)
            return child

        return await self._store.database.run(work, write=True)

    async def children(
        self, chat_id: UUID, *, offset: int = 0, limit: int | None = None
    ) -> list[Chat]:
        """Those that a chat has spawned, newest first."""
        query = (
            select(chats)
            .where(chats.c.parent_id == chat_id)
            .order_by(chats.c.created_at.desc(), chats.c.id)
            .offset(offset)
            .limit(limit)
        )
        rows = await self._store.database.rows(query)
        return [Chat(**row._mapping) for row in rows]

    async def count_children(self, chat_id: UUID) -> tuple[int, int]:
        """How many a chat has spawned, and how many of them somebody works at."""
        at_work = func.count().filter(chats.c.status.in_(BUSY))
        query = select(func.count(), at_work).where(chats.c.parent_id == chat_id)
        row = await self._store.database.run(lambda connection: connection.execute(query).one())
        return row[0], row[1]

    # Who runs a chat.

    async def begin(self, chat_id: UUID, run_id: UUID) -> bool:
        """Takes the lease, for `LEASE_S`. False where another runs the chat, it was interrupted
        before it began, it is archived, or its owner is suspended."""
        now = self._store.now()
        free = (chats.c.status != "running") & chats.c.interruption.is_(None)
        free |= chats.c.running_until < now
        values = _NOBODYS | _pending(now) | {"status": "running", "run_id": run_id}
        return await self._set(chat_id, free & _ALLOWED, **values)

    async def renew(self, chat_id: UUID, run_id: UUID) -> bool:
        """Prolongs the lease; whether the run `holds` the chat."""
        until = self._store.now() + timedelta(seconds=LEASE_S)
        return await self._set(chat_id, _goes_on(run_id), running_until=until)

    async def holds(self, chat_id: UUID, run_id: UUID) -> bool:
        """Whether a run goes on: it was not interrupted, has the lease still, its chat is not
        archived, nor its owner suspended."""
        query = select(chats.c.id).where(chats.c.id == chat_id, _goes_on(run_id))
        row = await self._store.database.run(lambda connection: connection.execute(query).first())
        return row is not None

    async def finish(
        self,
        chat_id: UUID,
        run_id: UUID,
        status: str,
        last_error: str | None = None,
        *,
        begun: bool = True,
        go_on: bool = False,
    ) -> bool:
        """Gives the lease back; where the run had not `begun`, a chat is done with being pending
        too. Whether the chat is pending instead: something waits that was not heard, and the run is
        to `go_on` with it, or it was said behind an `interrupt`."""
        if last_error is not None:
            # PostgreSQL has no U+0000, and no database takes half a surrogate pair.
            last_error = last_error.replace("\0", "").encode(errors="replace").decode()
            last_error = escaped(last_error)
        held = _held(run_id)
        if not begun:
            held |= chats.c.status == "pending"
        found = select(chats.c.interruption).where(chats.c.id == chat_id, held).with_for_update()
        waiting = _waiting(chat_id)
        now = self._store.now()
        ending = {"status": status, "last_error": last_error, "updated_at": now}

        def work(connection: Connection) -> bool:
            # The lock is held from here on: who asks later finds the chat free.
            row = connection.execute(found).one_or_none()
            if row is None:
                return False
            again = go_on if row.interruption is None else row.interruption == _ANSWER
            again = again and connection.execute(waiting).scalar_one()
            values = _NOBODYS | ending | (_pending(now) if again else {})
            connection.execute(update(chats).where(chats.c.id == chat_id).values(values))
            return again

        return await self._store.database.run(work, write=True)

    async def interrupt(self, chat_id: UUID) -> bool:
        """Wants whoever runs a chat to stop, which what is said from here on is not meant by.
        False where nobody does."""
        busy = chats.c.status.in_(BUSY)
        return await self._set(chat_id, busy, interruption=_ASKED)

    async def interrupting(self, chat_id: UUID) -> bool:
        """Whether that is still to be obeyed."""
        chat = await self._store.chat(chat_id)
        return chat is not None and chat.interruption is not None

    async def _set(self, chat_id: UUID, where: ColumnElement[bool], **values: object) -> bool:
        statement = update(chats).where(chats.c.id == chat_id, where).values(**values)
        return bool(await self._store.database.write(statement))

    async def mark_abandoned(self) -> list[UUID]:
        """Chats that stand as busy and whose lease is over become `error`; which those were."""
        over = chats.c.status.in_(BUSY) & (chats.c.running_until < self._store.now())
        found = select(chats.c.id).where(over)
        # Nearly always there are none, and looking is no write.
        ids = await self._store.database.run(
            lambda connection: connection.execute(found).scalars().all()
        )
        marked: dict[str, object] = {"status": "error", "last_error": ABANDONED} | _NOBODYS
        # Other processes look as well, and one of them marks it.
        return [chat_id for chat_id in ids if await self._set(chat_id, over, **marked)]

    async def unheard(self, chat_id: UUID) -> bool:
        """Whether something waits that was not heard."""
        waiting = _waiting(chat_id)
        row = await self._store.database.run(lambda connection: connection.execute(waiting).one())
        return bool(row[0])

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
        rows = await self._store.database.rows(query)
        return [Message(**row._mapping) for row in rows]

    async def messages_page(
        self, chat: Chat, made: Callable[[MessageText], bytes], *, after: int, limit: int
    ) -> Page:
        """The same as a page of what `made` makes of each, in a thread."""
        query = (
            select(
                messages.c.id,
                messages.c.role,
                cast(messages.c.content, Text).label("content"),
                messages.c.created_at,
            )
            .where(messages.c.chat_id == chat.id, messages.c.id > after)
            .order_by(messages.c.id)
        )
        return await self._store.database.page(
            query,
            lambda row: made(MessageText(**row._mapping)),
            owner=chat.owner_id,
            limit=limit,
            rows_at_once=MESSAGES_AT_ONCE,
        )

    async def add(
        self,
        chat_id: UUID,
        role: str,
        content: Content,
        pictures: Sequence[File] = (),
        *,
        run_id: UUID | None = None,
    ) -> None:
        """Says something in a chat, with the pictures that it has. Raises StoreError where `run_id`
        is given, and that run does not have the chat any more."""
        now = self._store.now()

        def work(connection: Connection) -> None:
            _check_held(connection, chat_id, run_id)
            pictures_bytes = sum(len(picture.data) for picture in pictures)
            self._spend_bytes(connection, chat_id, _size_bytes(content) + pictures_bytes)
            if pictures:
                rows = [asdict(picture) | {"created_at": now} for picture in pictures]
                connection.execute(insert(files), rows)
            _add(connection, chat_id, role, content, now)

        await self._store.database.run(work, write=True)

    async def ask(self, chat_id: UUID, content: Content, *, limit: int) -> bool:
        """Something of the user's, for when the model listens: a chat at which nobody works is
        pending from here on. False where `limit` wait already for somebody who works, or the chat
        is archived."""
        now = self._store.now()
        idle = (chats.c.id == chat_id) & chats.c.status.not_in(BUSY)
        pending = update(chats).where(idle).values(_pending(now))
        interrupted = (chats.c.id == chat_id) & (chats.c.interruption == _ASKED)
        answer = update(chats).where(interrupted).values(interruption=_ANSWER)

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
            # Its bytes are counted once: they become a message's when the chat listens.
            self._spend_bytes(connection, chat_id, _size_bytes(content))
            most = self._budgets.waiting_messages_per_user
            spend(connection, _owner(chat_id), WAITING_MESSAGES, 1, most)
            connection.execute(
                insert(waiting_messages).values(chat_id=chat_id, content=content, created_at=now)
            )
            connection.execute(pending)
            connection.execute(answer)
            return True

        return await self._store.database.run(work, write=True)

    async def listen(self, chat_id: UUID, *, run_id: UUID | None = None) -> bool:
        """What waits becomes part of the conversation; whether there was anything. `run_id` as
        for `add`."""
        waiting = (
            select(waiting_messages)
            .where(waiting_messages.c.chat_id == chat_id)
            .order_by(waiting_messages.c.id)
            .with_for_update()
        )

        def work(connection: Connection) -> bool:
            _check_held(connection, chat_id, run_id)
            rows = connection.execute(waiting).all()
            for row in rows:
                _add(connection, chat_id, "user", row.content, row.created_at)
                connection.execute(delete(waiting_messages).where(waiting_messages.c.id == row.id))
            if rows:
                spend(connection, _owner(chat_id), WAITING_MESSAGES, -len(rows))
            return bool(rows)

        return await self._store.database.run(work, write=True)

    def _spend_bytes(self, connection: Connection, chat_id: UUID, count: int) -> None:
        most = self._budgets.stored_bytes_per_user
        spend(connection, _owner(chat_id), STORED_BYTES, count, most)

    async def picture(self, file_id: UUID) -> File | None:
        """The file of that id."""
        columns = (files.c.id, files.c.chat_id, files.c.media_type, files.c.data)
        row = await self._store.database.run(
            lambda connection: connection.execute(
                select(*columns).where(files.c.id == file_id)
            ).one_or_none()
        )
        return None if row is None else File(**row._mapping)


def _owner(chat_id: UUID) -> ScalarSelect[UUID]:
    return select(chats.c.owner_id).where(chats.c.id == chat_id).scalar_subquery()


def _size_bytes(content: Content) -> int:
    """As the database keeps it, in ASCII."""
    return len(json.dumps(content))


def _waiting(chat_id: UUID) -> Select[Any]:
    return select(exists().where(waiting_messages.c.chat_id == chat_id))


def _pending(now: datetime) -> dict[str, object]:
    until = now + timedelta(seconds=LEASE_S)
    return {"status": "pending", "last_error": None, "running_until": until}


def _held(run_id: UUID) -> ColumnElement[bool]:
    return (chats.c.status == "running") & (chats.c.run_id == run_id)


def _goes_on(run_id: UUID) -> ColumnElement[bool]:
    return _held(run_id) & chats.c.interruption.is_(None) & _ALLOWED


def _check_held(connection: Connection, chat_id: UUID, run_id: UUID | None) -> None:
    if run_id is None:
        return
    # Locked: nobody takes the chat before this is written.
    held = select(chats.c.id).where(chats.c.id == chat_id, _held(run_id))
    if connection.execute(held.with_for_update()).first() is None:
        raise StoreError("the run has lost its chat")


def _add(connection: Connection, chat_id: UUID, role: str, content: Content, now: object) -> None:
    connection.execute(
        insert(messages).values(chat_id=chat_id, role=role, content=content, created_at=now)
    )
