"""Chats at work: what is said meanwhile, interrupts, and how a run ends."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
import trio

from api.agents.model import ModelError, Reply
from api.agents.runs import STOPPED, Busy
from tests.labs.agents import SPAWN, agents_lab, running_tool
from tests.labs.language_model.scripted import call, calls, said


async def test_an_interrupted_agent_stops_at_once_and_can_go_on() -> None:
    async with agents_lab() as lab:
        _, child = await running_tool(lab)
        with trio.fail_after(2):
            assert await lab.runs.interrupt(child.id)
        assert (await lab.idle(child.id)).status == "waiting"
        assert not await lab.runs.interrupt(child.id)
        lab.talker.agent = [said("Where was I?")]
        assert (await lab.ask(child, "Go on.")).status == "waiting"
        # The API wants every call answered.
        (result, text) = lab.talker.requests[-1]["messages"][-1]["content"]
        assert (result["is_error"], result["toolset_name"]) == (True, "computer")
        assert text["text"] == "Go on."


async def test_what_is_said_at_the_very_end_is_answered_too() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        finish = lab.runs.conversations.finish

        async def slow(*ending: Any, **options: Any) -> bool:
            lab.runs.conversations.finish = finish  # type: ignore[method-assign]
            await lab.runs.say(chat.id, "One more.")
            return await finish(*ending, **options)

        lab.runs.conversations.finish = slow  # type: ignore[method-assign]
        lab.talker.parent = [said("First."), said("Second.")]
        await lab.ask(chat)
        assert [m.role for m in await lab.messages(chat.id)] == ["user", "assistant"] * 2


async def test_archiving_waits_for_nothing_and_nothing_starts_under_it() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()

        async def archive(_asked: dict[str, Any]) -> Reply:
            await lab.store.set_archived(chat.id, True)
            return calls(call(*SPAWN))

        lab.talker.parent = [archive, said("So it is.")]
        await lab.ask(chat)
        (result,) = await lab.results(chat.id)
        assert result["is_error"]
        assert "parent chat is archived" in result["content"][0]["text"]
        assert await lab.runs.conversations.children(chat.id) == []
        with pytest.raises(Busy):
            await lab.runs.say(chat.id, "Anyone?")


async def test_a_server_that_stops_says_so() -> None:
    async with agents_lab() as lab:
        _, child = await running_tool(lab)
        lab.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert (await lab.idle(child.id)).last_error == STOPPED


async def test_a_lease_that_was_lost_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.agents.runs.LOOK_S", 0.1)
    async with agents_lab() as lab:
        _, child = await running_tool(lab)
        await lab.store.set_archived(child.id, True)
        assert (await lab.idle(child.id)).status == "waiting"


async def test_a_chat_that_was_archived_meanwhile_is_not_tried_for_ever() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        await lab.store.set_archived(chat.id, True)
        lab.runs.start(chat.id, chat.owner_id)
        with trio.fail_after(2):
            while lab.runs._runs:
                await trio.sleep(0.01)


async def test_nothing_works_under_an_archived_chat() -> None:
    async with agents_lab() as lab:
        chat, child = await running_tool(lab)
        await lab.runs.interrupt(child.id)
        await lab.store.set_archived(chat.id, True)
        with pytest.raises(Busy):
            await lab.runs.say(child.id, "Go on.")
        assert not await lab.runs.conversations.begin(child.id, uuid4())


async def test_what_is_said_behind_an_interrupt_is_answered() -> None:
    async with agents_lab() as lab:
        _, child = await running_tool(lab, said("Heard."))
        run = lab.runs._runs[child.id]
        lab.nursery.start_soon(lab.runs.interrupt, child.id)
        while not run.interrupted:
            await trio.lowlevel.checkpoint()
        assert not run.over.is_set()
        await lab.ask(child, "Something else.")
        last = (await lab.messages(child.id))[-1]
        assert last.content == [{"type": "text", "text": "Heard."}]


async def test_an_error_can_have_any_text() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        lab.talker.parent = [ModelError("Status 500: \ud800\0.", retryable=False)]
        assert (await lab.ask(chat)).last_error == "Status 500: ?."


async def test_what_is_said_while_a_run_fails_is_answered() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()

        async def fail(_asked: dict[str, Any]) -> Reply:
            await lab.runs.say(chat.id, "And another thing.")
            raise ModelError("Overloaded.", retryable=True)

        lab.talker.parent = [fail, said("Both done.")]
        assert (await lab.ask(chat)).status == "waiting"
        last = (await lab.messages(chat.id))[-1]
        assert last.content == [{"type": "text", "text": "Both done."}]
