"""What is written of a session of runs: the machine, the peers, the tables and the plots."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from bench.peers import PEERS
from bench.report.tables import noise, table, workers
from bench.runs import Run
from bench.workloads import WORKLOADS


def machine() -> list[str]:
    """What it ran on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    cpus = sorted(os.sched_getaffinity(0))
    return [
        f"- CPU: {model}, {os.cpu_count()} cores, of which these runs may use {cpus}",
        f"- memory: {memory_kib / 2**20:.1f} GiB",
        f"- kernel: {platform.system()} {platform.release()}",
        f"- Python: {platform.python_version()}",
    ]


def write(
    folder: Path,
    runs: Sequence[Run],
    versions: dict[str, str],
    missing: dict[str, str],
    plots: Sequence[str],
) -> Path:
    """Writes the report as Markdown, and the runs as they were; returns the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.jsonl").write_text("".join(run.as_json() + "\n" for run in runs))
    lines = ["# Measured", "", *machine(), ""]
    lines += ["Peers, all in this one run, in turn:", ""]
    lines += [f"- {name}: {PEERS[name].says}; {version}" for name, version in versions.items()]
    lines += [f"- {name} is left out: {reason}" for name, reason in missing.items()]
    lines += ["", "A cell is the median of all rounds, with the least and the most of them. CPU is"]
    lines += ["that of the relay's whole process tree; `load %` is the desktop's and the viewer's"]
    lines += ["CPU: near 100 (200 for direct), the load was the bound and not the relay."]
    for name in dict.fromkeys(run.workload for run in runs):
        workload = WORKLOADS[name]
        where = "relay on a CPU of its own" if workload.apart else "all on one CPU"
        lines += ["", f"## {name}", "", f"{workload.says} ({where}).", "", *table(name, runs)]
        if name == "workers":
            lines += ["", *workers(runs)]
    lines += ["", "## Noise", "", "The worst of each workload's runs. Between rounds: the first"]
    lines += ["figure of each table, most less least, of the median.", "", *noise(runs)]
    for plot in plots:
        lines += ["", f"![{Path(plot).stem}]({plot})"]
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n")
    return path
