"""A model that says what a test wants, in the place of the one that is asked over the network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import trio

from api.agents.model import Reply

Answer = Reply | Exception | Callable[[dict[str, Any]], Awaitable[Reply]]

_ids = count(1)


def said(text: str, *, stop_reason: str = "end_turn", tokens: int = 10) -> Reply:
    return Reply([{"type": "text", "text": text}], stop_reason, tokens, tokens)


def call(name: str, given: object = None, **fields: object) -> dict[str, Any]:
    """A tool_use block."""
    return {"type": "tool_use", "id": f"toolu_{next(_ids)}", "name": name, "input": given or {}} | (
        fields
    )


def on_screen(name: str, given: object = None) -> dict[str, Any]:
    """A tool_use block of the computer toolset."""
    return call(name, given, toolset_name="computer")


def calls(*blocks: dict[str, Any], stop_reason: str = "tool_use") -> Reply:
    return Reply(list(blocks), stop_reason, 10, 10)


@dataclass
class Talker:
    """Gives its answers in order, those of parents and those of agents; `requests` has what it was
    asked. Out of answers it says "done"."""

    parent: list[Answer] = field(default_factory=list)
    agent: list[Answer] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)

    async def reply(
        self,
        *,
        system: str,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        beta: str | None,
        on_text: Callable[[str], None],
        on_restart: Callable[[], None],
    ) -> Reply:
        await trio.lowlevel.checkpoint()
        asked = {"system": system, "messages": messages, "tools": tools, "beta": beta}
        self.requests.append(asked)
        told = asked | {"on_text": on_text}
        answers = self.agent if any("type" in tool for tool in tools) else self.parent
        answer = answers.pop(0) if answers else said("done")
        if isinstance(answer, Exception):
            raise answer
        reply = answer if isinstance(answer, Reply) else await answer(told)
        for block in reply.content:
            if block["type"] == "text":
                on_text(block["text"])
        return reply
