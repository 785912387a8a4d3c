"""Lists in pages: bounded by number and by bytes, whole in all, and made one at a time."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
import trio.testing
from sqlalchemy import Connection, insert, text

from api.store import Chat, Conversations, MessageText, Page, Store, StoreError, User
from api.store.database import PAGE_BYTES
from api.store.engine import UNREADABLE
from api.store.schema import chats
from api.store.store import _chats
from tests.labs.clock import ManualClock
from tests.labs.databases import postgresql, url

__all__ = ["postgresql", "url"]  # the fixtures


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(url: str, clock: ManualClock) -> AsyncIterator[Store]:
    store = await Store.open(url, clock=clock)
    yield store
    await store.aclose()


@pytest.fixture
async def user(store: Store) -> User:
    return await store.ensure_user("alice")


@pytest.fixture
async def chat(store: Store, user: User) -> Chat:
    return await store.create_chat(user.id)


async def say(store: Store, chat: Chat, *sizes: int) -> None:
    for size in sizes:
        content = [{"type": "text", "text": "x" * size}]
        await Conversations(store).add(chat.id, "user", content)


def content_of(message: MessageText) -> bytes:
    return message.content.encode()


async def walk(page_behind: Callable[[int], Awaitable[Page]]) -> list[list[bytes]]:
    """Every page, in order."""
    pages, after = [], 0
    while True:
        page = await page_behind(after)
        pages.append([item.data for item in page.items])
        if not page.more:
            return pages
        after = page.items[-1].id


async def test_a_page_is_bounded_by_bytes_and_by_number(store: Store, chat: Chat) -> None:
    third, whole = PAGE_BYTES // 3, 2 * PAGE_BYTES
    await say(store, chat, third, third, third, third, whole, 1, 1, 1, 1)
    taken: list[int] = []

    def made(message: MessageText) -> bytes:
        taken.append(message.id)
        return content_of(message)

    async def behind(after: int) -> Page:
        taken.clear()
        page = await Conversations(store).messages_page(chat, made, after=after, limit=3)
        # What does not go with it is not read: of the next, it is known that it is there.
        assert len(taken) == len(page.items) + page.more
        return page

    pages = await walk(behind)
    assert [len(page) for page in pages] == [2, 2, 1, 3, 1]
    for page in pages:
        assert len(page) == 1 or sum(map(len, page)) <= PAGE_BYTES
    said = await Conversations(store).messages(chat.id)
    assert [len(data) for page in pages for data in page] == [
        len('[{"type": "text", "text": ""}]') + len(message.content[0]["text"]) for message in said
    ]


async def test_no_page_behind_the_last_item(store: Store, chat: Chat) -> None:
    page = await Conversations(store).messages_page(chat, content_of, after=0, limit=2)
    assert (page.items, page.more) == ([], False)
    await say(store, chat, 1, 1)
    page = await Conversations(store).messages_page(chat, content_of, after=0, limit=2)
    assert (len(page.items), page.more) == (2, False)


def id_of(chat: Chat) -> bytes:
    return chat.id.bytes


@pytest.mark.parametrize(("archived", "count"), [(False, 12), (True, 15)])
async def test_chats_of_one_moment_are_listed_once_each(
    store: Store, user: User, clock: ManualClock, archived: bool, count: int
) -> None:
    stranger = await store.ensure_user("bob")
    for moment in range(3):
        for number in range(5):
            chat = await store.create_chat(user.id)
            await store.create_chat(stranger.id)
            if number == 2:
                await store.set_archived(chat.id, True)
        clock.advance(microseconds=moment)
    listed = [chat.id for chat in await store.chats(user.id, archived=archived)]
    seen: list[UUID] = []
    after: Chat | None = None
    more = True
    while more:
        page = await store.chats_page(user.id, id_of, limit=2, archived=archived, after=after)
        more = page.more
        seen += [item.id for item in page.items]
        after = await store.chat(seen[-1])
        # Newer than all of them: it moves none.
        clock.advance(seconds=1)
        await store.create_chat(user.id)
    assert seen == listed
    assert len(set(seen)) == count


async def test_a_page_of_many_chats_reads_no_others(store: Store, user: User) -> None:
    def plan(connection: Connection) -> str:
        explain = "EXPLAIN QUERY PLAN"
        if connection.dialect.name == "postgresql":
            explain = "EXPLAIN"
            # In a table so small it would be no use.
            for way in ("seqscan", "bitmapscan"):
                connection.execute(text(f"SET LOCAL enable_{way} = off"))
        query = _chats(user.id, True, None).limit(2)
        shown = query.compile(connection, compile_kwargs={"literal_binds": True})
        rows = connection.execute(text(f"{explain} {shown}"))
        return " ".join(row[-1] for row in rows)

    steps = await store.database.run(plan)
    assert "ix_chats_owner_id" in steps
    assert "TEMP B-TREE" not in steps
    assert "Sort" not in steps


async def test_pages_are_made_one_at_a_time(store: Store, chat: Chat) -> None:
    await say(store, chat, 1)
    at_work = most = 0
    lock = threading.Lock()
    go_on = threading.Event()

    def made(message: MessageText) -> bytes:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        go_on.wait(0.01)
        with lock:
            at_work -= 1
        return b""

    async def read() -> None:
        await Conversations(store).messages_page(chat, made, after=0, limit=1)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(read)
    assert most == 1


async def test_who_wants_many_pages_lets_others_have_theirs_in_between(
    store: Store, chat: Chat
) -> None:
    other = await store.create_chat((await store.ensure_user("bob")).id)
    await say(store, chat, 1)
    await say(store, other, 1)
    read: list[UUID] = []

    async def read_one(chat: Chat) -> None:
        await Conversations(store).messages_page(chat, content_of, after=0, limit=1)
        read.append(chat.id)

    async with trio.open_nursery() as nursery, store.database._paging:
        for _ in range(150):
            nursery.start_soon(read_one, chat)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(read_one, other)
        await trio.testing.wait_all_tasks_blocked()
    assert read.index(other.id) == 1
    assert not store.database._owners


async def test_who_gives_up_waiting_for_a_page_is_forgotten(store: Store, chat: Chat) -> None:
    async def read_one() -> None:
        await Conversations(store).messages_page(chat, content_of, after=0, limit=1)

    async with trio.open_nursery() as nursery, store.database._paging:
        for _ in range(3):
            nursery.start_soon(read_one)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not store.database._owners


async def test_however_many_ask_whether_it_answers_one_thread_is_busy_with_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, at_work, most = store.database.run, 0, 0

    async def counted(*given: Any, **more: Any) -> Any:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        try:
            return await run(*given, **more)
        finally:
            at_work -= 1

    monkeypatch.setattr(store.database, "run", counted)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(store.database.ping)
    assert most == 1


async def test_who_waits_for_a_page_waits_no_longer_than_for_anything(
    store: Store, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.store.database.ANSWER_S", 0.1)

    async def hang() -> None:
        async with store.database._paging:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StoreError, match="no answer"):
            await Conversations(store).messages_page(chat, content_of, after=0, limit=1)
        nursery.cancel_scope.cancel()


async def test_what_is_nested_without_end_does_not_fail_a_look(store: Store, chat: Chat) -> None:
    deep = '{"a":' * 3_000 + "1" + "}" * 3_000
    raw = f'[{{"type":"tool_use","id":"x","name":"x","input":{deep}}}]'

    def write(connection: Connection) -> None:
        kind = "json" if connection.dialect.name == "postgresql" else "text"
        connection.execute(
            text(
                "INSERT INTO messages (chat_id, role, content, created_at) "
                f"SELECT id, 'assistant', CAST(:raw AS {kind}), created_at FROM chats"
            ),
            {"raw": raw},
        )

    await store.database.run(write, write=True)
    (message,) = await Conversations(store).messages(chat.id)
    assert message.content == [{"type": "text", "text": UNREADABLE}]
    page = await Conversations(store).messages_page(chat, content_of, after=0, limit=1)
    assert page.items[0].data == raw.encode()


async def test_children_are_counted_and_paged(store: Store, chat: Chat, clock: ManualClock) -> None:
    conversations = Conversations(store)
    for _ in range(3):
        clock.advance(seconds=1)
        assert await conversations.create_child(chat, "", []) is not None
    done = Chat(uuid4(), chat.owner_id, None, "", False, clock.now, clock.now, parent_id=chat.id)
    done_row = asdict(done) | {"created_at": clock.now + timedelta(seconds=1)}
    await store.database.write(insert(chats).values(**done_row))
    assert await conversations.count_children(chat.id) == (4, 3)
    newest_first = await conversations.children(chat.id)
    assert newest_first[0].id == done.id
    assert await conversations.children(chat.id, offset=1, limit=2) == newest_first[1:3]
    assert await conversations.children(chat.id, offset=4, limit=2) == []
