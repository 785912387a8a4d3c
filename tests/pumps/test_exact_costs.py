"""What a round trip costs, where that can be counted: it is the same on every machine.

One viewer, one update under way, and the relay at rest before each message. One system call, task
switch or copy more than the tables have fails a test; with one fewer, lower the table.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import pytest
import trio
import trio.testing

from relay.pumps.raw import RawPumps
from tests.labs.peers import Lab, client_frame, close_far_ends, socket_lab
from tests.labs.server_process import PATIENCE_S, REQUEST, SET_ENCODINGS, exactly, serving, stall
from tests.labs.waiting import until

__all__ = ["close_far_ends"]  # the fixture


def raw_update(width_px: int, height_px: int) -> bytes:
    head = struct.pack(">BxHHHHHi", 0, 1, 0, 0, width_px, height_px, 0)
    return head + bytes(width_px * height_px * 4)


def tight_update(rectangles: int, jpeg_bytes: int) -> bytes:
    """Rectangles of 64x64 in Tight with a JPEG of at least 128 bytes."""
    size = bytes([jpeg_bytes & 127 | 128, jpeg_bytes >> 7])
    jpeg = b"\x90" + size + b"\xff\xd8" + bytes(jpeg_bytes - 2)
    head = struct.pack(">HHHHi", 0, 0, 64, 64, 7)
    return struct.pack(">BxH", 0, rectangles) + (head + jpeg) * rectangles


UPDATES = {
    "tiny": raw_update(4, 4),
    "32 KiB": raw_update(128, 64),
    "16 rectangles": tight_update(16, 2_000),
}

# All of the server's process, for an update down and a request up.
SYSTEM_CALLS = {"epoll_wait": 2, "readv": 2, "writev": 2}

# Steps of Trio tasks, for the same.
TASK_STEPS = 0

# Calls of functions, Python's and built-in ones, for an update down and for a request up.
CALLS = {"tiny": (26, 29), "32 KiB": (28, 29), "16 rectangles": (72, 29)}

# Allocated at the same time while an update goes down. A copy of the payload would be 32 KiB.
PEAK_BYTES = 500

BLOCKS = 20
"""Of memory that all trips together may leave behind: caches of the interpreter's."""

TRIPS = 200

WARM_UP_TRIPS = 20

STRAY_CALLS = 5
"""Of all trips together: what begins or ends at the edges of the count."""

ASK = client_frame(REQUEST)


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
async def test_system_calls(update: bytes, tmp_path: Path) -> None:
    trace = tmp_path / "strace.out"
    _try_strace(trace)
    with serving(tmp_path, "strace", "-f", "-o", str(trace)) as server:
        viewer, desktop = server.view()
        framed_bytes = len(update) + (2 if len(update) < 126 else 4)

        def trips(count: int) -> None:
            for _ in range(count):
                # A message that comes while the one before is handled needs fewer calls.
                server.sleeps()
                desktop.sendall(update)
                exactly(viewer, framed_bytes)
                server.sleeps()
                viewer.sendall(ASK)
                exactly(desktop, len(REQUEST))
            server.sleeps()

        trips(WARM_UP_TRIPS)
        before = len(trace.read_text().splitlines())
        trips(TRIPS)
        lines = trace.read_text().splitlines()[before:]
        viewer.close()
        desktop.close()
    names = (re.match(r"\d+ +(?:<\.\.\. )?(\w+)", line) for line in lines)
    counted = Counter(name[1] for name in names if name)
    print({name: count / TRIPS for name, count in counted.items()})
    for name, count in counted.items():
        assert count <= SYSTEM_CALLS.get(name, 0) * TRIPS + STRAY_CALLS, name


async def test_sessions_that_stall_cost_nothing(tmp_path: Path) -> None:
    """So others beside them notice nothing: in the end, not one system call in a second."""
    trace = tmp_path / "strace.out"
    _try_strace(trace)
    with serving(tmp_path, "strace", "-f", "-o", str(trace)) as server:
        pairs = [server.view() for _ in range(10)]
        for peer in (peer for pair in pairs for peer in pair):
            peer.setblocking(False)
        stall(server, pairs)

        def a_quiet_second() -> bool:
            size = trace.stat().st_size
            time.sleep(1)
            return trace.stat().st_size == size

        # Those that rest for having said much are read on, until the desktop's socket is full.
        until(
            a_quiet_second,
            "there are system calls for sessions that stall",
            within_s=PATIENCE_S,
        )
        for peer in (peer for pair in pairs for peer in pair):
            peer.close()


def _try_strace(trace: Path) -> None:
    """Skips where there is no strace, or it may not trace."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    done = subprocess.run(["strace", "-o", trace, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks but the one that makes it."""

    def __init__(self) -> None:
        self._own = trio.lowlevel.current_task()
        self.counted: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is not self._own:
            self.counted[task.name] += 1


