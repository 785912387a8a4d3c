"""What processes cost: CPU time and memory, from /proc (proc(5))."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process tree; in `pss_kib` a shared page counts once in all."""

    rss_kib: int
    pss_kib: int


def tree(roots: Iterable[int]) -> list[int]:
    """The processes of `roots` that live, and all their living descendants."""
    children = defaultdict(list)
    living = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and (fields := _stat(int(process.name))):
            living.add(int(process.name))
            children[int(fields[1])].append(int(process.name))
    found = [pid for pid in roots if pid in living]
    for pid in found:
        found += children[pid]
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, `state` first; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_s(roots: Iterable[int]) -> float:
    """CPU time of process trees so far, user and system, children that ended included."""
    return sum(map(_cpu_s, tree(roots)))


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    if not fields:
        return 0.0
    own, waited_for = (sum(map(int, fields[at : at + 2])) / TICKS_PER_S for at in (11, 13))
    # The ticks are 10 ms and know threads that ended; the scheduler's nanoseconds do not.
    return max(own, _scheduled_s(pid)) + waited_for


def _scheduled_s(pid: int) -> float:
    total_ns = 0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total_ns += int((thread / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        # It has just ended, or the kernel was built without them: the ticks remain.
        return 0.0
    return total_ns / 1e9


def memory(roots: Iterable[int]) -> Memory:
    """Memory of process trees now."""
    sizes = {"Rss:": 0, "Pss:": 0}
    for pid in tree(roots):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            name, size, *_ = line.split()
            if name in sizes:
                sizes[name] += int(size)
    return Memory(sizes["Rss:"], sizes["Pss:"])


def machine_s() -> tuple[float, float]:
    """CPU time of the whole machine so far: spent by anyone, and stolen by the hypervisor."""
    with Path("/proc/stat").open() as stat:
        user, nice, system, _, _, irq, soft_irq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + soft_irq) / TICKS_PER_S, steal / TICKS_PER_S


class Meter:
    """What the relay, the desktop, this process and all others spend between two moments."""

    def __init__(self, relay: list[int], desktop: list[int]) -> None:
        self._relay = relay
        self._desktop = desktop
        self._begin = self._now()

    def _now(self) -> dict[str, float]:
        busy_s, steal_s = machine_s()
        return {
            "relay_cpu_s": cpu_s(self._relay),
            "desktop_cpu_s": cpu_s(self._desktop),
            "viewer_cpu_s": time.process_time(),
            "busy_s": busy_s,
            "steal_s": steal_s,
            "seconds": time.perf_counter(),
        }

    def read(self) -> dict[str, float]:
        """Since it was made. `other_cpu_s` is what none of the three has spent."""
        now = self._now()
        spent = {name: now[name] - began for name, began in self._begin.items()}
        ours = ("relay_cpu_s", "desktop_cpu_s", "viewer_cpu_s")
        # The machine counts in ticks, so little of it may seem less than ours.
        spent["other_cpu_s"] = max(0.0, spent.pop("busy_s") - sum(spent[name] for name in ours))
        return spent
