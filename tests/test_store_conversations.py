"""What is said in chats, and who runs them: of two at once one wins, on every database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
import trio

from api.store import Chat, Conversations, File, Store
from api.store.conversations import ABANDONED, LEASE_S
from tests.clock import ManualClock
from tests.databases import postgresql, url

__all__ = ["postgresql", "url"]  # the fixtures


def text(words: str) -> list[dict[str, object]]:
    return [{"type": "text", "text": words}]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(url: str, clock: ManualClock) -> AsyncIterator[Store]:
    store = await Store.open(url, clock=clock)
    yield store
    await store.aclose()


@pytest.fixture
async def chat(store: Store) -> Chat:
    user = await store.ensure_user("alice")
    return await store.create_chat(user.id)


async def test_messages_in_order_with_their_pictures(store: Store, chat: Chat) -> None:
    conversations = Conversations(store)
    picture = File(uuid4(), chat.id, "image/png", b"\x89PNG\0\xff")
    await conversations.add(chat.id, "user", text("Ünï ☃ 𝄞"))
    await conversations.add(chat.id, "assistant", text("two"), [picture])
    first, second = await conversations.messages(chat.id)
    assert (first.role, first.content, first.chat_id) == ("user", text("Ünï ☃ 𝄞"), chat.id)
    assert (second.role, first.id < second.id) == ("assistant", True)
    assert await conversations.messages(chat.id, after=first.id) == [second]
    assert await conversations.messages(chat.id, limit=1) == [first]
    assert await conversations.picture(picture.id) == picture
    assert await conversations.picture(uuid4()) is None


async def test_what_waits_is_heard_once(store: Store, chat: Chat) -> None:
    conversations = Conversations(store)
    asked: list[bool] = []

    async def ask(number: int) -> None:
        asked.append(await conversations.ask(chat.id, text(str(number)), limit=3))

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, number)
    assert sorted(asked) == [False, False, True, True, True]
    heard: list[bool] = []

    async def listen() -> None:
        heard.append(await conversations.listen(chat.id))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        nursery.start_soon(listen)
    assert sorted(heard) == [False, True]
    assert len(await conversations.messages(chat.id)) == 3
    await store.set_archived(chat.id, True)
    assert not await conversations.ask(chat.id, text("late"), limit=3)


async def test_what_waits_when_nobody_works_any_more_shuts_nobody_out(
    store: Store, chat: Chat
) -> None:
    conversations = Conversations(store)
    assert await conversations.ask(chat.id, text("first"), limit=1)
    assert not await conversations.ask(chat.id, text("too many"), limit=1)
    lease = await conversations.begin(chat.id)
    assert await conversations.finish(chat.id, lease, "waiting")
    assert await conversations.ask(chat.id, text("second"), limit=1)
    assert not await conversations.ask(chat.id, text("too many"), limit=1)
    assert await conversations.listen(chat.id)
    assert [m.content for m in await conversations.messages(chat.id)] == [
        text("first"),
        text("second"),
    ]


async def test_one_runs_a_chat(store: Store, chat: Chat, clock: ManualClock) -> None:
    conversations = Conversations(store)
    begun: list[datetime | None] = []

    async def begin() -> None:
        begun.append(await conversations.begin(chat.id))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(begin)
    (lease,) = [lease for lease in begun if lease is not None]
    assert lease == clock.now + timedelta(seconds=LEASE_S)
    clock.advance(seconds=LEASE_S - 1)
    renewed = await conversations.renew(chat.id, lease)
    assert renewed == clock.now + timedelta(seconds=LEASE_S)
    assert await conversations.renew(chat.id, lease) is None  # it is not this one any more
    clock.advance(seconds=LEASE_S - 1)
    assert await conversations.mark_abandoned() == []
    clock.advance(seconds=2)
    assert await conversations.mark_abandoned() == [chat.id]
    assert await conversations.renew(chat.id, renewed) is None
    found = await store.chat(chat.id)
    assert found is not None
    assert (found.status, found.last_error, found.running_until) == ("error", ABANDONED, None)
    other = await conversations.begin(chat.id)
    # Who has lost the chat does not end what another does there.
    await conversations.finish(chat.id, renewed, "error", "late")
    found = await store.chat(chat.id)
    assert found is not None
    assert (found.status, found.running_until) == ("running", other)
    await conversations.finish(chat.id, other, "waiting")
    await store.set_archived(chat.id, True)
    assert await conversations.begin(chat.id) is None


async def test_agents_of_a_chat(store: Store, chat: Chat, clock: ManualClock) -> None:
    conversations = Conversations(store)
    first = await conversations.create_child(chat, "first", text("Look."))
    clock.advance(seconds=1)
    second = await conversations.create_child(chat, "second", text("Look again."))
    assert first is not None
    assert second is not None
    assert await conversations.children(chat.id) == [second, first]
    assert (first.parent_id, first.mode, first.status) == (chat.id, "computer_use", "pending")
    assert [m.content for m in await conversations.messages(first.id)] == [text("Look.")]
    # Whoever made it may have died before it began.
    clock.advance(seconds=LEASE_S)
    assert await conversations.mark_abandoned() == [first.id]
    await store.set_archived(chat.id, True)
    assert await conversations.create_child(chat, "third", text("Too late.")) is None
