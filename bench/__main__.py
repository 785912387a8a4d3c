"""`python -m bench`: how fast the relay is, and what it costs, on this machine now.

For each workload, medians over the rounds:

- bulk: whole screens of 1920x1080 in Raw, four requests under way: GB/s, and CPU-seconds of
  the relay per GB.
- typical: updates of 16 Tight rectangles, about 33 KB, one request under way.
- tiny: updates of one rectangle of about 100 bytes, one request under way. For both, updates a
  second, the relay's CPU per update in microseconds, and the median latency.

The line `direct` is the same viewer on the same server without a relay, in the same run.
Figures mean something only beside it: machines differ, and the same one differs by the hour.
The load is Python too, so it bounds what can be seen, and on few cores it competes with the
relay. Updates are numbered, and every byte that arrives is compared: a run in which anything
is lost, repeated, moved or changed ends with an error instead of a figure. CPU is that of the
relay's process and of children it waited for, user and system, in steps of the kernel's clock
tick (10 ms as a rule), so runs far shorter than a second say little about it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.viewer import Sample, Viewer


@dataclass(frozen=True)
class Workload:
    """`level` is the server's update (bench.server), `outstanding` the requests under way."""

    level: int
    outstanding: int


WORKLOADS = {"bulk": Workload(1, 4), "typical": Workload(2, 1), "tiny": Workload(3, 1)}


@contextmanager
def _child(*arguments: str) -> Iterator[tuple[int, str]]:
    """A child process and its first line of output. What it logs is shown if it has none."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                process.wait()
                log.seek(0)
                raise SystemExit(f"{' '.join(arguments)} did not start:\n{log.read()}")
            yield process.pid, line
        finally:
            process.terminate()


def cpu_s(pid: int) -> float:
    """CPU time of a process and its waited-for children so far, user and system, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    # proc(5), /proc/pid/stat: utime, stime, cutime, cstime, counted from after the name.
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def measure(
    workload: Workload, address: str, token: str, pid: int | None, seconds: float
) -> tuple[Sample, float]:
    """One run: what the viewer counted, and CPU-seconds of process `pid` meanwhile."""
    try:
        with closing(Viewer(address, token)) as viewer:
            viewer.handshake(workload.level)
            before = cpu_s(pid) if pid else 0.0
            sample = viewer.run(workload.level, workload.outstanding, seconds)
            return sample, (cpu_s(pid) - before if pid else 0.0)
    except OSError as error:
        raise SystemExit(f"bench: {address}: {error}") from error


def row(name: str, who: str, runs: list[tuple[Sample, float]]) -> str:
    """One line of the table."""

    def median(values: list[float]) -> float:
        return statistics.median(values)

    gb_s = median([s.rfb_bytes / 1e9 / s.seconds for s, _ in runs])
    per_gb = median([cpu / (s.rfb_bytes / 1e9) for s, cpu in runs])
    per_s = median([s.updates / s.seconds for s, _ in runs])
    per_update_us = median([cpu / s.updates * 1e6 for s, cpu in runs])
    latency_us = median([statistics.median(s.latencies_s) * 1e6 for s, _ in runs])
    cost = f"{per_gb:.3f} | {per_update_us:.1f}" if who == "relay" else "- | -"
    return f"| {name} | {who} | {gb_s:.3f} | {per_s:.0f} | {cost} | {latency_us:.1f} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--secs", type=float, default=3.0, help="length of one run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, for the median")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="which, with commas")
    options = parser.parse_args(arguments)
    chosen = options.workloads.split(",")
    unknown = [name for name in chosen if name not in WORKLOADS]
    if unknown:
        parser.error(f"no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    if not (options.secs > 0 and options.rounds > 0):  # so that NaN is refused as well
        parser.error("--secs and --rounds must be more than 0")
    print("| workload | | GB/s | updates/s | CPU s/GB | CPU us/update | latency p50 us |")
    print("|---|---|---|---|---|---|---|")
    with _child("bench.server") as (_, port):
        direct = f"tcp://127.0.0.1:{port.strip()}"
        relay = ("api", "demo", "--json", "--bind", "127.0.0.1:0", "--desktop", direct)
        with _child(*relay) as (pid, line):
            demo = json.loads(line)
            for name in chosen:
                workload = WORKLOADS[name]
                runs: dict[str, list[tuple[Sample, float]]] = {"direct": [], "relay": []}
                for _ in range(options.rounds):
                    runs["direct"].append(measure(workload, direct, "", None, options.secs))
                    runs["relay"].append(
                        measure(workload, demo["ws_url"], demo["token"], pid, options.secs)
                    )
                for who, samples in runs.items():
                    print(row(name, who, samples), flush=True)


if __name__ == "__main__":
    main()
