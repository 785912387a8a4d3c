"""A database that hangs: no wait is without end, and what was to be written may still be."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator

import pytest
import trio
from sqlalchemy import Connection

from api.store import Store, StoreError
from api.store.engine import make_engine

PATIENCE_S = 5.0


@pytest.fixture
async def store(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setattr("api.store.database.ANSWER_S", 0.1)
    store = await Store.open("sqlite://")
    yield store
    await store.aclose()


class Hanging:
    """A transaction that hangs until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self, _connection: Connection) -> None:
        self.begun.set()
        self.go.wait(PATIENCE_S)


@pytest.mark.parametrize("write", [False, True])
async def test_it_is_an_error_and_the_next_ones_too(store: Store, write: bool) -> None:
    hanging = Hanging()
    with trio.fail_after(PATIENCE_S / 2):
        with pytest.raises(StoreError, match="no answer"):
            await store.database.run(hanging, write=write)
        # This store has one connection, and so one thread.
        with pytest.raises(StoreError, match="no answer"):
            await store.database.ping()
        hanging.go.set()
        while True:
            try:
                await store.database.ping()
                break
            except StoreError:
                pass


async def test_who_is_cancelled_waits_for_what_it_writes_but_not_for_ever(store: Store) -> None:
    hanging = Hanging()
    start = trio.current_time()
    with trio.move_on_after(0.01):
        await store.database.run(hanging, write=True)
    assert 0.09 < trio.current_time() - start < PATIENCE_S / 2
    hanging.go.set()


async def test_who_is_cancelled_does_not_wait_for_what_it_reads(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.store.database.ANSWER_S", PATIENCE_S)
    hanging = Hanging()
    with trio.fail_after(PATIENCE_S / 2), trio.move_on_after(0.01):
        await store.database.run(hanging)
    hanging.go.set()


async def test_what_is_written_late_counts_as_a_change_then(store: Store) -> None:
    hanging = Hanging()
    with pytest.raises(StoreError):
        await store.database.run(hanging, write=True)
    before = store.database.changes
    hanging.go.set()
    with trio.fail_after(PATIENCE_S):
        while store.database.changes == before:
            await trio.sleep(0.01)


async def test_the_end_does_not_wait_for_it_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.store.database.ANSWER_S", 0.1)
    store, hanging = await Store.open("sqlite://"), Hanging()
    with pytest.raises(StoreError):
        await store.database.run(hanging)
    start = trio.current_time()
    await store.aclose()
    assert trio.current_time() - start < PATIENCE_S / 2
    hanging.go.set()
    monkeypatch.undo()
    await store.aclose()


def test_a_postgresql_server_that_vanishes_is_noticed() -> None:
    pytest.importorskip("psycopg")
    engine = make_engine("postgresql+psycopg://u@h/d?connect_timeout=7")
    _, arguments = engine.dialect.create_connect_args(engine.url)
    assert arguments["connect_timeout"] == "7"
    engine.dispose()
