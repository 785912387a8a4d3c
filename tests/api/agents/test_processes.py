"""Chats at work where more than one process works on a database, and where the database fails."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
from sqlalchemy import Connection

from api.agents.model import Reply
from api.agents.runs import FENCE_S, LOOK_S, LOST, Runs
from api.store import Chat, Store, StoreError
from api.store.conversations import ABANDONED, BUSY, LEASE_S
from api.store.database import ANSWER_S
from relay.desktops import Desktops, provider_for
from tests.labs.agents import agents_lab, other_process, running_tool
from tests.labs.clock import ManualClock
from tests.labs.databases import postgresql, url
from tests.labs.language_model.scripted import Talker, said
from tests.labs.places import ROOT
from tests.labs.services import runs_over

__all__ = ["postgresql", "url"]  # the fixtures

PATIENCE_S = 10.0

# A database in memory is one process's.
SHARED = pytest.mark.parametrize("url", ["file", "postgresql"], indirect=True)


class Slow(Talker):
    """A model that answers when it is let; `asked` says that it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = trio.Event()
        self.go = trio.Event()
        self.parent = [self.answer]

    async def answer(self, _asked: dict[str, Any]) -> Reply:
        self.asked.set()
        await self.go.wait()
        return said("At last.")


@asynccontextmanager
async def process(url: str, talker: Talker) -> AsyncIterator[Runs]:
    store = await Store.open(url)
    async with trio.open_nursery() as nursery:
        yield runs_over(nursery, store, Desktops(nursery, provider_for), talker)
        nursery.cancel_scope.cancel()
    await store.aclose()


@asynccontextmanager
async def two_processes(url: str, slow: Slow) -> AsyncIterator[tuple[Runs, Runs, Chat]]:
    """One that runs a chat, and another; the chat."""
    async with process(url, slow) as one, process(url, Talker()) as other:
        user = await one._store.ensure_user("alice")
        chat = await one._store.create_chat(user.id)
        await one.say(chat.id, "Do it.")
        await slow.asked.wait()
        yield one, other, chat


async def status(runs: Runs, chat: Chat) -> str:
    found = await runs._store.chat(chat.id)
    assert found is not None
    return found.status


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.01)


