"""How the server works on its database: SQLAlchemy Core, in worker threads.

Whatever is done is one transaction in one thread, so no half transaction is ever left: whoever is
cancelled while writing waits for the commit or the rollback. No wait is longer than `ANSWER_S`:
where a database hangs, its thread is left to itself, and what it was to write may still be written.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, Self, TypeVar

import trio
from alembic.util import CommandError
from sqlalchemy import Connection, Delete, Engine, Insert, Row, Select, StaticPool, Update, text
from sqlalchemy.exc import SQLAlchemyError

from api.store.engine import THREADS, DataVersion, make_engine
from api.store.migrations.upgrade import migrate
from api.store.records import Item, Page

__all__ = ["ANSWER_S", "MEMORY_URL", "PAGE_BYTES", "Database", "StoreError"]

MEMORY_URL: Final = "sqlite://"

ANSWER_S: Final = 6.0
"""For one transaction, and the wait for a thread before it. Longer than SQLite waits for another
process (`BUSY_TIMEOUT_S`), whose own error says more."""

PAGE_BYTES: Final = 1 << 20
"""Of a page, in the form in which it is handed out. A single longer item is a page by itself."""

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class StoreError(Exception):
    """The database did not do what was asked. The text is for the operator, not for clients."""


class Database:
    """See the module. Its methods raise StoreError where the database fails."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # The in-memory database is one connection, which two threads must not share.
        threads = 1 if isinstance(engine.pool, StaticPool) else THREADS
        self._limiter = trio.CapacityLimiter(threads)
        # Making a page is work for Python, and each thread that works makes Trio's wait longer for
        # its turn. So there is one, and the other threads are free for what is short. And of each
        # owner one waits for it at a time: however many pages one wants, the next is another's.
        self._paging = trio.Lock()
        self._owners: dict[Hashable, trio.Lock] = {}
        self._pinging = trio.Lock()
        # How often this process has written: who has looked tells by it whether to look again.
        self.changes = 0
        self._counting = threading.Lock()
        self._data_version: DataVersion | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connects, and brings the tables to this version.

        Raises StoreError where the database can't be reached, or is of a newer version.
        """
        try:
            database = cls(make_engine(url))
        except SQLAlchemyError as error:
            raise StoreError(f"cannot use the database: {error}") from error
        except ImportError as error:
            raise StoreError(
                f"cannot use the database: {error.name} is not installed; for postgresql+psycopg://,"
                ' pip install "deskrelay[server,postgres]" brings what it takes'
            ) from error
        try:
            with trio.CancelScope(shield=True):  # a large database takes its time
                await database._in_thread(partial(database._transaction, migrate, write=True))
            await database._in_thread(database._watch_data_version)
        except CommandError as error:
            await database.aclose()
            raise StoreError(f"the database is not of this version: {error}") from error
        except StoreError as error:
            await database.aclose()
            shown = database._engine.url.render_as_string()  # without its password
            raise StoreError(f"cannot use the database {shown}: {error}") from error
        return database

    async def aclose(self) -> None:
        """Closes the connections; an in-memory database is gone then. Where the database hangs in
        every thread, they are left to the process's end."""
        with trio.move_on_after(ANSWER_S, shield=True):
            await trio.to_thread.run_sync(
                self._close, limiter=self._limiter, abandon_on_cancel=True
            )

    def _close(self) -> None:
        # Before the pool's connections: SQLite tidies its files up when the last one closes.
        if self._data_version is not None:
            self._data_version.close()
        self._engine.dispose()

    def _watch_data_version(self) -> None:
        self._data_version = DataVersion.of(self._engine)

    def version(self) -> Hashable | None:
        """See AccessCache. A database with neither a file nor only this process cannot tell."""
        if self._data_version is not None:
            number = self._data_version.read()
            return None if number is None else (self.changes, number)
        return self.changes if isinstance(self._engine.pool, StaticPool) else None

    async def run(self, work: Callable[[Connection], _T], *, write: bool = False) -> _T:
        """`work` as one transaction, which may write only if it says so. Raises StoreError."""
        with trio.move_on_after(ANSWER_S, shield=write):
            return await self._in_thread(partial(self._transaction, work, write=write))
        await trio.lowlevel.checkpoint_if_cancelled()
        _log.error("the database did not answer within %g s", ANSWER_S)
        raise StoreError("no answer")

    def _transaction(self, work: Callable[[Connection], _T], *, write: bool) -> _T:
        try:
            connection = self._engine.connect().execution_options(write=write)
            with connection, connection.begin():
                return work(connection)
        finally:
            # Failed ones too: the commit may have been what was not answered. And here, for those
            # nobody waits for any more.
            if write:
                with self._counting:
                    self.changes += 1

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        try:
            return await trio.to_thread.run_sync(
                work, limiter=self._limiter, abandon_on_cancel=True
            )
        except SQLAlchemyError as error:
            # `orig` is the driver's own text; str(error) would repeat the statement's values, and
            # so do PostgreSQL's lines behind the first.
            cause = str(getattr(error, "orig", None) or type(error).__name__).partition("\n")[0]
            _log.error("the database failed: %s", cause)
            raise StoreError(cause) from error

    async def write(self, statement: Insert | Update | Delete) -> int:
        """One statement as a transaction; how many rows it has changed."""
        result = await self.run(lambda connection: connection.execute(statement), write=True)
        return result.rowcount

    async def rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """What one query finds, as a transaction."""
        return await self.run(lambda connection: connection.execute(query).all())

    async def page(
        self,
        query: Select[Any],
        made: Callable[[Row[Any]], bytes],
        *,
        owner: Hashable,
        limit: int,
        rows_at_once: int,
    ) -> Page:
        """What `query` finds first: at most `limit` rows and `PAGE_BYTES` of what `made` makes of
        them, but one row at least. Each row has an `id`. `made` is called in a thread, and no more
        than `rows_at_once` rows are held beside the page. The pages of one `owner` are made one
        behind the other, and those of several in turns."""
        query = query.limit(limit + 1).execution_options(yield_per=rows_at_once)

        def work(connection: Connection) -> Page:
            items: list[Item] = []
            room_bytes = PAGE_BYTES - len("[]")
            with connection.execute(query) as rows:
                for row in rows:
                    data = made(row)
                    room_bytes -= len(data) + len(",")
                    if items and (room_bytes < 0 or len(items) == limit):
                        return Page(items, more=True)
                    items.append(Item(row.id, data))
            return Page(items, more=False)

        with trio.move_on_after(ANSWER_S):
            async with self._turn(owner):
                return await self.run(work)
        await trio.lowlevel.checkpoint_if_cancelled()
        raise StoreError("no answer")

    @asynccontextmanager
    async def _turn(self, owner: Hashable) -> AsyncIterator[None]:
        lock = self._owners.setdefault(owner, trio.Lock())
        try:
            async with lock, self._paging:
                yield
        finally:
            # Who waits for it has it by now.
            if not lock.locked():
                self._owners.pop(owner, None)

    async def ping(self) -> None:
        """Raises StoreError unless the database answers. Anybody may ask, as often as they like:
        so one thread is kept busy by it, and not all."""
        with trio.move_on_after(ANSWER_S):
            async with self._pinging:
                await self.run(lambda connection: connection.execute(text("SELECT 1")).scalar_one())
                return
        await trio.lowlevel.checkpoint_if_cancelled()
        raise StoreError("no answer")
