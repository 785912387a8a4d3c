"""A model that talks to the stand-in for the Messages API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from api.agents.model import Model, ModelError, Reply
from tests.labs.language_model.server import API_KEY, ModelServer, model_server

TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}
HELLO = [{"role": "user", "content": "Hello"}]


@dataclass
class Talk:
    """A model and its server."""

    server: ModelServer
    model: Model
    shown: list[str] = field(default_factory=list)

    async def say(self, **changes: Any) -> Reply:
        request: dict[str, Any] = {
            "system": "Be short.",
            "messages": HELLO,
            "tools": [TOOL],
            "beta": None,
            "on_text": self.shown.append,
            "on_restart": lambda: self.shown.append("RESTART"),
        }
        return await self.model.reply(**{**request, **changes})

    async def error(self, **changes: Any) -> ModelError:
        with pytest.raises(ModelError) as caught:
            await self.say(**changes)
        assert API_KEY not in str(caught.value)
        return caught.value


@asynccontextmanager
async def talk(**settings: Any) -> AsyncIterator[Talk]:
    """`settings` are those of Model. Under virtual time it waits for the sockets."""
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, MockClock):
        # The sockets are real, and need some time.
        clock.autojump_threshold = 0.05
    async with model_server() as server:
        options: dict[str, Any] = {
            "api_key": API_KEY,
            "base_url": server.url,
            "name": "claude-test",
            "max_tokens": 1000,
        }
        # A proxy for everything would get what is for the stand-in.
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        with pytest.MonkeyPatch.context() as patch:
            for name in (*names, *map(str.lower, names)):
                patch.delenv(name, raising=False)
            model = Model(**{**options, **settings})
        # Else the SDK finds it out in a thread, which virtual time does not wait for.
        model._client._platform = "Unknown"
        try:
            yield Talk(server, model)
        finally:
            await model.aclose()
