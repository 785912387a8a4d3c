"""The database: its tables, whole transactions, and what cancellation and foreign files do."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert
from sqlalchemy.exc import DBAPIError

from api.store import Store, StoreError
from api.store.engine import BUSY_TIMEOUT_S
from api.store.schema import metadata, users
from tests.labs.databases import postgresql, url

__all__ = ["postgresql", "url"]  # the fixtures


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = await Store.open(url)
    yield store
    await store.aclose()


def add_user(connection: Connection, name: str) -> None:
    connection.execute(
        insert(users).values(id=uuid4(), name=name, status="active", created_at=datetime.now(UTC))
    )


async def user_names(store: Store) -> list[str]:
    return [user.name for user in await store.users()]


async def test_migrations_build_what_the_schema_says(store: Store) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert await store.database.run(differences) == []


async def test_what_a_driver_says_beyond_its_first_line_is_no_ones() -> None:
    def fail(_connection: Connection) -> None:
        raise DBAPIError("INSERT", {}, Exception("invalid input\nDETAIL: what was said"))

    store = await Store.open("sqlite://")
    with pytest.raises(StoreError) as error:
        await store.database.run(fail)
    assert str(error.value) == "invalid input"
    await store.aclose()


async def test_two_processes_write_to_one_file(tmp_path: Path) -> None:
    stores = [await Store.open(f"sqlite:///{tmp_path}/store.db") for _ in range(2)]
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(stores[number % 2].ensure_user, f"user{number:02}")
    assert await user_names(stores[0]) == [f"user{number:02}" for number in range(20)]
    for store in stores:
        await store.aclose()


async def test_cancelled_write_is_whole(store: Store) -> None:
    with trio.CancelScope() as scope:

        def work(connection: Connection) -> None:
            add_user(connection, "first")
            trio.from_thread.run_sync(scope.cancel)
            add_user(connection, "second")

        await store.database.run(work, write=True)
        await trio.lowlevel.checkpoint()
        pytest.fail("not cancelled")
    assert await user_names(store) == ["first", "second"]


async def test_failed_write_leaves_nothing(store: Store) -> None:
    def work(connection: Connection) -> None:
        add_user(connection, "first")
        add_user(connection, "first")

    with pytest.raises(StoreError, match=r"(?i)unique") as error:
        await store.database.run(work, write=True)
    assert "first" not in str(error.value)
    assert await user_names(store) == []
    await store.ensure_user("after")  # and no transaction is left open


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "cannot use the database"),
        ("nosuchdatabase://", "cannot use the database"),
        ("sqlite:////nonexistent/folder/store.db", "/nonexistent/folder/store.db: unable to open"),
    ],
)
async def test_unusable_url_says_why(url: str, problem: str) -> None:
    with pytest.raises(StoreError, match=problem):
        await Store.open(url)


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite:///{tmp_path}/store.db")
    await store.ensure_user("alice")
    # The journal's files are there too, while it is open.
    assert modes(tmp_path) == {0o600}
    await store.aclose()


async def test_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await (await Store.open(f"sqlite:///{path}")).aclose()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match=r"not of this version.*9999"):
        await Store.open(f"sqlite:///{path}")


async def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_text("not a database, but long enough to be looked at by SQLite" * 20)
    with pytest.raises(StoreError, match="not a database"):
        await Store.open(f"sqlite:///{path}")


async def test_locked_file_is_an_error_and_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.store.engine.BUSY_TIMEOUT_S", 0.05)
    assert BUSY_TIMEOUT_S > 1  # what a user gets
    path = tmp_path / "store.db"
    store = await Store.open(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        await store.ensure_user("alice")
    await store.database.ping()  # readers go on
    other.execute("ROLLBACK")
    other.close()
    await store.ensure_user("alice")
    await store.aclose()
