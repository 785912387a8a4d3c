"""Finds what holds Trio's thread up. A command too: `python -m tests.labs.watchdog FILE ARGUMENTS`
is `deskrelay ARGUMENTS` with a watchdog, which writes what it finds to FILE, a line of JSON each.

What counts is what the code is to blame for, on a machine that has other work as well: the thread's
own time on a CPU, what it sleeps in a system call, and what other threads of the process do with
the interpreter's lock in their hands. The time in which it, or whoever has that lock, waits for a
CPU does not count. Linux tells that apart (/proc/thread-self/schedstat); `available` says whether
it does here.

The switchboard's handlers run where Trio waits, so that only their time on a CPU is known, not what
they would sleep; and a thread that has the lock when Trio has waited enough counts from the moment
that Trio was to go on for the time alone, not for what had come.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Final

import trio

__all__ = ["LIMIT_MS", "Block", "Watchdog", "available", "read_blocks"]

LIMIT_MS: Final = 100.0

SAMPLE_S: Final = 0.01

LATE_MS: Final = 30.0
"""Of a step, until it is looked at from outside."""

QUICK_MS: Final = 10.0
"""`_work` takes so long on the machine that `LIMIT_MS` was set for; on a slower one, time on a CPU
counts for as much less."""


@dataclass(frozen=True)
class Block:
    """One step of a task, or what Trio or the switchboard does between two, that was too long."""

    task: str
    cpu_ms: float
    asleep_ms: float
    threads_ms: float
    """That other threads had the interpreter's lock, and a CPU."""

    collecting_ms: float
    """Of it, the garbage collector's."""

    stacks: list[tuple[float, list[str]]]
    """Those that were seen, the most frequent first: a share of the step, and the calls, the
    innermost last, as `file:function:line`."""

    @property
    def held_ms(self) -> float:
        """What is held against it: on a CPU like that of `QUICK_MS`."""
        return self.cpu_ms + self.asleep_ms + self.threads_ms

    def held_outside_ms(self, allowed: Collection[str]) -> float:
        """Without what was seen in calls that have one of `allowed` in them."""
        spared = sum(
            share
            for share, calls in self.stacks
            if any(name in call for name in allowed for call in calls)
        )
        return self.held_ms * (1 - spared)


@dataclass(frozen=True, slots=True)
class _Clock:
    """How much of what a thread has had, in nanoseconds."""

    wall: int
    cpu: int
    queued: int
    process: int


@dataclass(frozen=True, slots=True)
class _Sample:
    """What another thread saw of a step."""

    step: int
    wall: int
    turns: int
    """That the thread has had on a CPU so far."""

    weight: float
    """How many of them it stands for."""

    stack: tuple[str, ...]


class Watchdog(trio.abc.Instrument):
    """Calls `found` in Trio's thread. Give it to one `trio.run` as an instrument."""

    def __init__(self, found: Callable[[Block], None], limit_ms: float = LIMIT_MS) -> None:
        self._found = found
        self._limit_ms = limit_ms
        self._slowness = max(1.0, _work() / QUICK_MS)
        self._ended = threading.Event()
        self._samples: list[_Sample] = []
        self._collected_ns = self._collecting_since = 0

    def before_run(self) -> None:
        thread = threading.get_ident()
        self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self._step = 0
        self._began = self._now()
        self._sampler = threading.Thread(target=partial(self._sample, thread), daemon=True)
        self._sampler.start()
        gc.callbacks.append(self._collect)

    def after_run(self) -> None:
        gc.callbacks.remove(self._collect)
        self._ended.set()
        self._sampler.join()
        os.close(self._schedstat)

    # Every moment of a run is in a step of a task, between two, or in waiting.

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self._next("Trio")

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._next(task.name)

    def before_io_wait(self, _timeout: float) -> None:
        self._next("Trio")

    def after_io_wait(self, timeout: float) -> None:
        self._next("the switchboard", wanted_ms=timeout * 1000)

    def _now(self) -> _Clock:
        queued = int(os.pread(self._schedstat, 128, 0).split()[1])
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        return _Clock(wall, cpu, queued, time.process_time_ns())

    def _next(self, task: str, *, wanted_ms: float | None = None) -> None:
        """`wanted_ms` is how long it may have waited for I/O."""
        began, collected_ns = self._began, self._collected_ns
        self._began = self._now()
        samples = [sample for sample in self._samples if sample.step == self._step]
        self._samples = []
        self._step += 1
        self._collected_ns = 0
        wall_ms = (self._began.wall - began.wall) / 1e6
        if wall_ms < self._limit_ms:
            return
        cpu_ms = (self._began.cpu - began.cpu) / 1e6
        idle_ms = wall_ms - cpu_ms - (self._began.queued - began.queued) / 1e6 - (wanted_ms or 0)
        asleep_ms = min(max(0.0, idle_ms), _asleep_ms(samples)) if wanted_ms is None else 0.0
        others_ms = (self._began.process - began.process) / 1e6 - cpu_ms
        threads_ms = max(0.0, min(idle_ms - asleep_ms, others_ms))
        block = Block(
            task,
            cpu_ms / self._slowness,
            asleep_ms,
            threads_ms / self._slowness,
            collected_ns / 1e6 / self._slowness,
            _shares(samples),
        )
        if block.held_ms > self._limit_ms:
            self._found(block)
            # What that took is not the next one's.
            self._began = self._now()

    def _collect(self, phase: str, _info: dict[str, int]) -> None:
        now = time.perf_counter_ns()
        if phase == "start":
            self._collecting_since = now
            return
        taken_ns = now - self._collecting_since
        self._collected_ns += taken_ns
        if taken_ns > SAMPLE_S * 1e9:
            # Nobody else could look meanwhile.
            self._look(self._step, sys._getframe(1), taken_ns / 1e9 / SAMPLE_S)

    # In a thread of its own.

    def _sample(self, thread: int) -> None:
        while not self._ended.wait(SAMPLE_S):
            step, began_ns = self._step, self._began.wall
            if time.perf_counter_ns() - began_ns < LATE_MS * 1e6:
                continue
            self._look(step, sys._current_frames().get(thread))

    def _look(self, step: int, frame: FrameType | None, weight: float = 1) -> None:
        turns = int(os.pread(self._schedstat, 128, 0).split()[2])
        sample = _Sample(step, time.perf_counter_ns(), turns, weight, _stack(frame))
        if not (sample.stack and sample.stack[-1].startswith(__file__)):
            self._samples.append(sample)


