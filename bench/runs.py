"""Runs: each is a desktop, a relay and the load, all started afresh, on CPUs of their own.

In each round every workload meets its peers one after another; the order rotates from round to
round, so that no peer always comes first, or behind the same other.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench.load import Job, Record
from bench.peers import PEERS, Peer, Running, Unavailable, announced, child
from bench.workloads import WORKLOADS, Workload

LOAD_TIMEOUT_S = 300


@dataclass(frozen=True)
class Run:
    """One measurement, or why there is none. `relays` is how many processes shared the work."""

    workload: str
    peer: str
    round: int
    record: Record = field(default_factory=dict)
    error: str = ""
    relays: int = 1

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


@dataclass(frozen=True)
class Cpus:
    """Where a run's parts are put."""

    relay: set[int]
    desktop: set[int]
    viewer: set[int]


def place(workload: Workload, peer: str, index: int = 0) -> Cpus:
    """Two CPUs are used, however many there are, so that machines differ in less; only the second
    relay of a pair has another two, where there are."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        return Cpus(set(mine), set(mine), set(mine))
    first, second = {mine[0]}, {mine[1]}
    if index and parallel():
        return Cpus({mine[2]}, second, {mine[3]})
    if not workload.apart:
        return Cpus(second, second, second)
    return Cpus(first, first if peer == "direct" else second, second)


def parallel() -> bool:
    """Whether two relays and their loads have a CPU each."""
    return len(os.sched_getaffinity(0)) >= 4


def _load(
    name: str, running: Running, desktop: int, seconds: float, sessions: list[int]
) -> list[str]:
    """The command of the load."""
    job = Job(
        workload=name,
        address=running.address,
        token=running.token,
        relay=[running.pid] if running.pid else [],
        desktop=[desktop],
        seconds=seconds,
        sessions=sessions,
    )
    return [sys.executable, "-m", "bench.load", json.dumps(dataclasses.asdict(job))]


def measure(name: str, peer: str, seconds: float, relays: int = 1) -> list[Record]:
    """One run of one peer. With two relays the sessions are split between them, and the records
    are added up. Raises Unavailable, and RuntimeError where the load found fault."""
    workload = WORKLOADS[name]
    cpus = [place(workload, peer, index) for index in range(relays)]
    sessions = [count // relays for count in workload.sessions]
    with ExitStack() as stack:
        command = [sys.executable, "-m", workload.desktop]
        pid, ports = stack.enter_context(announced(command, cpus[0].desktop))
        loads = []
        for places in cpus:
            running = stack.enter_context(PEERS[peer].start(ports, places.relay))
            loads.append((_load(name, running, pid, seconds, sessions), places.viewer))
        started = [stack.enter_context(child(*command)) for command in loads]
        answers = []
        for process, last_words in started:
            try:
                answer, _ = process.communicate(timeout=LOAD_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"not done after {LOAD_TIMEOUT_S} s") from None
            if process.returncode:
                raise RuntimeError(last_words().strip().rpartition("\n")[2])
            answers.append(json.loads(answer))
    if relays == 1:
        records: list[Record] = answers[0]
        return records
    return [_together(parts) for parts in zip(*answers, strict=True)]


def _together(parts: Sequence[Record]) -> Record:
    """What relays that worked at the same time have done together, at the pace of the slower."""
    added = {name: sum(part[name] for part in parts) for name in ("units", "updates", "bytes")}
    added |= {name: sum(part[name] for part in parts) for name in ("relay_cpu_s", "viewer_cpu_s")}
    shared = {name: max(part[name] for part in parts) for name in ("seconds", "desktop_cpu_s")}
    return added | shared


def available(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Peers that can be had with their versions, and the others with the reason."""
    found, missing = {}, {}
    for name in names:
        peer: Peer = PEERS[name]
        try:
            found[name] = peer.version()
        except Unavailable as error:
            missing[name] = str(error)
    return found, missing


def rounds(plan: Mapping[str, Sequence[str]], count: int, seconds: float) -> Iterator[Run]:
    """All runs, as they are done; `plan` has the peers of each workload."""
    for turn in range(count):
        for name, peers in plan.items():
            for peer, relays in order(name, peers, turn):
                try:
                    records = measure(name, peer, seconds, relays)
                except (RuntimeError, Unavailable) as error:
                    yield Run(name, peer, turn, error=str(error), relays=relays)
                    continue
                for record in records:
                    yield Run(name, peer, turn, record, relays=relays)


def order(name: str, peers: Sequence[str], turn: int) -> list[tuple[str, int]]:
    """(peer, number of relays) for one round."""
    mine = [(peer, relays) for relays in WORKLOADS[name].relays for peer in peers]
    at = turn % max(1, len(mine))
    turned = mine[at:] + mine[:at]
    # Backwards in every second round: rotating alone would keep the neighbours.
    return turned[:: -1 if turn % 2 else 1]
