"""One edge-triggered epoll for the sockets of all sessions, polled where Trio would wait.

A task per direction costs an `epoll_ctl` and two task switches for every wake-up; here a
wake-up is a plain call. Trio tells an instrument when it is about to wait for I/O: the
switchboard waits in its place, with Trio's own epoll among what it waits for, relays, and lets
Trio go on when it has something to do. Where that cannot be (guest mode, a Trio whose epoll is not
where this one's is), a system task of the Trio run waits for the switchboard's epoll instead. It
owns no nursery. A session stays a Trio task that owns lifetime and deadlines.
docs/decisions/0001-switchboard.md has the figures.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import trio
from trio._core._run import GLOBAL_RUN_CONTEXT

# Events fetched at once.
_EVENTS = 128

# Turns of the system task before other Trio tasks get theirs: a way through Trio costs about 12 us;
# with 32 turns instead of 8 an update of 32 KiB costs 2 us less. With many sessions that move all
# they can, a turn is long: so there is a limit of time too.
_TURNS = 32
_TURNS_S = 0.01

Handler = Callable[[int], None]

READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
HUNG_UP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

_WATCHED = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Switchboard(trio.abc.Instrument):
    """Calls a handler with the event mask whenever its descriptor's state changes.

    Handlers must not raise, must not block, and must read or write until they would block, or
    ask for another turn with `again`: an edge is told once. They run outside of all tasks: what
    concerns Trio they hand to it with `tell_trio`.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._handlers: dict[int, Handler] = {}
        self._waiting: deque[Callable[[], None]] = deque()
        self._tell = trio.lowlevel.current_trio_token().run_sync_soon
        self._trio_fd = _trio_epoll_fd()
        self._trio_ready = False
        # In which the system task waits; None for the instrument, which looks before it waits.
        self._nap: trio.CancelScope | None = None

    def register(self, fd: int, handler: Handler) -> None:
        """Watches `fd`, which must be open until `unregister`; the first call comes with its
        present state. Raises OSError where the system has no room for one more."""
        self._epoll.register(fd, _WATCHED)
        self._handlers[fd] = handler

    def unregister(self, fd: int) -> None:
        """Does nothing if `fd` is not watched."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def again(self, call: Callable[[], None]) -> None:
        """Has `call` called in a later turn: for who has more to do than is fair at once. A turn
        has one such call, so that those who always have more cost the others one slice of time,
        however many they are."""
        self._waiting.append(call)
        if self._nap is not None:
            self._nap.cancel()

    def tell_trio(self, call: Callable[[], None]) -> None:
        """Has Trio call `call` soon, as what ends a session or wakes a task must be."""
        self._tell(call)

    def _turn(self, wait_s: float) -> bool:
        """Hands out what has come, waiting for it at most so long; whether there was anything."""
        waiting = len(self._waiting)
        events = self._poll(0 if waiting else wait_s, _EVENTS)
        handlers = self._handlers
        for fd, mask in events:
            # A handler called before may have ended the session of this one.
            handler = handlers.get(fd)
            if handler is not None:
                handler(mask)
        if waiting:
            self._waiting.popleft()()
        return bool(events or waiting)

    @trio.lowlevel.enable_ki_protection
    def before_io_wait(self, timeout: float) -> None:
        """Relays until Trio has something to do, or for `timeout` seconds."""
        if timeout <= 0:
            self._turn(0)
            return
        until = time.monotonic() + timeout
        self._trio_ready = False
        while timeout > 0 and not self._trio_ready:
            self._turn(timeout)
            timeout = until - time.monotonic()
        if not self._trio_ready and _deadline_passed():
            # Trio would wait for its timeout once more.
            self._tell(_nothing)

    def _trio_event(self, _mask: int) -> None:
        self._trio_ready = True

    async def run(self) -> None:
        try:
            if self._trio_fd is None:
                await self._run_as_task()
            else:
                await self._run_as_instrument(self._trio_fd)
        finally:
            self._epoll.close()

    async def _run_as_instrument(self, trio_fd: int) -> None:
        self._epoll.register(trio_fd, select.EPOLLIN)
        self._handlers[trio_fd] = self._trio_event
        trio.lowlevel.add_instrument(self)
        try:
            await trio.sleep_forever()
        finally:
            trio.lowlevel.remove_instrument(self)

    async def _run_as_task(self) -> None:
        while True:
            if self._waiting:
                await trio.lowlevel.checkpoint()
            else:
                with trio.CancelScope() as self._nap:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
            until = time.monotonic() + _TURNS_S
            for _ in range(_TURNS):
                if not self._turn(0) or time.monotonic() > until:
                    break


def _nothing() -> None:
    pass


def _deadline_passed() -> bool:
    """Not so where Trio waits a moment to see whether all tasks are blocked."""
    return trio.lowlevel.current_statistics().seconds_to_next_deadline <= 0


def _trio_epoll_fd() -> int | None:
    """The descriptor of the epoll that this Trio run waits for; None where another thread waits for
    it, or it is not where it was when this was written."""
    try:
        runner = GLOBAL_RUN_CONTEXT.runner
        return None if runner.is_guest else cast(Any, runner.io_manager)._epoll.fileno()
    except AttributeError:
        return None


_current: trio.lowlevel.RunVar[Switchboard] = trio.lowlevel.RunVar("switchboard")


def current() -> Switchboard:
    """The switchboard of this Trio run."""
    try:
        return _current.get()
    except LookupError:
        board = Switchboard()
        _current.set(board)
        trio.lowlevel.spawn_system_task(board.run, name="relay switchboard")
        return board
