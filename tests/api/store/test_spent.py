"""What users have used of the budgets that the database counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import pytest
import trio
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, select, text

from api.budgets import BudgetSettings, OverBudget
from api.store import Conversations, File, Store, User
from api.store.engine import make_engine
from api.store.migrations import upgrade
from api.store.schema import users
from tests.labs.databases import postgresql, url

__all__ = ["postgresql", "url"]  # the fixtures

AT_ONCE = 150
SAID = [{"type": "text", "text": "Hello."}]
SAID_BYTES = len('[{"type": "text", "text": "Hello."}]')


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = await Store.open(url)
    yield store
    await store.aclose()


@pytest.fixture
async def alice(store: Store) -> User:
    return await store.ensure_user("alice")


async def spent(store: Store, user: User) -> tuple[int, int, int]:
    """Chats, waiting messages, bytes."""
    query = select(users.c.chats, users.c.waiting_messages, users.c.stored_bytes)
    (row,) = await store.database.rows(query.where(users.c.id == user.id))
    return row.chats, row.waiting_messages, row.stored_bytes


async def all_at_once(do: Callable[[], Awaitable[object]]) -> Counter[str]:
    """How each of many ended."""
    ends: Counter[str] = Counter()

    async def one() -> None:
        try:
            await do()
        except OverBudget as over:
            ends[over.budget] += 1
        else:
            ends["done"] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(one)
    return ends


async def test_chats(store: Store, alice: User) -> None:
    ends = await all_at_once(lambda: store.create_chat(alice.id, limit=7))
    assert ends == {"done": 7, "chats_per_user": AT_ONCE - 7}
    assert len(await store.chats(alice.id)) == 7
    await store.create_chat(alice.id)  # the operator's own have no limit
    assert await spent(store, alice) == (8, 0, 0)
    bob = await store.ensure_user("bob")
    await store.create_chat(bob.id, limit=1)


async def test_an_agents_chat_counts_for_its_owner(store: Store, alice: User) -> None:
    chat = await store.create_chat(alice.id)
    budgets = BudgetSettings(chats_per_user=7)
    conversations = Conversations(store, budgets)
    ends = await all_at_once(lambda: conversations.create_child(chat, "", list(SAID)))
    assert ends == {"done": 6, "chats_per_user": AT_ONCE - 6}
    assert len(await conversations.children(chat.id)) == 6
    assert await spent(store, alice) == (7, 0, 6 * SAID_BYTES)


async def test_waiting_messages_of_all_chats(store: Store, alice: User) -> None:
    chats = [(await store.create_chat(alice.id)).id for _ in range(AT_ONCE)]
    conversations = Conversations(store, BudgetSettings(waiting_messages_per_user=7))
    left = list(chats)
    ends = await all_at_once(lambda: conversations.ask(left.pop(), list(SAID), limit=100))
    assert ends == {"done": 7, "waiting_messages_per_user": AT_ONCE - 7}
    assert await spent(store, alice) == (AT_ONCE, 7, 7 * SAID_BYTES)
    # What was heard waits no more, and there is room for as many again.
    heard = [chat_id for chat_id in chats if await conversations.listen(chat_id)]
    assert len(heard) == 7
    assert await spent(store, alice) == (AT_ONCE, 0, 7 * SAID_BYTES)
    assert await conversations.ask(chats[0], list(SAID), limit=100)


@pytest.mark.parametrize("way", ["said", "added", "with pictures"])
async def test_stored_bytes(store: Store, alice: User, way: str) -> None:
    chats = [(await store.create_chat(alice.id)).id for _ in range(AT_ONCE)]
    left = list(chats)
    each_bytes = SAID_BYTES + (1_000 if way == "with pictures" else 0)
    conversations = Conversations(store, BudgetSettings(stored_bytes_per_user=7 * each_bytes + 5))

    async def one() -> None:
        chat_id = left.pop()
        pictures = [File(uuid4(), chat_id, "image/png", bytes(500)) for _ in range(2)]
        if way == "said":
            await conversations.ask(chat_id, list(SAID), limit=100)
        else:
            given = pictures if way == "with pictures" else []
            await conversations.add(chat_id, "user", list(SAID), given)

    ends = await all_at_once(one)
    assert ends == {"done": 7, "stored_bytes_per_user": AT_ONCE - 7}
    assert (await spent(store, alice))[2] == 7 * each_bytes
    messages = [message for chat in chats for message in await conversations.messages(chat)]
    waiting = [chat for chat in chats if await conversations.unheard(chat)]
    assert len(messages) + len(waiting) == 7

    def count_files(connection: Connection) -> int:
        return int(connection.execute(text("SELECT count(*) FROM files")).scalar_one())

    assert await store.database.run(count_files) == (14 if way == "with pictures" else 0)


async def test_what_was_refused_leaves_nothing(store: Store, alice: User) -> None:
    chat = await store.create_chat(alice.id)
    conversations = Conversations(store, BudgetSettings(stored_bytes_per_user=10))
    with pytest.raises(OverBudget):
        await conversations.ask(chat.id, list(SAID), limit=100)
    with pytest.raises(OverBudget):
        await conversations.create_child(chat, "", list(SAID))
    found = await store.chat(chat.id)
    assert found is not None
    assert found.status == "waiting"
    assert await conversations.children(chat.id) == []
    assert await spent(store, alice) == (1, 0, 0)


@pytest.mark.parametrize("url", ["file", "postgresql"], indirect=True)
def test_what_there_is_already_is_counted(url: str) -> None:
    engine = make_engine(url)
    config = Config()
    config.set_main_option("script_location", str(upgrade.__file__).rpartition("/")[0])
    now, content = "2026-01-01 00:00:00+00:00", '[{"text": "\\u00e4"}]'
    alice, bob, chat, other = (UUID(int=number).hex for number in range(1, 5))
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        for statement in (
            f"INSERT INTO users VALUES ('{alice}', 'alice', 'active', '{now}'),"
            f" ('{bob}', 'bob', 'active', '{now}')",
            "INSERT INTO chats"
            " (id, owner_id, title, archived, created_at, updated_at, mode, status)"
            f" VALUES ('{chat}', '{alice}', '', false, '{now}', '{now}', 'chat', 'waiting'),"
            f" ('{other}', '{alice}', '', true, '{now}', '{now}', 'chat', 'waiting')",
            "INSERT INTO messages (id, chat_id, role, content, created_at)"
            f" VALUES (1, '{chat}', 'user', '{content}', '{now}')",
            "INSERT INTO waiting_messages (id, chat_id, content, created_at)"
            f" VALUES (1, '{other}', '{content}', '{now}')",
        ):
            connection.exec_driver_sql(statement)
        connection.execute(
            text("INSERT INTO files VALUES (:id, :chat, 'image/png', :data, :now)"),
            {"id": UUID(int=9).hex, "chat": chat, "data": b"\0PNG\xff", "now": now},
        )
        command.upgrade(config, "head")
        rows = connection.execute(
            select(users.c.name, users.c.chats, users.c.waiting_messages, users.c.stored_bytes)
        ).all()
    engine.dispose()
    assert sorted(map(tuple, rows)) == [("alice", 2, 1, 2 * len(content) + 5), ("bob", 0, 0, 0)]
