"""Chats that a language model works in.

Each chat that has something to answer is run by one task in the nursery that `Agents` was given;
that nursery's owner ends them all by cancelling it. A run owns a nursery with the renewal of its
lease (api/store/conversations.py) in it. Everything is saved as it goes, so a run that was cut off
can be taken up by the next message. Nothing that is said is logged.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

import trio

from api.agents.desktop import AgentDesktop, stored
from api.agents.model import Model, ModelError
from api.agents.tools import AgentTools, Busy, ToolError
from api.agents.transcript import request_messages
from api.agents.watch import Watch, Words
from api.computer import result_of
from api.settings import ModelSettings
from api.store import Chat, Conversations, File, Message, Store, StoreError
from api.store.conversations import BUSY, LEASE_S
from relay.desktops import Desktops
from relay.errors import DesktopError
from relay.limits import Limits

__all__ = ["NO_MODEL", "Agents", "Busy"]

NO_MODEL: Final = "No language model is configured."

STOPPED: Final = "The server was stopped while it was at work. Send a message to go on."

LOST: Final = "The database did not answer while it was at work. Send a message to go on."

INTERNAL: Final = "Internal error. The server's log has the cause."

WAITING_LIMIT: Final = 100
"""Messages of the user's that wait while the model is at work."""

RUNS_LIMIT: Final = 100
"""Chats at work at once. Each has a connection to a desktop, and its pictures in memory while it
asks the model: 18 MB at most."""

FAILURES_LIMIT: Final = 10
"""Turns in a row in which every tool call failed. A model that gets nothing right in ten goes on
like that."""

LOOK_S: Final = 2.0
"""So often a run looks whether it is to end: another process was asked to interrupt it, or its chat
was archived or its owner suspended there."""

FENCE_S: Final = LEASE_S * 2 / 3
"""A run whose lease was last renewed so long ago ends. What is left is for what it waits for of the
database (`ANSWER_S`), for its end, and for clocks that differ."""

INTERRUPT_S: Final = 10.0
"""For another process to stop what it runs. One that takes longer has died, and its lease ends."""

OBEYED_CHECK_S: Final = 0.2

ABANDONED_CHECK_S: Final = 10.0

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


class _Run:
    """One chat at work. `again`: something was said since it listened last, or was interrupted.
    `begun`: it has had the lease."""

    def __init__(self) -> None:
        self.id = uuid4()
        self.scope = trio.CancelScope()
        self.over = trio.Event()
        self.begun = False
        self.again = False
        self.interrupted = False
        self.finishing = False

    def interrupt(self) -> bool:
        """Has it end; whether it was doing anything."""
        if self.finishing:
            return False
        self.interrupted, self.again = True, False
        self.scope.cancel()
        return True


