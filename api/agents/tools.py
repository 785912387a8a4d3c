"""The tools by which a chat has agents work for it: chats under it, each with a desktop to use.

One level deep: an agent has no agents. A chat reaches only what is below it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.agents.runs import Busy, Runs
from api.budgets import OverBudget
from api.store import Chat, Store, StoreError
from api.store.conversations import BUSY

__all__ = ["WAIT_S", "AgentTools", "ToolError", "title_of"]

WAIT_S: Final = 300.0
"""What `wait_agent` waits where it is not told otherwise."""

AT_WORK_LIMIT: Final = 8
"""A chat's agents that may be at work at once: they share one desktop."""

PROBLEM_CHARS: Final = 1_000
"""Of what is wrong with a call's input."""

LISTED: Final = 10
LISTED_LIMIT: Final = 50

_TITLE_WORDS: Final = 6
_TITLE_CHARS: Final = 80


DATABASE: Final = "the server's database failed. Try again later."


class ToolError(Exception):
    """A call that went wrong; the text is for the model."""


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Spawn(_Input):
    prompt: Annotated[
        str, Field(description="The whole task: the agent sees nothing else of this conversation.")
    ] = ""
    title: Annotated[str | None, Field(description="A few words; by default the prompt's.")] = None


class _Agent(_Input):
    chat_id: Annotated[str, Field(description="The agent's, as spawning it has said.")] = ""


class _Wait(_Agent):
    timeout_seconds: Annotated[float | None, Field(description=f"{WAIT_S:g} by default.")] = None


class _Message(_Agent):
    message: Annotated[str, Field(description="What the agent is told.")] = ""
    interrupt: Annotated[
        bool, Field(description="Stop what it does, rather than wait until it listens.")
    ] = False


class _List(_Input):
    limit: Annotated[int, Field(ge=1, le=LISTED_LIMIT)] = LISTED
    offset: Annotated[int, Field(ge=0)] = 0


def title_of(prompt: str) -> str:
    """A title for a chat that was given none."""
    words = prompt.split()
    title = " ".join(words[:_TITLE_WORDS])
    if len(words) > _TITLE_WORDS:
        title += "..."
    return _plain(title) or "New Chat"


def _plain(title: str) -> str:
    title = "".join(c for c in " ".join(title.split()) if c.isprintable())
    return title[:_TITLE_CHARS]


