"""The turns of a chat's model: what waits is heard, the model answers, and its tools are run.

A run (api/agents/runs.py) has `converse` called in its nursery; there is none here. Every step is
saved before the next. Nothing that is said is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

import trio

from api.agents.bounds import TooMuch, bounded
from api.agents.desktop import AgentDesktop, stored
from api.agents.model import Model, ModelError, Reply
from api.agents.runs import Ending, Run, Runs
from api.agents.tools import AgentTools, ToolError
from api.agents.transcript import request_messages
from api.agents.watch import Words
from api.budgets import OverBudget
from api.computer import result_of
from api.settings import ModelSettings
from api.store import Chat, File, Message, Store
from relay.desktops import Desktops
from relay.errors import DesktopError
from relay.limits import Limits

__all__ = ["converse"]

FAILURES_LIMIT: Final = 10
"""Turns in a row in which every tool call failed. A model that gets nothing right in ten goes on
like that."""

_CUT_OFF: Final = {
    "max_tokens": "The model's answer was cut off. Send a message to go on.",
    "model_context_window_exceeded": "This conversation has become too large for the model. Go on "
    "in a new chat.",
}

_SYSTEM: Final = {
    "chat": (
        "You help a person with the computer of their workspace. You do not see its screen: for "
        "anything that has to be done or looked at there, spawn an agent with a complete task, "
        "wait for it and use its report. Say what was done, and what was not."
    ),
    "computer_use": (
        "You work on the desktop of a workspace with mouse and keyboard, through the computer "
        "tool. Take a screenshot first. Act by what you see, and look at the screenshot after an "
        "action to see what it did; give programs time to start. Where something fails, try "
        "another way. A person may be watching. At the end report what you did and what you "
        "found: the report is all that whoever gave you the task gets to see."
    ),
}

_log = logging.getLogger(__name__)


async def converse(
    store: Store,
    desktops: Desktops,
    limits: Limits,
    settings: ModelSettings,
    model: Model,
    runs: Runs,
    chat: Chat,
    run: Run,
) -> Ending:
    """Answers until nothing is unanswered. Raises StoreError.

    A `partial` of it, with all but the last three arguments, is the `Work` of `Runs`.
    """
    limit_s = settings.time_limit_s
    ending: Ending = ("error", f"Stopped after {limit_s:g} s. Send a message to go on.")
    with trio.move_on_after(limit_s):
        try:
            async with AgentDesktop(store, desktops, limits, chat, settings) as desktop:
                tools = AgentTools(runs, store, chat)
                ending = await _Turns(runs, chat, run, settings, model, tools, desktop).take()
        except ModelError as error:
            _log.warning("chat %s has no answer of its model: %s", chat.id, error.brief)
            ending = ("error", str(error))
        except OverBudget as over:
            # What was to be saved is not, and what was saved before stays.
            runs.budgets.refused(over)
            ending = ("error", f"Stopped: {over}")
        except DesktopError as error:
            _log.warning("chat %s has no desktop: %s", chat.id, error)
            ending = ("error", f"The desktop could not be opened: {error.told}")
    return ending


@dataclass(frozen=True, slots=True)
class _Turns:
    """Those of one run."""

    runs: Runs
    chat: Chat
    run: Run
    settings: ModelSettings
    model: Model
    tools: AgentTools
    desktop: AgentDesktop

    async def take(self) -> Ending:
        """Turn by turn. Raises ModelError, DesktopError, StoreError."""
        chat_id = self.chat.id
        history: list[Message] = []
        turns = tokens = failures = 0
        paused = False
        while True:
            self.run.again = False
            if await self.runs.conversations.listen(chat_id, run_id=self.run.id):
                self.runs.followers.tell(chat_id)
            history += await self.runs.conversations.messages(
                chat_id, after=history[-1].id if history else 0
            )
            if not history or (history[-1].role == "assistant" and not paused):
                return "waiting", None
            if turns == self.settings.turns_limit:
                return "error", f"Stopped after {turns} turns. Send a message to go on."
            if tokens >= self.settings.tokens_limit:
                return "error", f"Stopped after {tokens} tokens. Send a message to go on."
            if failures == FAILURES_LIMIT:
                return "error", (
                    f"Stopped after {failures} turns in which every tool call failed. "
                    "Send a message to go on."
                )
            reply = await self._ask(history)
            turns += 1
            tokens += reply.input_tokens + reply.output_tokens
            if not reply.content:
                return "error", "The model's answer was empty. Send a message to go on."
            try:
                content, refused = bounded(reply.content)
            except TooMuch as error:
                self._say(history[-1].id, restarted=True)
                return "error", str(error)
            await self.runs.conversations.add(chat_id, "assistant", content, run_id=self.run.id)
            self.runs.followers.tell(chat_id)
            calls = [block for block in content if block["type"] == "tool_use"]
            paused = reply.stop_reason == "pause_turn"
            if reply.stop_reason == "refusal":
                return "error", "The model refused to go on."
            if calls:
                if refused:
                    results = [
                        result_of(call, refused[call["id"]], is_error=True) for call in calls
                    ]
                else:
                    results = await self._call(calls, cut=reply.stop_reason != "tool_use")
                failed = all(result["is_error"] for result in results)
                failures = failures + 1 if failed else 0
                await self._save_results(results)
            elif reply.stop_reason in _CUT_OFF:
                return "error", _CUT_OFF[reply.stop_reason]

    async def _ask(self, history: Sequence[Message]) -> Reply:
        """What the model says to all that was said."""
        messages = await request_messages(
            [(message.role, message.content) for message in history], self._picture
        )
        say = partial(self._say, history[-1].id)
        try:
            return await self.model.reply(
                system=_SYSTEM[self.chat.mode],
                messages=messages,
                tools=[*self.tools.definitions(), *await self.desktop.definitions()],
                beta=self.desktop.beta_header,
                on_text=say,
                on_restart=partial(say, restarted=True),
            )
        except BaseException:
            say(restarted=True)
            raise

    def _say(self, behind: int, text: str = "", *, restarted: bool = False) -> None:
        self.runs.followers.tell(self.chat.id, Words(behind, restarted, text))

    async def _picture(self, file_id: UUID) -> tuple[str, bytes]:
        picture = await self.runs.conversations.picture(file_id)
        assert picture is not None, "a picture of a message is kept as long as the message"
        return picture.media_type, picture.data

    async def _call(self, calls: Sequence[dict[str, Any]], *, cut: bool) -> list[dict[str, Any]]:
        """One result for each call, in their order."""
        if cut:
            # The last call's input may be half of one.
            text = "Not executed: the answer was cut off. Make fewer or shorter calls."
            return [result_of(call, text, is_error=True) for call in calls]
        on_desktop = [call for call in calls if self.desktop.takes(call)]
        done = {result["tool_use_id"]: result for result in await self.desktop.run(on_desktop)}
        for call in calls:
            if call["id"] in done:
                continue
            try:
                text = await self.tools.run(call["name"], call["input"])
                done[call["id"]] = result_of(call, text)
            except ToolError as error:
                done[call["id"]] = result_of(call, str(error), is_error=True)
        return [done[call["id"]] for call in calls]

    async def _save_results(self, results: list[dict[str, Any]]) -> None:
        pictures: list[File] = []
        for result in results:
            result["content"] = [
                stored(self.chat.id, block, pictures) for block in result["content"]
            ]
        await self.runs.conversations.add(
            self.chat.id, "user", results, pictures, run_id=self.run.id
        )
        self.runs.followers.tell(self.chat.id)