class Agents:
    """The chats that this process runs. `answers` is None where no model is configured."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: Store,
        desktops: Desktops,
        limits: Limits,
        settings: ModelSettings,
        answers: Model | None,
    ) -> None:
        self._nursery = nursery
        self._store = store
        self._desktops = desktops
        self._limits = limits
        self._settings = settings
        self._answers = answers
        self._runs: dict[UUID, _Run] = {}
        self._starting = 0
        self._watches: dict[UUID, list[Watch]] = {}
        self.conversations = Conversations(store)
        self.closing = False

    @property
    def available(self) -> bool:
        """Whether there is a model to talk to."""
        return self._answers is not None

    # For those who talk to a chat.

    async def say(self, chat_id: UUID, text: str) -> None:
        """Tells a chat something. What it is doing goes on, and then it listens.

        Raises Busy where too much waits or is at work, or the chat was archived; StoreError.
        """
        content = [{"type": "text", "text": text}]
        with nullcontext() if chat_id in self._runs else self._place():
            asked = await self.conversations.ask(chat_id, content, limit=WAITING_LIMIT)
        if not asked:
            raise Busy("Too many messages wait already, or the chat or its parent is archived.")
        self.start(chat_id)

    async def spawn(self, parent: Chat, title: str, prompt: list[dict[str, Any]]) -> Chat | None:
        """A new agent of a chat's, at work; None where the chat is archived.

        Raises Busy where too much is at work; StoreError.
        """
        with self._place():
            child = await self.conversations.create_child(parent, title, prompt)
        if child is not None:
            self.start(child.id)
        return child

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places of the chats at work, for one that starts right behind the block."""
        if len(self._runs) + self._starting >= RUNS_LIMIT:
            raise Busy("Too many chats are at work. Try again later.")
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def start(self, chat_id: UUID) -> None:
        """Has a chat run in which something is unanswered."""
        run = self._runs.get(chat_id)
        if run is None:
            self._runs[chat_id] = run = _Run()
            self._nursery.start_soon(self._run, chat_id, run)
        else:
            run.again = True

    async def interrupt(self, chat_id: UUID) -> bool:
        """Stops what a chat does, whichever process runs it, and returns when it has; whether it
        did anything. Raises StoreError."""
        run = self._runs.get(chat_id)
        working = run is not None and run.interrupt()
        if run is not None:
            await run.over.wait()
            if run.begun:
                return working
        if not await self.conversations.interrupt(chat_id):
            return working
        with trio.move_on_after(INTERRUPT_S):
            while True:
                await trio.sleep(OBEYED_CHECK_S)
                if not await self.conversations.interrupting(chat_id):
                    break
        return True

    async def archived(self, chat_ids: Sequence[UUID]) -> None:
        """Those chats were archived: they do nothing more, and nobody follows them. Other
        processes' runs look for it."""
        runs = [self._runs[chat_id] for chat_id in chat_ids if chat_id in self._runs]
        for run in runs:
            run.interrupt()
        for chat_id in chat_ids:
            self.tell(chat_id)
        for run in runs:
            await run.over.wait()

    @property
    def watchers(self) -> int:
        """How many watch a chat now."""
        return sum(map(len, self._watches.values()))

    @contextmanager
    def watch(self, chat_id: UUID) -> Iterator[Watch]:
        """Tells of changes of a chat's while the block runs."""
        watch = Watch()
        self._watches.setdefault(chat_id, []).append(watch)
        try:
            yield watch
        finally:
            self._watches[chat_id].remove(watch)
            if not self._watches[chat_id]:
                del self._watches[chat_id]

    def tell(self, chat_id: UUID, words: Words | None = None) -> None:
        """Tells those who watch a chat that it has changed, or what its model says."""
        for watch in self._watches.get(chat_id, ()):
            watch.tell(words)

    def close_watches(self) -> None:
        """The server ends: nobody follows any chat."""
        self.closing = True
        for chat_id in self._watches:
            self.tell(chat_id)

    async def wait_idle(self, chat_id: UUID, timeout_s: float = math.inf) -> Chat | None:
        """Waits until nobody is at work in a chat; the chat, or None where that took longer.

        Raises StoreError.
        """
        with trio.move_on_after(timeout_s), self.watch(chat_id) as watch:
            while True:
                chat = await self._store.chat(chat_id)
                # What was said just now has a run before that run has the lease.
                busy = chat_id in self._runs
                if chat is None or not (busy or chat.status in BUSY):
                    return chat
                changed = False
                while not changed:
                    changed, _ = await watch.wait()
        return None

    async def watch_abandoned(self) -> None:
        """Marks what others left running when they died, and goes on where somebody has said
        something since. Runs until cancelled."""
        while True:
            try:
                marked = await self.conversations.mark_abandoned()
                for chat_id in marked:
                    _log.warning("chat %s was left running", chat_id)
                    self.tell(chat_id)
                for chat_id in marked:
                    with self._place():
                        unheard = self.available and await self.conversations.unheard(chat_id)
                    if unheard:
                        self.start(chat_id)
            except (StoreError, Busy):
                # The store has logged it; the next look may find it back. Where there is no place,
                # the chats stay marked until the next message.
                pass
            await trio.sleep(ABANDONED_CHECK_S)

    # One run.

    async def _run(self, chat_id: UUID, run: _Run) -> None:
        ending: tuple[str, str | None] = ("error", STOPPED)
        again = False
        try:
            with run.scope:
                ending = await self._converse(chat_id, run)
            if run.scope.cancelled_caught:
                ending = ("waiting", None) if run.interrupted else ("error", LOST)
        except StoreError:
            ending = ("error", INTERNAL)
        except Exception:  # noqa: BLE001 - one chat is not worth the others
            _log.exception("the run of chat %s failed unexpectedly", chat_id)
            ending = ("error", INTERNAL)
        finally:
            run.finishing = True
            # Another process may have been told something that it could not start this chat for.
            go_on = run.begun and ending[0] == "waiting" and not run.interrupted
            try:
                # A write, which the store shields, with a deadline.
                again = await self.conversations.finish(
                    chat_id, run.id, *ending, begun=run.begun, go_on=go_on or run.again
                )
            except StoreError:
                # Its lease ends by itself.
                _log.warning("how chat %s ended could not be saved", chat_id)
            del self._runs[chat_id]
            run.over.set()
            self.tell(chat_id)
        if run.again or again:
            self.start(chat_id)

    async def _converse(self, chat_id: UUID, run: _Run) -> tuple[str, str | None]:
        """Answers until nothing is unanswered; the chat's status then, and what went wrong."""
        chat = await self._store.chat(chat_id)
        if self._answers is None:
            return "error", NO_MODEL
        asked_at = trio.current_time()
        run.begun = await self.conversations.begin(chat_id, run.id)
        if chat is None or not run.begun:
            return "waiting", None
        self.tell(chat_id)
        limit_s = self._settings.time_limit_s
        ending: tuple[str, str | None] = (
            "error",
            f"Stopped after {limit_s:g} s. Send a message to go on.",
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hold, chat_id, run, asked_at)
            with trio.move_on_after(limit_s):
                try:
                    async with AgentDesktop(
                        self._store, self._desktops, self._limits, chat, self._settings
                    ) as desktop:
                        ending = await self._turns(chat, run, self._answers, desktop)
                except ModelError as error:
                    _log.warning("chat %s has no answer of its model: %s", chat_id, error.brief)
                    ending = ("error", str(error))
                except DesktopError as error:
                    ending = ("error", f"The desktop could not be opened: {error}")
                except StoreError:
                    ending = ("error", INTERNAL)
            nursery.cancel_scope.cancel()
        return ending

    async def _hold(self, chat_id: UUID, run: _Run, renewed_at: float) -> None:
        """Keeps the lease; ends the run where it is to end, or the lease may be over."""
        while True:
            run.scope.deadline = renewed_at + FENCE_S
            await trio.sleep(LOOK_S)
            now = trio.current_time()
            due = now >= renewed_at + LEASE_S / 3
            look = self.conversations.renew if due else self.conversations.holds
            try:
                holds = await look(chat_id, run.id)
            except StoreError:
                # The store has logged it, and there are more tries.
                continue
            if not holds:
                run.interrupt()
                return
            if due:
                renewed_at = now

    async def _turns(
        self, chat: Chat, run: _Run, answers: Model, desktop: AgentDesktop
    ) -> tuple[str, str | None]:
        tools = AgentTools(self, self._store, chat)
        history: list[Message] = []
        turns = tokens = failures = 0
        paused = False
        while True:
            run.again = False
            if await self.conversations.listen(chat.id, run_id=run.id):
                self.tell(chat.id)
            history += await self.conversations.messages(
                chat.id, after=history[-1].id if history else 0
            )
            if not history or (history[-1].role == "assistant" and not paused):
                return "waiting", None
            if turns == self._settings.turns_limit:
                return "error", f"Stopped after {turns} turns. Send a message to go on."
            if tokens >= self._settings.tokens_limit:
                return "error", f"Stopped after {tokens} tokens. Send a message to go on."
            if failures == FAILURES_LIMIT:
                return "error", (
                    f"Stopped after {failures} turns in which every tool call failed. "
                    "Send a message to go on."
                )
            messages = await request_messages(
                [(message.role, message.content) for message in history], self._picture
            )
            say = partial(self._say, chat.id, history[-1].id)
            try:
                reply = await answers.reply(
                    system=_SYSTEM[chat.mode],
                    messages=messages,
                    tools=[*tools.definitions(), *await desktop.definitions()],
                    beta=desktop.beta_header,
                    on_text=say,
                    on_restart=partial(say, restarted=True),
                )
            except BaseException:
                say(restarted=True)
                raise
            turns += 1
            tokens += reply.input_tokens + reply.output_tokens
            if not reply.content:
                return "error", "The model's answer was empty. Send a message to go on."
            await self.conversations.add(chat.id, "assistant", reply.content, run_id=run.id)
            self.tell(chat.id)
            calls = [block for block in reply.content if block["type"] == "tool_use"]
            paused = reply.stop_reason == "pause_turn"
            if reply.stop_reason == "refusal":
                return "error", "The model refused to go on."
            if calls:
                results = await self._call(
                    calls, tools, desktop, cut=reply.stop_reason != "tool_use"
                )
                failed = all(result["is_error"] for result in results)
                failures = failures + 1 if failed else 0
                await self._save_results(chat.id, run.id, results)
            elif reply.stop_reason in _CUT_OFF:
                return "error", _CUT_OFF[reply.stop_reason]

    def _say(self, chat_id: UUID, behind: int, text: str = "", *, restarted: bool = False) -> None:
        self.tell(chat_id, Words(behind, restarted, text))

    async def _picture(self, file_id: UUID) -> tuple[str, bytes]:
        picture = await self.conversations.picture(file_id)
        assert picture is not None, "a picture of a message is kept as long as the message"
        return picture.media_type, picture.data

    async def _call(
        self,
        calls: Sequence[dict[str, Any]],
        tools: AgentTools,
        desktop: AgentDesktop,
        *,
        cut: bool,
    ) -> list[dict[str, Any]]:
        """One result for each call, in their order."""
        if cut:
            # The last call's input may be half of one.
            text = "Not executed: the answer was cut off. Make fewer or shorter calls."
            return [result_of(call, text, is_error=True) for call in calls]
        on_desktop = [call for call in calls if desktop.takes(call)]
        done = {result["tool_use_id"]: result for result in await desktop.run(on_desktop)}
        for call in calls:
            if call["id"] in done:
                continue
            try:
                done[call["id"]] = result_of(call, await tools.run(call["name"], call["input"]))
            except ToolError as error:
                done[call["id"]] = result_of(call, str(error), is_error=True)
        return [done[call["id"]] for call in calls]

    async def _save_results(
        self, chat_id: UUID, run_id: UUID, results: list[dict[str, Any]]
    ) -> None:
        pictures: list[File] = []
        for result in results:
            result["content"] = [stored(chat_id, block, pictures) for block in result["content"]]
        await self.conversations.add(chat_id, "user", results, pictures, run_id=run_id)
        self.tell(chat_id)
