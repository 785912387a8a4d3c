"""How the database is reached: SQLAlchemy's engine, and what SQLite needs to be told."""

from __future__ import annotations

import json
import os
import sqlite3
from typing import Any, Final, Self, cast

from sqlalchemy import Connection, Engine, StaticPool, create_engine, event
from sqlalchemy.engine import make_url

__all__ = ["BUSY_TIMEOUT_S", "THREADS", "DataVersion", "make_engine"]

BUSY_TIMEOUT_S: Final = 5
"""How long a SQLite write waits for another process's. Our transactions take milliseconds;
more means that somebody holds the file open by hand."""

THREADS: Final = 5
"""Calls that run at once: SQLAlchemy's pool keeps as many connections."""


UNREADABLE: Final = "[What was said here is nested too deeply to be read.]"


def _from_json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        # Nothing is written so deep any more; a chat that has it would fail at every look.
        return [{"type": "text", "text": UNREADABLE}]


_COMMON: Final[dict[str, Any]] = {"hide_parameters": True, "json_deserializer": _from_json}
"""Errors are logged with their causes, and what was said in a chat is a statement's parameter."""

_LIBPQ: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""For PostgreSQL's client, in s and ms: a server that has vanished keeps a connection, and its
thread, for half a minute and not for hours. What the URL says goes first."""


def make_engine(database_url: str) -> Engine:
    """Raises SQLAlchemy's errors, or ImportError for a driver that is not there."""
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        libpq = _LIBPQ if url.get_driver_name() in ("psycopg", "psycopg2") else {}
        arguments = {name: value for name, value in libpq.items() if name not in url.query}
        return create_engine(
            url, pool_size=THREADS, pool_pre_ping=True, connect_args=arguments, **_COMMON
        )
    if url.database in (None, "", ":memory:"):
        arguments = {"check_same_thread": False}
        engine = create_engine(url, poolclass=StaticPool, connect_args=arguments, **_COMMON)
    else:
        _keep_private(url.database)
        arguments = {"timeout": BUSY_TIMEOUT_S}
        engine = create_engine(url, pool_size=THREADS, connect_args=arguments, **_COMMON)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _keep_private(path: str) -> None:
    """Makes a new database its owner's alone; SQLite gives its other files the same mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError:
        pass  # It is there already; or it cannot be made, which SQLite says better.


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # The driver's own BEGIN leaves reads and DDL outside of transactions: ours is explicit.
    connection.isolation_level = None
    for pragma in ("foreign_keys = ON", "journal_mode = WAL", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and then writes fails at once, whatever the busy timeout,
    # when another process wrote in between. Writers therefore take the lock at the start.
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


class DataVersion:
    """Tells whether a SQLite file has been written to, by this process or by another.

    It asks on a connection of its own, for SQLite's number does not count what the asking
    connection wrote. Asking takes some 7 us and never waits, so that Trio's thread may do it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def of(cls, engine: Engine) -> Self | None:
        """None for other databases, and for one in memory, which has one connection."""
        if engine.dialect.name != "sqlite" or isinstance(engine.pool, StaticPool):
            return None
        pooled = engine.raw_connection()
        connection = cast(sqlite3.Connection, pooled.driver_connection)
        pooled.detach()
        connection.execute("PRAGMA busy_timeout = 0").close()
        return cls(connection)

    def read(self) -> int | None:
        """Another number after each commit; None where SQLite cannot tell at once."""
        try:
            # All rows, or the statement would stay open and go on seeing what it saw.
            ((version,),) = self._connection.execute("PRAGMA data_version").fetchall()
        except sqlite3.Error:
            return None
        return cast(int, version)

    def close(self) -> None:
        self._connection.close()
