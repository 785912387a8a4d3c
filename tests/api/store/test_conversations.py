"""What is said in chats, and who runs them: of two at once one wins, on every database."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
from sqlalchemy import Connection

from api.store import Chat, Conversations, File, Store, StoreError
from api.store.conversations import ABANDONED, LEASE_S
from tests.labs.clock import ManualClock
from tests.labs.databases import postgresql, url

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


async def test_of_two_that_look_for_abandoned_chats_one_marks_it(
    store: Store, clock: ManualClock, chat: Chat
) -> None:
    conversations = Conversations(store)
    assert await conversations.begin(chat.id, uuid4())
    clock.advance(seconds=LEASE_S + 1)
    marked: list[UUID] = []

    async def look() -> None:
        marked.extend(await conversations.mark_abandoned())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        nursery.start_soon(look)
    assert marked == [chat.id]


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
    run_id = uuid4()
    assert await conversations.begin(chat.id, run_id)
    assert not await conversations.finish(chat.id, run_id, "waiting")
    assert await conversations.ask(chat.id, text("second"), limit=1)
    assert not await conversations.ask(chat.id, text("too many"), limit=1)
    assert await conversations.listen(chat.id)
    assert [m.content for m in await conversations.messages(chat.id)] == [
        text("first"),
        text("second"),
    ]


async def found(store: Store, chat: Chat) -> Chat:
    again = await store.chat(chat.id)
    assert again is not None
    return again


async def test_one_runs_a_chat(store: Store, chat: Chat, clock: ManualClock) -> None:
    conversations = Conversations(store)
    begun: list[UUID] = []

    async def begin() -> None:
        run_id = uuid4()
        if await conversations.begin(chat.id, run_id):
            begun.append(run_id)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(begin)
    (run_id,) = begun
    assert (await found(store, chat)).running_until == clock.now + timedelta(seconds=LEASE_S)
    clock.advance(seconds=LEASE_S - 1)
    # Also a second time, where the first time's answer was lost.
    for _ in range(2):
        assert await conversations.renew(chat.id, run_id)
    assert (await found(store, chat)).running_until == clock.now + timedelta(seconds=LEASE_S)
    clock.advance(seconds=LEASE_S - 1)
    assert await conversations.holds(chat.id, run_id)
    assert await conversations.mark_abandoned() == []
    clock.advance(seconds=2)
    assert await conversations.mark_abandoned() == [chat.id]
    assert not await conversations.renew(chat.id, run_id)
    assert not await conversations.holds(chat.id, run_id)
    over = await found(store, chat)
    assert (over.status, over.last_error, over.running_until) == ("error", ABANDONED, None)
    other = uuid4()
    assert await conversations.begin(chat.id, other)
    # Who has lost the chat does not end what another does there, nor says anything there.
    await conversations.finish(chat.id, run_id, "error", "late")
    with pytest.raises(StoreError, match="lost"):
        await conversations.add(chat.id, "assistant", text("late"), run_id=run_id)
    await conversations.add(chat.id, "assistant", text("in time"), run_id=other)
    assert [m.content for m in await conversations.messages(chat.id)] == [text("in time")]
    again = await found(store, chat)
    assert (again.status, again.run_id) == ("running", other)
    await conversations.finish(chat.id, other, "waiting")
    await store.set_archived(chat.id, True)
    assert not await conversations.begin(chat.id, uuid4())


async def test_an_interrupt_is_for_what_runs_then(store: Store, chat: Chat) -> None:
    conversations, run_id = Conversations(store), uuid4()
    assert not await conversations.interrupt(chat.id)
    assert await conversations.ask(chat.id, text("Do it."), limit=9)
    assert await conversations.begin(chat.id, run_id)
    assert await conversations.interrupt(chat.id)
    assert not await conversations.holds(chat.id, run_id)
    assert not await conversations.renew(chat.id, run_id)
    assert await conversations.interrupting(chat.id)
    # What was said before it is not answered, what is said behind it is.
    assert not await conversations.finish(chat.id, run_id, "waiting", go_on=True)
    assert not await conversations.interrupting(chat.id)
    assert (await found(store, chat)).status == "waiting"
    assert await conversations.begin(chat.id, run_id)
    assert await conversations.holds(chat.id, run_id)
    assert await conversations.interrupt(chat.id)
    assert await conversations.ask(chat.id, text("Do this."), limit=9)
    assert not await conversations.holds(chat.id, run_id)
    assert await conversations.finish(chat.id, run_id, "waiting")
    assert (await found(store, chat)).status == "pending"
    assert await conversations.begin(chat.id, run_id)


async def test_what_is_pending_can_be_interrupted(
    store: Store, chat: Chat, clock: ManualClock
) -> None:
    conversations, run_id = Conversations(store), uuid4()
    assert await conversations.ask(chat.id, text("Do it."), limit=9)
    assert await conversations.interrupt(chat.id)
    assert not await conversations.begin(chat.id, run_id)
    await conversations.finish(chat.id, run_id, "waiting", begun=False)
    assert (await found(store, chat)).status == "waiting"
    # Nobody obeys for a process that has died.
    assert await conversations.ask(chat.id, text("Do it."), limit=9)
    assert await conversations.interrupt(chat.id)
    clock.advance(seconds=LEASE_S + 1)
    assert await conversations.mark_abandoned() == [chat.id]
    assert not await conversations.interrupting(chat.id)
    assert await conversations.begin(chat.id, run_id)


async def test_what_was_not_heard_is_still_to_be_done(
    store: Store, chat: Chat, clock: ManualClock
) -> None:
    conversations, run_id = Conversations(store), uuid4()
    assert await conversations.begin(chat.id, run_id)
    assert await conversations.ask(chat.id, text("And this."), limit=9)
    assert await conversations.finish(chat.id, run_id, "waiting", go_on=True)
    # Whoever was to do it may die before it begins.
    clock.advance(seconds=LEASE_S + 1)
    assert await conversations.mark_abandoned() == [chat.id]


async def test_a_suspended_users_chat_is_not_run(store: Store, chat: Chat) -> None:
    conversations, run_id = Conversations(store), uuid4()
    assert await conversations.begin(chat.id, run_id)
    await store.set_user_status(chat.owner_id, "suspended")
    assert not await conversations.renew(chat.id, run_id)
    assert not await conversations.holds(chat.id, run_id)
    await conversations.finish(chat.id, run_id, "waiting")
    assert not await conversations.begin(chat.id, run_id)
    await store.set_user_status(chat.owner_id, "active")
    assert await conversations.begin(chat.id, run_id)


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


async def test_a_chat_is_archived_with_its_agents_or_not_at_all(store: Store, chat: Chat) -> None:
    conversations = Conversations(store)
    child = await conversations.create_child(chat, "first", text("Look."))
    assert child is not None
    # The last step fails, whatever is the database's way to fail.
    working = store.database.run

    async def breaking(work: Any, *, write: bool = False) -> Any:
        def broken(connection: Connection) -> Any:
            work(connection)
            raise StoreError("gone")

        return await working(broken, write=write)

    store.database.run = breaking  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        await store.set_archived(chat.id, True)
    store.database.run = working  # type: ignore[method-assign]
    family = [chat.id, child.id]
    assert await store.archived(family) == []
    assert await store.set_archived(chat.id, True)
    assert sorted(await store.archived(family)) == sorted(family)
    assert not await store.set_archived(chat.id, True)
    assert await store.set_archived(chat.id, False)
    assert await store.archived(family) == []
    assert await store.archived([]) == []


async def test_archiving_and_spawning_at_once_leave_nothing_under_an_archived_chat(
    store: Store, chat: Chat
) -> None:
    conversations = Conversations(store)

    async def spawn() -> None:
        await conversations.create_child(chat, "agent", text("Look."))

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(spawn)
            if number == 5:
                nursery.start_soon(store.set_archived, chat.id, True)
    children = await conversations.children(chat.id)
    assert all(child.archived for child in children)


async def test_an_error_has_nothing_of_what_was_said(store: Store) -> None:
    nobody, secret = uuid4(), uuid4().hex
    with pytest.raises(StoreError) as error:
        await Conversations(store).add(nobody, "user", text(secret))
    assert secret not in "".join(traceback.format_exception(error.value))
