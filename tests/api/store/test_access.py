"""What a session starts with: one look-up, none where nothing was written since, never an old
answer."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
from sqlalchemy import event
from starlette.requests import HTTPConnection

from api.http.auth import authenticate
from api.http.errors import ApiError
from api.store import Access, Chat, Store, StoreError, Token, User, Workspace
from api.store.cache import AccessCache
from api.store.engine import THREADS
from tests.labs.clock import ManualClock


@dataclass
class Case:
    """A store that counts its look-ups, and a user's chat in it."""

    store: Store
    url: str
    clock: ManualClock
    alice: User
    token: str
    workspace: Workspace
    chat: Chat
    look_ups: int = 0

    async def look(self, token: str | None = None, chat: UUID | None = None) -> Access:
        return await self.store.access((token or self.token)[:10], chat or self.chat.id)


async def make_case(url: str, monkeypatch: pytest.MonkeyPatch) -> Case:
    clock = ManualClock()
    store = await Store.open(url, clock=clock, token_lifetime_s=86_400)
    alice = await store.ensure_user("alice")
    workspace = await store.add_workspace(alice.id, "dev", "pattern")
    chat = await store.create_chat(alice.id, workspace_id=workspace.id)
    case = Case(store, url, clock, alice, await store.create_token(alice.id), workspace, chat)
    real = store.database._in_thread

    async def counted(work: Callable[[], Any]) -> Any:
        case.look_ups += 1
        return await real(work)

    monkeypatch.setattr(store.database, "_in_thread", counted)
    return case


@pytest.fixture(params=["memory", "file"])
async def case(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Case]:
    url = "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db"
    made = await make_case(url, monkeypatch)
    yield made
    await made.store.aclose()


@pytest.fixture
async def filed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Case]:
    made = await make_case(f"sqlite:///{tmp_path}/store.db", monkeypatch)
    yield made
    await made.store.aclose()


async def test_one_look_up_finds_all_and_the_next_needs_none(case: Case) -> None:
    access = await case.look()
    assert case.look_ups == 1
    assert access.token == await case.store.token(case.token[:10])
    assert access.workspace == case.workspace
    case.look_ups = 0
    assert await case.look() is access
    assert case.look_ups == 0


async def test_no_token_no_workspace(case: Case) -> None:
    assert (await case.look("0123456789")).token is None
    access = await case.look(chat=uuid4())
    assert access.token is not None
    assert access.workspace is None
    bare = await case.store.create_chat(case.alice.id)
    assert (await case.look(chat=bare.id)).workspace is None
    bob = await case.store.ensure_user("bob")
    theirs = await case.look(await case.store.create_token(bob.id))
    assert theirs.token is not None
    assert theirs.token.user_name == "bob"
    assert theirs.workspace is None


async def test_guesses_are_not_kept(case: Case) -> None:
    for _ in range(2):
        case.look_ups = 0
        await case.look("0123456789")
        await case.look(chat=uuid4())
        assert case.look_ups == 2


Change = Callable[[Store, Case], Awaitable[object]]

CHANGES: dict[str, tuple[Change, str]] = {
    "revoked": (
        lambda store, case: store.revoke_token(case.token[:10]),
        "DELETE FROM tokens",
    ),
    "suspended": (
        lambda store, case: store.set_user_status(case.alice.id, "suspended"),
        "UPDATE users SET status = 'suspended'",
    ),
    "archived": (
        lambda store, case: store.set_archived(case.chat.id, True),
        "UPDATE chats SET archived = 1",
    ),
}


def usable(access: Access) -> bool:
    return bool(access.token and access.token.user_status == "active" and access.workspace)


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_counts_at_the_next_look(case: Case, name: str) -> None:
    assert usable(await case.look())
    await CHANGES[name][0](case.store, case)
    assert not usable(await case.look())


@pytest.mark.parametrize("name", CHANGES)
async def test_another_stores_change_counts_at_the_next_look(filed: Case, name: str) -> None:
    other = await Store.open(filed.url, clock=filed.clock)
    assert usable(await filed.look())
    await CHANGES[name][0](other, filed)
    assert not usable(await filed.look())
    await other.aclose()


@pytest.mark.parametrize("name", CHANGES)
async def test_another_processs_change_counts_at_the_next_look(filed: Case, name: str) -> None:
    assert usable(await filed.look())
    path = filed.url.removeprefix("sqlite:///")
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()"
    )
    await trio.run_process([sys.executable, "-c", code, path, CHANGES[name][1]])
    assert not usable(await filed.look())