class AgentTools:
    """Those tools, for one chat."""

    def __init__(self, runs: Runs, store: Store, chat: Chat) -> None:
        self._runs = runs
        self._store = store
        self._chat = chat
        self._tools: Mapping[
            str, tuple[type[_Input], str, Callable[[Any], Awaitable[dict[str, Any]]]]
        ] = {
            "spawn_computer_use_agent": (
                _Spawn,
                "Starts an agent that sees and uses the workspace's desktop. Returns at once; "
                "wait_agent has its report.",
                self._spawn,
            ),
            "wait_agent": (_Wait, "Waits until an agent is done; its report.", self._wait),
            "message_agent": (
                _Message,
                "Tells an agent something more, whether it is done or at work.",
                self._message,
            ),
            "interrupt_agent": (_Agent, "Stops what an agent does.", self._interrupt),
            "close_agent": (_Agent, "Stops an agent that is not needed any more.", self._close),
            "list_agents": (_List, "The agents of this chat, newest first.", self._list),
        }

    def definitions(self) -> list[dict[str, Any]]:
        """The tools, for a request: an agent has none."""
        if self._chat.parent_id is not None:
            return []
        return [
            {"name": name, "description": text, "input_schema": model.model_json_schema()}
            for name, (model, text, _) in self._tools.items()
        ]

    async def run(self, name: str, given: object) -> str:
        """What a call answers. Raises ToolError."""
        if name not in self._tools:
            known = ", ".join(tool["name"] for tool in self.definitions()) or "none but computer"
            raise ToolError(f"There is no tool {name!r}. The tools are: {known}.")
        if self._chat.parent_id is not None:
            raise ToolError("delegated chats cannot create child subagents")
        model, _, handler = self._tools[name]
        try:
            wanted = model.model_validate(given, strict=True)
        except ValidationError as error:
            problems = (
                f"{'.'.join(map(str, e['loc'])) or 'input'}: {e['msg']}"
                for e in error.errors(include_url=False, include_input=False)
            )
            # It names what the model has made up, which may be any number of names.
            raise ToolError("; ".join(problems)[:PROBLEM_CHARS]) from None
        try:
            return json.dumps(await handler(wanted))
        except StoreError:
            raise ToolError(DATABASE) from None

    async def _spawn(self, wanted: _Spawn) -> dict[str, Any]:
        prompt = wanted.prompt.strip()
        if not prompt:
            raise ToolError("prompt is required")
        if self._chat.workspace_id is None:
            raise ToolError("create child chat: the chat has no workspace, and so no desktop")
        await self._check_work()
        title = _plain(wanted.title or "") or title_of(prompt)
        content = [{"type": "text", "text": prompt}]
        try:
            child = await self._runs.spawn(self._chat, title, content)
        except OverBudget as over:
            self._runs.budgets.refused(over)
            raise ToolError(f"create child chat: {over}") from None
        except StoreError:
            raise ToolError(f"create child chat: {DATABASE}") from None
        if child is None:
            raise ToolError("cannot create a child agent because the parent chat is archived")
        return _told(child)

    async def _wait(self, wanted: _Wait) -> dict[str, Any]:
        child = await self._child(
            wanted.chat_id, "target chat is not a subagent of the current chat"
        )
        asked_s = wanted.timeout_seconds or 0
        done = await self._runs.wait_idle(child.id, asked_s if asked_s > 0 else WAIT_S)
        if done is None:
            raise ToolError("timed out waiting for delegated subagent completion")
        report = await self._report(done)
        if done.status == "error":
            raise ToolError(report or done.last_error or "agent reached error status")
        return _told(done) | {"report": report}

    async def _report(self, child: Chat) -> str:
        """The last thing that it said."""
        for message in reversed(await self._runs.conversations.messages(child.id)):
            if message.role == "assistant":
                texts = [block["text"] for block in message.content if block["type"] == "text"]
                if text := "\n".join(texts).strip():
                    return text
        return ""

    async def _message(self, wanted: _Message) -> dict[str, Any]:
        if not wanted.message.strip():
            raise ToolError("message is required")
        child = await self._child(wanted.chat_id)
        if child.status not in BUSY:
            await self._check_work()
        interrupted = wanted.interrupt and await self._runs.interrupt(child.id)
        try:
            await self._runs.say(child.id, wanted.message)
        except Busy as busy:
            raise ToolError(str(busy)) from None
        except OverBudget as over:
            self._runs.budgets.refused(over)
            raise ToolError(str(over)) from None
        return _told(await self._again(child)) | {"interrupted": interrupted}

    async def _interrupt(self, wanted: _Agent) -> dict[str, Any]:
        child = await self._child(wanted.chat_id)
        interrupted = await self._runs.interrupt(child.id)
        return _told(await self._again(child)) | {"interrupted": interrupted}

    async def _close(self, wanted: _Agent) -> dict[str, Any]:
        child = await self._child(wanted.chat_id)
        await self._runs.interrupt(child.id)
        found = await self._again(child)
        if found.status in BUSY:
            # Whatever process ran it has died, or does not reach the database.
            raise ToolError("set target chat waiting: its server does not answer. Try again later.")
        return _told(found) | {"terminated": True}

    async def _list(self, wanted: _List) -> dict[str, Any]:
        conversations = self._runs.conversations
        total, _ = await conversations.count_children(self._chat.id)
        # No database counts further than its integers, and nothing is there.
        shown = await conversations.children(
            self._chat.id, offset=min(wanted.offset, total), limit=wanted.limit
        )
        return {
            "agents": [_told(child) for child in shown],
            "total": total,
            "returned": len(shown),
            "offset": wanted.offset,
            "has_more": wanted.offset + len(shown) < total,
        }

    async def _child(
        self, text: str, stranger: str = "target chat is not a descendant of current chat"
    ) -> Chat:
        try:
            chat_id = UUID(text)
        except ValueError:
            raise ToolError("chat_id must be a valid UUID") from None
        try:
            child = await self._store.chat(chat_id)
        except StoreError:
            raise ToolError(f"failed to verify subagent relationship: {DATABASE}") from None
        if child is None or child.parent_id != self._chat.id:
            raise ToolError(stranger)
        return child

    async def _check_work(self) -> None:
        _, at_work = await self._runs.conversations.count_children(self._chat.id)
        if at_work >= AT_WORK_LIMIT:
            raise ToolError(
                f"{AT_WORK_LIMIT} agents are at work already. Wait for one of them, or close one."
            )

    async def _again(self, child: Chat) -> Chat:
        return await self._store.chat(child.id) or child


def _told(chat: Chat) -> dict[str, Any]:
    return {"chat_id": str(chat.id), "title": chat.title, "status": chat.status}
