"""`python -m bench.load JOB`: drives one workload through one relay and prints what was measured.

A process of its own, so that it has a CPU of its own and nothing of the report's in its way. JOB
is JSON, as `Job`; the answer is a JSON list of records, one for each number of sessions. A run in
which anything is lost, repeated, moved or changed ends with an error instead.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import trio

from bench import recorded, replay, usage, xvnc
from bench.viewer import PATIENCE_S, Buffer, Viewer
from bench.workloads import WORKLOADS, Workload

WARM_UP_S = 0.3
LATE_S = 0.005
"""A request sent so long after it was due counts as late: the load was short of CPU."""

Record = dict[str, float]


@dataclass(frozen=True)
class Job:
    """`relay` and `desktop` are the roots of their process trees; `sessions` is each number of
    sessions to measure with."""

    workload: str
    address: str
    token: str
    relay: list[int]
    desktop: list[int]
    seconds: float
    sessions: list[int]

    @property
    def what(self) -> Workload:
        return WORKLOADS[self.workload]

    def viewer(self) -> Viewer:
        """A session that has said which updates it wants."""
        viewer = Viewer(self.address, self.token)
        viewer.handshake()
        viewer.choose(self.what.level)
        return viewer

    @contextmanager
    def metered(self) -> Iterator[Record]:
        """Fills the record with what was spent during the block."""
        record: Record = {}
        meter = usage.Meter(self.relay, self.desktop)
        yield record
        record |= meter.read()


def percentiles(latencies_s: list[float]) -> Record:
    ordered = sorted(latencies_s)
    last = len(ordered) - 1
    return {
        name: ordered[round(last * share)] * 1e6
        for name, share in (("p50_us", 0.5), ("p90_us", 0.9), ("p99_us", 0.99), ("p999_us", 0.999))
        if ordered
    }


def closed(job: Job) -> Iterator[Record]:
    """One session with a fixed number of requests under way. One update may answer several, so
    each update that comes is followed by one request, and none is waited for at the end."""
    buffer = Buffer()
    with closing(job.viewer()) as viewer:
        for _ in range(job.what.outstanding):
            viewer.ask()
        _ask_and_receive(viewer, buffer, WARM_UP_S)
        with job.metered() as record:
            latencies_s = _ask_and_receive(viewer, buffer, job.seconds)
    record["updates"] = len(latencies_s)
    record["bytes"] = len(latencies_s) * viewer.update_bytes
    record["units"] = record["bytes"] / 1e9 if job.what.unit == "GB" else record["updates"]
    if job.what.outstanding == 1:
        record |= percentiles(latencies_s)
    yield record


def _ask_and_receive(viewer: Viewer, buffer: Buffer, seconds: float) -> list[float]:
    """The time from each request to the next update."""
    latencies_s = []
    begin = asked = now = time.perf_counter()
    while now - begin < seconds:
        for _ in range(viewer.receive(buffer)):
            now = time.perf_counter()
            latencies_s.append(now - asked)
            asked = now
            viewer.ask()
    return latencies_s


def crowd(job: Job) -> Iterator[Record]:
    """More and more sessions, which ask at a rate for all of them together, or always."""
    with closing(job.viewer()) as viewer:
        # A relay that has worked once: what it loads then is not a session's.
        viewer.ask()
        while not viewer.receive(Buffer()):
            pass
        viewer.leave()
    time.sleep(0.3)
    before = usage.memory(job.relay)
    # Made before there are connections: select knows no descriptor beyond 1,023.
    crowded = _Crowd(1 / job.what.rate if job.what.rate else 0.0)
    with closing(crowded):
        for count in job.sessions:
            crowded.settle()
            while len(crowded.viewers) < count:
                crowded.join(job.viewer())
            crowded.run(WARM_UP_S)
            crowded.forget()
            with job.metered() as record:
                crowded.run(job.seconds)
            after = usage.memory(job.relay)
            record |= percentiles(crowded.latencies_s) | {
                "sessions": count,
                "units": len(crowded.latencies_s),
                "updates": len(crowded.latencies_s),
                "bytes": len(crowded.latencies_s) * crowded.viewers[0].update_bytes,
                "late": crowded.late,
                "rss_kib": (after.rss_kib - before.rss_kib) / count,
                "pss_kib": (after.pss_kib - before.pss_kib) / count,
                "base_kib": before.rss_kib,
            }
            if job.what.rate:
                record["delivered"] = record["updates"] / (job.what.rate * record["seconds"])
            yield record


class _Crowd:
    """`viewers`, whose sockets one epoll watches. With an `interval_s` one of them asks each time
    it has passed, in turn; without, each asks again as soon as it has its update.

    One whose turn comes before it has its last update asks when it has it, as noVNC does: one
    update may answer two requests (RFC 6143, Section 7.5.3). Its latency counts from its turn.
    """

    def __init__(self, interval_s: float) -> None:
        self.viewers: list[Viewer] = []
        self._interval_s = interval_s
        self._buffer = Buffer()
        self._poll = select.epoll()
        self._by_descriptor: dict[int, Viewer] = {}
        # When each viewer's turns were that it has no update for. It has asked for the first.
        self._turns: dict[Viewer, deque[float]] = {}
        self._turn = 0
        self._due = 0.0
        self.latencies_s: list[float] = []
        self.late = 0

    def join(self, viewer: Viewer) -> None:
        """One more, which is closed with the crowd."""
        self.viewers.append(viewer)
        self._by_descriptor[viewer.socket.fileno()] = viewer
        self._turns[viewer] = deque()
        self._poll.register(viewer.socket, select.EPOLLIN)
        if not self._interval_s:
            self._ask(viewer)

    def close(self) -> None:
        for viewer in self.viewers:
            viewer.close()
        self._poll.close()

    def forget(self) -> None:
        """What has been counted so far."""
        self.latencies_s = []
        self.late = 0

    def _ask(self, viewer: Viewer) -> None:
        turns = self._turns[viewer]
        turns.append(time.perf_counter())
        if len(turns) == 1:
            viewer.ask()

    def run(self, seconds: float) -> None:
        begin = now = self._due = time.perf_counter()
        while now - begin < seconds:
            if self._interval_s:
                self._ask_those_due(now)
                if not self._receive(0):
                    # epoll waits in milliseconds.
                    left_s = max(0.0, self._due - time.perf_counter())
                    select.select([self._poll], [], [], left_s)
            else:
                self._receive(PATIENCE_S)
            now = time.perf_counter()

    def _ask_those_due(self, now: float) -> None:
        while self._due <= now:
            self.late += now - self._due > LATE_S
            self._ask(self.viewers[self._turn % len(self.viewers)])
            self._turn += 1
            self._due += self._interval_s

    def _receive(self, wait_s: float) -> bool:
        """Takes what has come, waiting for so long; whether anything has."""
        events = self._poll.poll(wait_s)
        if wait_s and not events:
            raise ConnectionError(f"nothing has come for {wait_s} s")
        for descriptor, _ in events:
            viewer = self._by_descriptor[descriptor]
            for _ in range(viewer.receive(self._buffer, socket.MSG_DONTWAIT)):
                turns = self._turns[viewer]
                self.latencies_s.append(time.perf_counter() - turns.popleft())
                if turns:
                    viewer.ask()
                elif not self._interval_s:
                    self._ask(viewer)
        return bool(events)

    def settle(self) -> None:
        """Takes what is still under way, so that the next measurement begins with nothing. For
        those that ask only when it is their turn."""
        while self._poll.poll(0.3):
            self._receive(0)


def starts(job: Job) -> Iterator[Record]:
    """New sessions, so many at a time."""
    latencies_s: list[float] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def begin_and_leave() -> None:
        try:
            while not (stop.is_set() or failures):
                began = time.perf_counter()
                with closing(Viewer(job.address, job.token)) as viewer:
                    viewer.handshake()
                    latencies_s.append(time.perf_counter() - began)
                    viewer.leave()
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=begin_and_leave) for _ in range(job.sessions[0])]
    for thread in threads:
        thread.start()
    time.sleep(WARM_UP_S)
    before = len(latencies_s)
    with job.metered() as record:
        time.sleep(job.seconds)
        measured = latencies_s[before:]
    stop.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    record["units"] = len(measured)
    yield record | percentiles(measured)


def _replay(job: Job) -> Iterator[Record]:
    sessions = [recorded.read(path) for path in recorded.captures()[0]]
    with job.metered() as record:
        moved_bytes = replay.play(sessions, lambda: Viewer(job.address, job.token), job.seconds)
    yield record | {"units": moved_bytes / 1e9, "bytes": moved_bytes}


def _xvnc(job: Job) -> Iterator[Record]:
    yield trio.run(_watch_xvnc, job)


async def _watch_xvnc(job: Job) -> Record:
    with closing(Viewer(job.address, job.token)) as connection:
        watch = await xvnc.Watch.begin(connection)
        await watch.run(WARM_UP_S)
        with job.metered() as record:
            counted = await watch.run(job.seconds)
    record["units"] = record["updates"] = len(counted.latencies_s)
    record["bytes"] = counted.moved_bytes
    return record | percentiles(counted.latencies_s)


DRIVES: dict[str, Callable[[Job], Iterator[Record]]] = {
    "closed": closed,
    "crowd": crowd,
    "starts": starts,
    "replay": _replay,
    "xvnc": _xvnc,
}


def main(job: Job) -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        records = list(DRIVES[job.what.drive](job))
        if not all(record["units"] for record in records):
            raise ConnectionError("nothing came")
    except OSError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(records))
    return 0


if __name__ == "__main__":
    sys.exit(main(Job(**json.loads(sys.argv[1]))))
