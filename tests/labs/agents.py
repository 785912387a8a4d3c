"""Chats at work over a store in memory, a model that a test speaks for, and the test pattern."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import trio

from api.agents.model import Reply
from api.agents.runs import Runs
from api.budgets import Budgets, BudgetSettings
from api.settings import ModelSettings
from api.store import Chat, Message, Store, User, Workspace
from relay.desktops import Desktops, provider_for
from tests.labs.clock import ManualClock
from tests.labs.language_model.scripted import Talker, call, calls, on_screen, said
from tests.labs.services import runs_over

PATIENCE_S = 10.0

SPAWN = ("spawn_computer_use_agent", {"prompt": "Look at the screen and say what is there."})


@dataclass
class AgentsLab:
    runs: Runs
    store: Store
    clock: ManualClock
    talker: Talker
    desktops: Desktops
    user: User
    workspace: Workspace
    nursery: trio.Nursery

    async def chat(self, *, workspace: bool = True) -> Chat:
        workspace_id = self.workspace.id if workspace else None
        return await self.store.create_chat(self.user.id, workspace_id=workspace_id)

    async def ask(self, chat: Chat, text: str = "Do it.") -> Chat:
        """Says something, and waits until the chat is idle."""
        await self.runs.say(chat.id, text)
        return await self.idle(chat.id)

    async def idle(self, chat_id: UUID) -> Chat:
        with trio.fail_after(PATIENCE_S):
            while chat_id in self.runs._runs:
                await self.runs._runs[chat_id].over.wait()
            found = await self.store.chat(chat_id)
        assert found is not None
        return found

    async def messages(self, chat_id: UUID) -> list[Message]:
        return await self.runs.conversations.messages(chat_id)

    async def results(self, chat_id: UUID) -> list[dict[str, Any]]:
        """All tool results of a chat, in order."""
        return [
            block
            for message in await self.messages(chat_id)
            for block in message.content
            if block["type"] == "tool_result"
        ]

    async def only_child(self, chat: Chat) -> Chat:
        (child,) = await self.runs.conversations.children(chat.id)
        return child


@asynccontextmanager
async def agents_lab(
    desktop: str = "pattern", *, budgets: BudgetSettings | None = None, **settings: Any
) -> AsyncIterator[AgentsLab]:
    clock, talker = ManualClock(), Talker()
    store = await Store.open("sqlite://", clock=clock)
    user = await store.ensure_user("alice")
    workspace = await store.add_workspace(user.id, "dev", desktop)
    async with trio.open_nursery() as nursery:
        desktops = Desktops(nursery, provider_for)
        held = Budgets(budgets or BudgetSettings())
        runs = runs_over(nursery, store, desktops, talker, ModelSettings(**settings), held)
        yield AgentsLab(runs, store, clock, talker, desktops, user, workspace, nursery)
        nursery.cancel_scope.cancel()
    await store.aclose()


def last_result(asked: dict[str, Any]) -> str:
    """The text of the newest tool result that the model was shown."""
    return str(asked["messages"][-1]["content"][-1]["content"][0]["text"])


def spawned(asked: dict[str, Any]) -> str:
    """The id of the agent that the newest result tells of."""
    return str(json.loads(last_result(asked))["chat_id"])


def to_spawned(name: str, **given: object) -> Callable[[dict[str, Any]], Awaitable[Reply]]:
    """An answer that calls a tool for the agent that was spawned just before."""

    async def answer(asked: dict[str, Any]) -> Reply:
        return calls(call(name, {"chat_id": spawned(asked), **given}))

    return answer


async def running_tool(lab: AgentsLab, *answers: Any) -> Any:
    """A chat whose agent waits for a minute, and that agent."""
    chat = await lab.chat()
    lab.talker.parent = [calls(call(*SPAWN)), said("It is at work.")]
    lab.talker.agent = [calls(on_screen("wait", {"duration": 60})), *answers]
    await lab.ask(chat)
    child = await lab.only_child(chat)
    with trio.fail_after(5):
        while len(await lab.messages(child.id)) < 2:
            await trio.sleep(0.01)
    return chat, child


def other_process(lab: AgentsLab) -> Runs:
    return runs_over(lab.nursery, lab.store, lab.desktops, lab.talker)