class Trips:
    """Round trips through a session whose far ends are plain descriptors, which never wait."""

    def __init__(self, lab: Lab, update: bytes) -> None:
        assert isinstance(lab.viewer, trio.SocketStream)
        assert isinstance(lab.desktop, trio.SocketStream)
        self._viewer, self._desktop = lab.viewer.socket.fileno(), lab.desktop.socket.fileno()
        self._update = update
        self._heard = (memoryview(bytearray(1 << 20)),)
        pumps = lab.session._pumps
        assert isinstance(pumps, RawPumps)
        self.pumps = pumps

    def update(self) -> None:
        """The desktop says it."""
        assert os.write(self._desktop, self._update) == len(self._update)

    def updated(self) -> int:
        """What the viewer has heard."""
        return os.readv(self._viewer, self._heard)

    def ask(self) -> None:
        os.write(self._viewer, ASK)

    def asked(self) -> None:
        assert os.readv(self._desktop, self._heard) == len(REQUEST)

    def by_hand(self) -> None:
        """One, without Trio: nothing runs but what relays."""
        self.update()
        self.pumps._desktop_event(select.EPOLLIN)
        assert self.updated() > len(self._update)
        self.ask()
        self.pumps._viewer_event(select.EPOLLIN)
        self.asked()


@asynccontextmanager
async def _waiting(lab: Lab, update: bytes, warm_up_trips: int = 0) -> AsyncIterator[Trips]:
    """A session that waits for its next update."""
    async with lab.running() as nursery:
        await lab.viewer.send_all(client_frame(SET_ENCODINGS + REQUEST))
        heard = b""
        while not heard.endswith(REQUEST):
            heard += await lab.hear(1)
        await trio.testing.wait_all_tasks_blocked()
        trips = Trips(lab, update)
        for _ in range(warm_up_trips):
            trips.by_hand()
        yield trips
        nursery.cancel_scope.cancel()


async def test_task_steps(autojump_clock: trio.testing.MockClock) -> None:
    async with _waiting(socket_lab(), UPDATES["tiny"]) as trips:
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for _ in range(TRIPS):
            trips.update()
            await trio.testing.wait_all_tasks_blocked()
            assert trips.updated() > len(UPDATES["tiny"])
            trips.ask()
            await trio.testing.wait_all_tasks_blocked()
            trips.asked()
        trio.lowlevel.remove_instrument(steps)
        print(steps.counted)
        assert steps.counted.total() <= TASK_STEPS * TRIPS


def _calls(handler: Callable[[int], None]) -> int:
    """How many functions are called when a descriptor has become readable, `handler` included."""
    count = 0

    def called(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        handler(select.EPOLLIN)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("name", UPDATES)
async def test_calls(name: str, autojump_clock: trio.testing.MockClock) -> None:
    async with _waiting(socket_lab(), UPDATES[name], WARM_UP_TRIPS) as trips:
        trips.update()
        down = _calls(trips.pumps._desktop_event)
        trips.updated()
        trips.ask()
        up = _calls(trips.pumps._viewer_event)
        trips.asked()
        print(down, up)
        assert down <= CALLS[name][0]
        assert up <= CALLS[name][1]


@pytest.mark.parametrize("name", UPDATES)
async def test_memory_of_an_update(name: str, autojump_clock: trio.testing.MockClock) -> None:
    async with _waiting(socket_lab(), UPDATES[name], WARM_UP_TRIPS) as trips:
        blocks = sys.getallocatedblocks()
        for _ in range(TRIPS):
            trips.by_hand()
        more = sys.getallocatedblocks() - blocks
        tracemalloc.start()
        try:
            trips.by_hand()
            trips.update()
            now, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            trips.pumps._desktop_event(select.EPOLLIN)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        print(f"{more} blocks more after {TRIPS} trips, {peak - now} bytes at the most")
        assert more <= BLOCKS
        assert peak - now <= PEAK_BYTES


async def test_large_payload_stays_in_the_kernel(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = socket_lab()
    update = raw_update(200, 200)
    head_bytes = len(raw_update(0, 0))
    read: list[int] = []
    readv = os.readv

    def counting(fd: int, buffers: tuple[memoryview, ...]) -> int:
        read.append(readv(fd, buffers))
        return read[-1]

    async with _waiting(lab, update[:head_bytes]) as trips:
        # The head by itself, so that all the payload is readable when it is looked for.
        trips.update()
        trips.pumps._desktop_event(select.EPOLLIN)
        trips.updated()
        trips = Trips(lab, update[head_bytes:])
        trips.update()
        with monkeypatch.context() as patch:
            patch.setattr(os, "readv", counting)
            trips.pumps._desktop_event(select.EPOLLIN)
        assert trips.updated() > len(update) - head_bytes
        assert read == []
