"""One run of `bench.lag`, and the table of many."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from bench.lag.link import Link
from bench.lag.viewer import WARM_UP_S
from bench.lag.ways import python

# From the end of a run to the last answer, at most: what can be queued comes to this.
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Run:
    """What a viewer measured: seconds from a key to its answer, and updates a second."""

    lags_s: list[float]
    updates_per_s: float

    def percentile_ms(self, percent: int) -> float:
        """The least that so many in a hundred do not exceed, in milliseconds."""
        ordered = sorted(self.lags_s)
        return ordered[-(-len(ordered) * percent // 100) - 1] * 1000


def measure(link: Link, mode: str, address: str, token: str, seconds: float) -> Run:
    """One run. Raises SystemExit when the viewer fails."""
    viewer = python(link.viewer, "bench.lag.viewer", mode, address, token, str(seconds))
    limit_s = seconds + WARM_UP_S + _PATIENCE_S
    try:
        done = subprocess.run(viewer, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{address}: no answer to a key within {_PATIENCE_S:g} s") from None
    if done.returncode:
        raise SystemExit(f"the viewer of {address} failed:\n{done.stderr}")
    told = json.loads(done.stdout)
    return Run(told["lags_s"], told["updates"] / told["seconds"])


def rows(case: str, runs: dict[str, list[Run]]) -> Iterator[str]:
    """The table's lines of one case, `runs` being by way."""

    def median(percent: int, taken: list[Run]) -> float:
        return statistics.median(run.percentile_ms(percent) for run in taken)

    reference = median(95, runs["direct"])
    for way, taken in runs.items():
        figures = " | ".join(f"{median(percent, taken):.0f}" for percent in (50, 95, 99, 100))
        per_s = statistics.median(run.updates_per_s for run in taken)
        count = sum(len(run.lags_s) for run in taken)
        ratio = median(95, taken) / reference
        yield f"| {case} | {way} | {figures} | {per_s:.1f} | {count} | {ratio:.2f} |"
