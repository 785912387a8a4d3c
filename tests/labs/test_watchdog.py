"""What the watchdog finds, and what it does not hold against the code."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from tests.labs.watchdog import LIMIT_MS, Block, Watchdog, available

pytestmark = pytest.mark.skipif(
    not available(), reason="this system does not tell a wait for a CPU from other waits"
)

LONG_S = 3 * LIMIT_MS / 1000


def found_in(work: Callable[..., Awaitable[None]], *arguments: object) -> list[Block]:
    found: list[Block] = []
    trio.run(work, *arguments, instruments=[Watchdog(found.append)])
    return found


def burn(cpu_s: float) -> None:
    began_s = time.thread_time()
    while time.thread_time() - began_s < cpu_s:
        pass


async def one_step(hold_up: Callable[[float], None], amount: float) -> None:
    await trio.lowlevel.checkpoint()
    hold_up(amount)
    await trio.lowlevel.checkpoint()


def test_a_call_that_sleeps() -> None:
    (block,) = found_in(one_step, time.sleep, LONG_S)
    assert block.task.endswith("one_step")
    assert block.stacks[0][1][-1].partition(":")[2].startswith("one_step:")
    assert block.asleep_ms > LIMIT_MS
    assert block.cpu_ms < LIMIT_MS
    assert block.held_outside_ms({"test_watchdog.py:one_step:"}) < LIMIT_MS
    assert block.held_outside_ms({"test_watchdog.py:another:"}) > LIMIT_MS


def test_work_on_a_cpu() -> None:
    # On a machine that is slower than the one of the limit, it is that much more.
    (block,) = found_in(one_step, burn, 1.0)
    assert block.cpu_ms > LIMIT_MS
    assert block.stacks[0][1][-1].partition(":")[2].startswith("burn:")


def test_a_thread_that_keeps_the_interpreters_lock() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            # One operation of the interpreter's, of some seconds.
            nursery.start_soon(trio.to_thread.run_sync, partial(pow, 3, 5_000_000))
            for _ in range(100):
                await trio.sleep(0.01)

    assert any(block.threads_ms > LIMIT_MS for block in found_in(main))


async def in_small_steps() -> None:
    for _ in range(20):
        await one_step(burn, LIMIT_MS / 10_000)
        await trio.sleep(0.02)
    await trio.sleep(LONG_S)


def test_waiting_is_no_block() -> None:
    assert found_in(in_small_steps) == []


def burn_for_ever() -> None:
    while True:
        pass


def test_a_busy_machine_is_no_block() -> None:
    """Twenty others on one CPU: a step of 30 ms takes half a second."""
    cpus = os.sched_getaffinity(0)
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=burn_for_ever, daemon=True) for _ in range(20)]
    os.sched_setaffinity(0, {min(cpus)})
    try:
        for other in others:
            other.start()
        began_s = time.monotonic()
        assert found_in(one_step, burn, 0.03) == []
        assert time.monotonic() - began_s > LIMIT_MS / 1000
    finally:
        for other in others:
            other.kill()
            other.join()
        os.sched_setaffinity(0, cpus)