async def test_a_token_revoked_by_the_command_line_is_refused_at_once(
    filed: Case, tmp_path: Path
) -> None:
    assert usable(await filed.look())
    config = tmp_path / "deskrelay.toml"
    config.write_text(f'database_url = "{filed.url}"\n')
    command = [sys.executable, "-m", "api", "token", "revoke", filed.token[:10]]
    await trio.run_process([*command, "--config", str(config)])
    assert (await filed.look()).token is None


async def test_what_was_read_while_somebody_wrote_is_not_kept(filed: Case) -> None:
    def archive(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        # In the worker thread, after it has read the row and before anybody has it.
        if statement.startswith("SELECT"):
            with sqlite3.connect(filed.url.removeprefix("sqlite:///")) as connection:
                connection.execute("UPDATE chats SET archived = 1")
            connection.close()

    event.listen(filed.store.database._engine, "after_cursor_execute", archive)
    assert usable(await filed.look())
    event.remove(filed.store.database._engine, "after_cursor_execute", archive)
    assert not usable(await filed.look())


async def test_a_write_that_fails_and_one_that_is_rolled_back_count_as_writes(case: Case) -> None:
    access = await case.look()
    with pytest.raises(StoreError):
        await case.store.database.run(
            lambda c: c.exec_driver_sql("DELETE FROM nothing"), write=True
        )
    assert case.store.database.changes > access.changes
    assert await case.look() is not access


async def test_time_is_judged_at_each_use_of_what_is_kept(case: Case) -> None:
    async def find(_: str) -> Token | None:
        return (await case.look()).token

    headers = [(b"coder-session-token", case.token.encode())]
    request = HTTPConnection({"type": "http", "headers": headers, "query_string": b""})
    await authenticate(request, case.store, find)
    case.look_ups = 0
    case.clock.advance(minutes=59)
    await authenticate(request, case.store, find)
    assert case.look_ups == 0
    # Used after an hour, the token lives a day from then on. That is written, and read again.
    case.clock.advance(minutes=1)
    identity = await authenticate(request, case.store, find)
    stored = await case.store.token(case.token[:10])
    assert stored is not None
    assert stored.expires_at == identity.expires_at
    case.clock.advance(hours=24)
    case.look_ups = 0
    with pytest.raises(ApiError, match="signed out") as caught:
        await authenticate(request, case.store, find)
    assert (caught.value.detail or "").startswith("API key expired")
    assert case.look_ups == 1


async def test_where_sqlite_cannot_tell_each_look_is_a_look_up(filed: Case) -> None:
    await filed.look()
    assert filed.store.database._data_version is not None
    filed.store.database._data_version.close()
    filed.look_ups = 0
    assert usable(await filed.look())
    assert usable(await filed.look())
    assert filed.look_ups == 2


async def test_the_version_is_told_while_somebody_writes(filed: Case) -> None:
    access = await filed.look()
    other = sqlite3.connect(filed.url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    other.execute("UPDATE chats SET archived = 1")
    assert await filed.look() is access  # nothing is committed yet
    other.execute("COMMIT")
    assert not usable(await filed.look())
    other.close()


async def test_asking_for_the_version_keeps_no_snapshot(filed: Case) -> None:
    await filed.look()
    await filed.store.set_archived(filed.chat.id, True)
    other = sqlite3.connect(filed.url.removeprefix("sqlite:///"))
    # SQLite cannot empty its log while a reader stands in it.
    assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    other.close()


async def test_the_pool_has_all_its_connections_still(filed: Case) -> None:
    pool: Any = filed.store.database._engine.pool
    connections = [filed.store.database._engine.connect() for _ in range(THREADS)]
    assert pool.overflow() == 0
    for connection in connections:
        connection.close()


def test_a_database_that_cannot_tell_is_asked_each_time() -> None:
    cache = AccessCache(lambda: None)
    key, access = ("0123456789", uuid4()), Access(None, None, 0)
    cache.keep(key, access, None)
    assert cache.get(key) is None


def test_the_oldest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.store.cache.ENTRIES", 2)
    cache = AccessCache(lambda: 1)
    keys = [("0123456789", uuid4()) for _ in range(3)]
    for key in keys:
        cache.keep(key, Access(None, None, 0), 1)
    assert [cache.get(key) is not None for key in keys] == [False, True, True]