@SHARED
async def test_an_interrupt_reaches_another_process(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.agents.runs.LOOK_S", 0.1)
    async with two_processes(url, Slow()) as (one, other, chat):
        with trio.fail_after(PATIENCE_S):
            assert await other.interrupt(chat.id)
        assert await status(other, chat) == "waiting"
        await until(lambda: not one._runs)
        # There is nothing to interrupt then; and what is said next is answered.
        assert not await other.interrupt(chat.id)
        await other.say(chat.id, "Go on.")
        assert (await other.wait_idle(chat.id, PATIENCE_S)) is not None
        messages = await other.conversations.messages(chat.id)
        assert messages[-1].content == said("done").content


async def test_a_shorter_poll_than_the_lease() -> None:
    assert LOOK_S <= 3


@SHARED
async def test_what_is_said_behind_an_interrupt_elsewhere_is_answered(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.agents.runs.LOOK_S", 0.5)
    slow = Slow()
    async with two_processes(url, slow) as (one, other, chat):
        await other.say(chat.id, "And that.")
        await until(lambda: not other._runs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.interrupt, chat.id)
            with trio.fail_after(PATIENCE_S):
                while not await other.conversations.interrupting(chat.id):
                    await trio.sleep(0.01)
            await other.say(chat.id, "Not that. This.")
        await until(lambda: not one._runs)
        assert await status(other, chat) == "waiting"
        messages = await other.conversations.messages(chat.id)
        assert [m.content[0]["text"] for m in messages] == [
            "Do it.",
            "And that.",
            "Not that. This.",
            "done",
        ]


@SHARED
async def test_what_was_said_before_an_interrupt_elsewhere_is_not_answered(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.agents.runs.LOOK_S", 0.1)
    async with two_processes(url, Slow()) as (one, other, chat):
        await other.say(chat.id, "And that.")
        await until(lambda: not other._runs)
        assert await other.interrupt(chat.id)
        await until(lambda: not one._runs)
        assert await status(other, chat) == "waiting"
        assert len(await other.conversations.messages(chat.id)) == 1


@SHARED
async def test_an_interrupt_also_reaches_another_process_while_this_one_tries(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.agents.runs.LOOK_S", 0.1)
    async with two_processes(url, Slow()) as (one, other, chat):
        trying = trio.Event()

        async def hang(chat_id: UUID, run_id: UUID) -> bool:
            trying.set()
            await trio.sleep_forever()
            raise AssertionError

        monkeypatch.setattr(other.conversations, "begin", hang)
        await other.say(chat.id, "And that.")
        await trying.wait()
        with trio.fail_after(PATIENCE_S):
            assert await other.interrupt(chat.id)
        await until(lambda: not one._runs)
        assert await status(other, chat) == "waiting"


async def test_what_was_said_before_an_interrupt_is_not_answered() -> None:
    async with agents_lab() as lab:
        slow = Slow()
        lab.talker.parent = list(slow.parent)
        chat = await lab.chat()
        await lab.runs.say(chat.id, "Do it.")
        await slow.asked.wait()
        await lab.runs.say(chat.id, "And that.")
        assert await lab.runs.interrupt(chat.id)
        assert (await lab.idle(chat.id)).status == "waiting"
        assert len(await lab.messages(chat.id)) == 1


@SHARED
async def test_an_interrupt_of_a_process_that_died_does_not_wait_for_ever(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.agents.runs.INTERRUPT_S", 0.2)
    async with two_processes(url, Slow()) as (_, other, chat):
        with trio.fail_after(PATIENCE_S):
            assert await other.interrupt(chat.id)
        assert await status(other, chat) == "running"


async def test_a_chat_that_another_process_runs_is_left_to_it() -> None:
    async with agents_lab() as lab:
        chat, other = await lab.chat(), other_process(lab)
        seen: list[str | None] = []

        async def hear(_asked: dict[str, Any]) -> Reply:
            await other.say(chat.id, "And another thing.")
            with trio.fail_after(2):
                while chat.id in other._runs:
                    await trio.sleep(0.01)
            found = await lab.store.chat(chat.id)
            seen.append(found.status if found else None)
            return said("First.")

        lab.talker.parent = [hear, said("Second.")]
        assert (await lab.ask(chat)).status == "waiting"
        assert seen == ["running"]
        last = (await lab.messages(chat.id))[-1]
        assert last.content == [{"type": "text", "text": "Second."}]


async def test_what_another_process_was_told_at_the_very_end_is_heard() -> None:
    async with agents_lab() as lab:
        chat, other = await lab.chat(), other_process(lab)
        finish = lab.runs.conversations.finish

        async def slow(*ending: Any, **options: Any) -> bool:
            lab.runs.conversations.finish = finish  # type: ignore[method-assign]
            await other.say(chat.id, "One more.")
            while chat.id in other._runs:
                await trio.sleep(0.01)
            return await finish(*ending, **options)

        lab.runs.conversations.finish = slow  # type: ignore[method-assign]
        lab.talker.parent = [said("First."), said("Second.")]
        await lab.ask(chat)
        assert [m.role for m in await lab.messages(chat.id)] == ["user", "assistant"] * 2


async def test_a_lease_is_not_taken_for_anothers() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        conversations = lab.runs.conversations
        first, second = uuid4(), uuid4()
        assert await conversations.begin(chat.id, first)
        lab.clock.advance(seconds=LEASE_S + 1)
        assert await conversations.mark_abandoned() == [chat.id]
        assert await conversations.begin(chat.id, second)
        # The first one was only slow.
        assert not await conversations.renew(chat.id, first)
        assert not await conversations.holds(chat.id, first)
        with pytest.raises(StoreError, match="lost"):
            await conversations.add(chat.id, "assistant", said("Late.").content, run_id=first)
        with pytest.raises(StoreError, match="lost"):
            await conversations.listen(chat.id, run_id=first)
        await conversations.finish(chat.id, first, "waiting")
        assert await lab.messages(chat.id) == []
        lab.clock.advance(seconds=10)
        assert await conversations.renew(chat.id, second)
        found = await lab.store.chat(chat.id)
        assert found is not None
        assert found.running_until == lab.clock.now + timedelta(seconds=LEASE_S)


# A database that fails or hangs.


async def test_a_run_whose_lease_cannot_be_renewed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.agents.runs.LOOK_S", 0.1)
    monkeypatch.setattr("api.agents.runs.LEASE_S", 0.3)
    monkeypatch.setattr("api.agents.runs.FENCE_S", 2.0)
    async with agents_lab() as lab:
        _, child = await running_tool(lab)

        async def fail(chat_id: UUID, run_id: UUID) -> bool:
            raise StoreError("gone")

        lab.runs.conversations.renew = fail  # type: ignore[method-assign]
        found = await lab.idle(child.id)
        assert (found.status, found.last_error) == ("error", LOST)


async def test_a_database_that_hangs_ends_a_run_before_its_lease_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.agents.runs.LOOK_S", 0.1)
    monkeypatch.setattr("api.agents.runs.LEASE_S", 0.3)
    monkeypatch.setattr("api.agents.runs.FENCE_S", 2.0)
    let_go = threading.Event()
    async with agents_lab() as lab:
        _, child = await running_tool(lab)
        run = lab.runs._runs[child.id]
        monkeypatch.setattr("api.store.database.ANSWER_S", 0.3)

        def hang(_connection: Connection) -> None:
            let_go.wait(PATIENCE_S)

        lab.nursery.start_soon(swallow, lab.store, hang)
        with trio.fail_after(PATIENCE_S / 2):
            await run.over.wait()
        let_go.set()
        # How it ended could not be written down; its lease tells.
        with trio.fail_after(PATIENCE_S):
            assert (await lab.idle(child.id)).status == "running"


async def swallow(store: Store, work: Callable[[Connection], None]) -> None:
    with pytest.raises(StoreError):
        await store.database.run(work, write=True)


async def test_the_bounds_leave_time_before_another_may_take_the_chat() -> None:
    # One renewal that hangs is no end.
    assert LEASE_S / 3 + ANSWER_S + LOOK_S < FENCE_S
    assert FENCE_S + ANSWER_S + LOOK_S < LEASE_S


async def test_a_suspended_users_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.agents.runs.LOOK_S", 0.1)
    async with agents_lab() as lab:
        _, child = await running_tool(lab)
        await lab.store.set_user_status(lab.user.id, "suspended")
        assert (await lab.idle(child.id)).status == "waiting"
        asked = len(lab.talker.requests)
        lab.runs.start(child.id, child.owner_id)
        assert (await lab.idle(child.id)).status == "waiting"
        assert len(lab.talker.requests) == asked


# A process that is killed.


async def test_a_chat_that_was_left_running_is_found() -> None:
    async with agents_lab() as lab:
        chat, other = await lab.chat(), await lab.chat()
        conversations = lab.runs.conversations
        assert await conversations.begin(chat.id, uuid4())
        assert not await conversations.begin(chat.id, uuid4())
        lab.clock.now += timedelta(seconds=LEASE_S - 1)
        assert await conversations.mark_abandoned() == []
        assert await conversations.begin(other.id, uuid4())
        lab.clock.now += timedelta(seconds=2)
        assert await conversations.mark_abandoned() == [chat.id]
        found = await lab.store.chat(chat.id)
        assert found is not None
        assert (found.status, found.last_error) == ("error", ABANDONED)
        assert (await lab.ask(chat, "Go on.")).status == "waiting"


async def test_a_chat_whose_process_died_before_it_began_is_found() -> None:
    async with agents_lab() as lab:
        chat, conversations = await lab.chat(), lab.runs.conversations
        assert await conversations.ask(chat.id, said("Do it.").content, limit=1)
        found = await lab.store.chat(chat.id)
        assert found is not None
        assert found.status == "pending"
        lab.clock.advance(seconds=LEASE_S + 1)
        assert await conversations.mark_abandoned() == [chat.id]
        assert (await lab.ask(chat, "Go on.")).status == "waiting"


async def test_what_was_said_while_nobody_noticed_is_answered() -> None:
    async with agents_lab() as lab:
        chat, quiet = await lab.chat(), await lab.chat()
        conversations = lab.runs.conversations
        for killed in (chat, quiet):
            assert await conversations.begin(killed.id, uuid4())
        await lab.runs.say(chat.id, "Are you there?")
        assert (await lab.idle(chat.id)).status == "running"
        lab.clock.advance(seconds=LEASE_S + 1)
        lab.nursery.start_soon(lab.runs.watch_abandoned)
        with trio.fail_after(PATIENCE_S):
            while not await lab.messages(chat.id):
                await trio.sleep(0.01)
        assert (await lab.idle(chat.id)).status == "waiting"
        assert (await lab.messages(chat.id))[-1].content == said("done").content
        assert (await lab.idle(quiet.id)).last_error == ABANDONED


@pytest.mark.parametrize("after_s", [0.0, 0.15, 0.4])
async def test_no_chat_stays_busy_with_nobody_who_runs_it(tmp_path: Path, after_s: float) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    command = [sys.executable, "-m", "tests.labs.killed", url]
    killed = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert killed.stdout is not None
    async with killed.stdout:
        assert await killed.stdout.receive_some() == b"working\n"
        await trio.sleep(after_s)
        killed.kill()
        await killed.wait()
    later = ManualClock()
    later.now = datetime.now(UTC) + timedelta(seconds=LEASE_S + 1)
    store = await Store.open(url, clock=later)
    left = [chat for chat in await store.chats() if chat.status in BUSY]
    async with trio.open_nursery() as nursery:
        runs = runs_over(nursery, store, Desktops(nursery, provider_for), Talker())
        assert sorted(await runs.conversations.mark_abandoned()) == sorted(c.id for c in left)
        assert {chat.status for chat in await store.chats()} <= {"waiting", "error"}
        for chat in left:
            await runs.say(chat.id, "Go on.")
            idle = await runs.wait_idle(chat.id, PATIENCE_S)
            assert idle is not None
            assert (idle.status, idle.last_error) == ("waiting", None)
        nursery.cancel_scope.cancel()
    await store.aclose()