def _asleep_ms(samples: list[_Sample]) -> float:
    """For how long the thread has had no turn on a CPU. Waiting for the interpreter's lock, it has
    one every 5 ms; in a system call that blocks, none."""
    spans = [
        after.wall - before.wall
        for before, after in pairwise(samples)
        if before.turns == after.turns
    ]
    # It may have slept since the step's beginning, when nobody looked yet.
    early_ms = LATE_MS if spans and samples[0].turns == samples[1].turns else 0.0
    return sum(spans) / 1e6 + early_ms


def _shares(samples: list[_Sample]) -> list[tuple[float, list[str]]]:
    weights: dict[tuple[str, ...], float] = {}
    for sample in samples:
        weights[sample.stack] = weights.get(sample.stack, 0) + sample.weight
    whole = sum(weights.values())
    return sorted(
        ((weight / whole, list(stack)) for stack, weight in weights.items()), reverse=True
    )


def _stack(frame: FrameType | None) -> tuple[str, ...]:
    """Without those of Trio."""
    summary = traceback.extract_stack(frame) if frame is not None else []
    return tuple(
        f"{call.filename.rpartition('site-packages/')[2]}:{call.name}:{call.lineno}"
        for call in summary
        if not call.filename.startswith("<") and "/trio/_core/" not in call.filename
    )


def _work() -> float:
    """How many milliseconds on a CPU a fixed piece of work takes here; the best of some."""
    times = []
    for _ in range(5):
        began_ns = time.thread_time_ns()
        table: dict[int, str] = {}
        for number in range(100_000):
            table[number % 1000] = str(number)
        times.append(time.thread_time_ns() - began_ns)
    return min(times) / 1e6


def available() -> bool:
    """Whether this system tells a wait for a CPU from other waits."""
    try:
        path = Path("/proc/thread-self/schedstat")
        before = int(path.read_text().split()[0])
        _work()
        return int(path.read_text().split()[0]) > before
    except (OSError, ValueError, IndexError):
        return False


def read_blocks(file: Path) -> list[Block]:
    """What a command's watchdog has found so far."""
    return [Block(**json.loads(line)) for line in file.read_text().splitlines()]


@contextmanager
def _watched_runs(file: Path) -> Iterator[None]:
    """Every `trio.run` has a watchdog meanwhile."""
    run = trio.run

    def note(block: Block) -> None:
        with file.open("a") as lines:
            lines.write(json.dumps(asdict(block)) + "\n")

    def watched(*arguments: Any, **options: Any) -> Any:
        return run(*arguments, **options, instruments=[Watchdog(note)])

    module: Any = trio
    module.run = watched
    try:
        yield
    finally:
        module.run = run


def main() -> int:
    from api.cli.commands import run

    file = Path(sys.argv[1])
    file.touch()
    with _watched_runs(file):
        return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
