"""The switchboard relays in Trio's place while Trio waits, and as a task where it cannot."""

from __future__ import annotations

import itertools
import queue
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import outcome
import pytest
import trio
from trio.testing import MockClock

from relay.pumps import raw, switchboard
from relay.pumps.switchboard import READABLE, Switchboard
from tests.labs.peers import KEY, client_frame, raw_pumps


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        yield near, far


async def told(near: socket.socket, far: socket.socket) -> bytes:
    """What a handler reads of `near` once `far` has sent something."""
    board = switchboard.current()
    came = trio.Event()
    data = bytearray()

    def handler(mask: int) -> None:
        if mask & READABLE:
            try:
                data.extend(near.recv(100))
            except BlockingIOError:
                return
            board.tell_trio(came.set)

    board.register(near.fileno(), handler)
    far.send(b"hello")
    await came.wait()
    board.unregister(near.fileno())
    return bytes(data)


async def test_it_waits_in_the_place_of_this_trio(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A Trio that keeps its epoll elsewhere would still work, at three times the cost a wake-up.
    async def never(self: Switchboard) -> None:
        raise AssertionError("the switchboard runs as a task")

    monkeypatch.setattr(Switchboard, "_run_as_task", never)
    assert await told(*pair) == b"hello"


async def test_it_runs_as_a_task_where_it_must(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard, "_trio_epoll_fd", lambda: None)
    assert await told(*pair) == b"hello"


def test_guest_mode(pair: tuple[socket.socket, socket.socket]) -> None:
    calls: queue.Queue[Callable[[], object]] = queue.Queue()
    results: list[outcome.Outcome[bytes]] = []
    trio.lowlevel.start_guest_run(
        told,
        *pair,
        run_sync_soon_threadsafe=calls.put,
        done_callback=results.append,
        host_uses_signal_set_wakeup_fd=True,
    )
    while not results:
        calls.get(timeout=10)()
    assert results[0].unwrap() == b"hello"


async def test_a_deadline_of_trios_is_kept() -> None:
    board = switchboard.current()
    told_trio: list[Callable[[], object]] = []
    board._tell = told_trio.append  # type: ignore[assignment]
    await trio.testing.wait_all_tasks_blocked()
    with trio.CancelScope(deadline=trio.current_time() + 0.001):  # noqa: ASYNC100
        # Trio would wait for as long again, so it is told that there is something.
        board.before_io_wait(0.002)
        assert told_trio


async def test_trio_hears_of_its_own_events_at_once() -> None:
    board = switchboard.current()
    await trio.testing.wait_all_tasks_blocked()
    trio.lowlevel.current_trio_token().run_sync_soon(lambda: None)
    board.before_io_wait(3600)  # comes back


async def test_virtual_time(
    pair: tuple[socket.socket, socket.socket], autojump_clock: MockClock
) -> None:
    assert await told(*pair) == b"hello"
    with trio.move_on_after(1000) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.parametrize("task", [False, True])
async def test_who_asks_for_another_turn_has_it(
    monkeypatch: pytest.MonkeyPatch, task: bool
) -> None:
    if task:
        monkeypatch.setattr(switchboard, "_trio_epoll_fd", lambda: None)
    board = switchboard.current()
    turns: list[int] = []
    done = trio.Event()

    def again() -> None:
        turns.append(len(turns))
        if len(turns) < 5:
            board.again(again)
        else:
            board.tell_trio(done.set)

    # A task would sleep until the next event.
    await trio.testing.wait_all_tasks_blocked()
    board.again(again)
    with trio.fail_after(5):
        await done.wait()
    assert turns == [0, 1, 2, 3, 4]


async def test_those_who_always_have_more_take_one_slice_a_turn_together() -> None:
    board = switchboard.current()
    calls: list[str] = []
    for name in "abc":
        board.again(lambda name=name: calls.append(name))  # type: ignore[misc]
    board.before_io_wait(0)
    assert calls == ["a"]
    board.before_io_wait(0)
    assert calls == ["a", "b"]


async def test_a_flood_queues_its_session_once(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each look at the clock finds the slice used up.
    monkeypatch.setattr(raw, "monotonic", itertools.count().__next__)
    viewer, there = pair
    desktop, elsewhere = socket.socketpair()
    desktop.setblocking(False)
    queued: list[Callable[[], None]] = []
    board = SimpleNamespace(again=queued.append)
    pumps = raw_pumps(viewer, desktop, cast(Switchboard, board))
    with desktop, elsewhere:
        there.sendall(client_frame(KEY) * 1_000)
        for _ in range(5):
            pumps._viewer_event(READABLE)
        assert len(queued) == 1
        queued.pop()()
        assert len(queued) == 1
