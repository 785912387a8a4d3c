"""Which chats this process runs.

Each chat that has something to answer is run by one task in the nursery that `Runs` was given; that
nursery's owner ends them all by cancelling it. A run owns a nursery, in which its lease
(api/store/conversations.py) is renewed while it works in its chat. What that work is, whoever makes
`Runs` says (api/agents/turns.py). Everything is saved as it goes, so a run that was cut off can be
taken up by the next message. Nothing that is said is logged.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID, uuid4

import trio

from api.agents.watch import Followers
from api.budgets import EVERYBODY, Budgets, OverBudget, Place
from api.store import Chat, Conversations, Store, StoreError
from api.store.conversations import BUSY, LEASE_S

__all__ = ["NO_MODEL", "Busy", "Ending", "Run", "Runs", "Work"]

NO_MODEL: Final = "No language model is configured."

STOPPED: Final = "The server was stopped while it was at work. Send a message to go on."

LOST: Final = "The database did not answer while it was at work. Send a message to go on."

INTERNAL: Final = "Internal error. The server's log has the cause."

WAITING_LIMIT: Final = 100
"""Messages of the user's that wait while the model is at work."""

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

_EVERYBODYS: Final[Place] = (EVERYBODY, EVERYBODY)

_log = logging.getLogger(__name__)


class Busy(Exception):
    """The chat cannot take this now; the text says why."""


class Run:
    """One chat at work. `again`: something was said since it listened last, or was interrupted.
    `begun`: it has had the lease."""

    def __init__(self, owner_id: UUID) -> None:
        self.id = uuid4()
        self.owner_id = owner_id
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


Ending = tuple[str, str | None]
"""A chat's status once nobody works in it any more, and what went wrong."""

Work = Callable[["Runs", Chat, Run], Awaitable[Ending]]
"""Works in a chat, whose lease the run has, until nothing is unanswered. It sets `again` to False
before it listens. Raises StoreError."""


class Runs:
    """The chats that this process runs, and whom it tells of them. `work` is done in each; it is
    None where no model is configured."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: Store,
        conversations: Conversations,
        followers: Followers,
        work: Work | None,
        budgets: Budgets,
    ) -> None:
        self._nursery = nursery
        self._store = store
        self._work = work
        self._runs: dict[UUID, Run] = {}
        # How many hold a chat's place among those at work: its run, and who speaks to it.
        self._holders: Counter[UUID] = Counter()
        self.budgets = budgets
        self.conversations = conversations
        self.followers = followers

    @property
    def available(self) -> bool:
        """Whether there is a model to talk to."""
        return self._work is not None

    # For those who talk to a chat.

    async def say(self, chat_id: UUID, text: str) -> None:
        """Tells a chat something. What it is doing goes on, and then it listens.

        Raises Busy where too much waits, or the chat was archived; OverBudget; StoreError.
        """
        content = [{"type": "text", "text": text}]
        chat = await self._store.chat(chat_id)
        if chat is None:
            raise Busy("There is no such chat any more.")
        with self._place(chat_id, chat.owner_id):
            if not await self.conversations.ask(chat_id, content, limit=WAITING_LIMIT):
                raise Busy("Too many messages wait already, or the chat or its parent is archived.")
            self.start(chat_id, chat.owner_id)

    async def spawn(self, parent: Chat, title: str, prompt: list[dict[str, Any]]) -> Chat | None:
        """A new agent of a chat's, at work; None where the chat is archived.

        Raises OverBudget; StoreError.
        """
        child_id = uuid4()
        with self._place(child_id, parent.owner_id):
            child = await self.conversations.create_child(parent, title, prompt, child_id)
            if child is not None:
                self.start(child_id, parent.owner_id)
        return child

    @contextmanager
    def _place(self, chat_id: UUID, owner_id: UUID) -> Iterator[None]:
        """Holds a chat's place among those at work while the block runs. Raises OverBudget."""
        self._hold_place(chat_id, owner_id)
        try:
            yield
        finally:
            self._let_place_go(chat_id, owner_id)

    def _hold_place(self, chat_id: UUID, owner_id: UUID) -> None:
        # Several may hold it together: a chat that stops while it is spoken to has it still.
        if not self._holders[chat_id]:
            self.budgets.chats_at_work.take(("user", owner_id), _EVERYBODYS)
        self._holders[chat_id] += 1

    def _let_place_go(self, chat_id: UUID, owner_id: UUID) -> None:
        self._holders[chat_id] -= 1
        if not self._holders[chat_id]:
            del self._holders[chat_id]
            self.budgets.chats_at_work.release(("user", owner_id), _EVERYBODYS)

    def start(self, chat_id: UUID, owner_id: UUID) -> None:
        """Has a chat run in which something is unanswered. Raises OverBudget."""
        run = self._runs.get(chat_id)
        if run is None:
            self._hold_place(chat_id, owner_id)
            self._runs[chat_id] = run = Run(owner_id)
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
            self.followers.tell(chat_id)
        for run in runs:
            await run.over.wait()

    async def wait_idle(self, chat_id: UUID, timeout_s: float = math.inf) -> Chat | None:
        """Waits until nobody is at work in a chat; the chat, or None where that took longer.

        Raises StoreError.
        """
        with trio.move_on_after(timeout_s), self.followers.watch(chat_id) as watch:
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
                    self.followers.tell(chat_id)
                for chat_id in marked:
                    await self._go_on(chat_id)
            except StoreError:
                pass  # The store has logged it; the next look may find it back.
            await trio.sleep(ABANDONED_CHECK_S)

    async def _go_on(self, chat_id: UUID) -> None:
        """Where something waits that was not heard. Raises StoreError."""
        chat = await self._store.chat(chat_id)
        if chat is None or not self.available:
            return
        try:
            with self._place(chat_id, chat.owner_id):
                if await self.conversations.unheard(chat_id):
                    self.start(chat_id, chat.owner_id)
        except OverBudget as over:
            self.budgets.refused(over)  # It stays marked until the next message.

    # One run.

    async def _run(self, chat_id: UUID, run: Run) -> None:
        ending: Ending = ("error", STOPPED)
        again = False
        try:
            with run.scope:
                ending = await self._under_lease(chat_id, run)
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
            self.followers.tell(chat_id)
        if run.again or again:
            self.start(chat_id, run.owner_id)
        # Behind the start, so that nobody else has the place in between.
        self._let_place_go(chat_id, run.owner_id)

    async def _under_lease(self, chat_id: UUID, run: Run) -> Ending:
        """Works in the chat, if the run gets it."""
        chat = await self._store.chat(chat_id)
        if self._work is None:
            return "error", NO_MODEL
        asked_at = trio.current_time()
        run.begun = await self.conversations.begin(chat_id, run.id)
        if chat is None or not run.begun:
            return "waiting", None
        self.followers.tell(chat_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hold, chat_id, run, asked_at)
            try:
                ending = await self._work(self, chat, run)
            except StoreError:
                ending = ("error", INTERNAL)
            nursery.cancel_scope.cancel()
        return ending

    async def _hold(self, chat_id: UUID, run: Run, renewed_at: float) -> None:
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
