"""`python -m bench.guard`: whether the relay still holds its place among its peers.

Ours and the peer of each bar are measured in the same run, in turn. Each round gives a ratio, and
the median of the rounds is held against the bar: what slows the whole machine slows both. The exit
status is 1 where a bar is not met, and 2 where one could not be measured.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass

from bench.load import Record
from bench.options import check_pace, parser_of
from bench.peers import install
from bench.report import Figure, line
from bench.runs import Run, available, rounds


def throughput(record: Record) -> float:
    return record["units"] / record["seconds"]


def cpu_per_unit(record: Record) -> float:
    return record["relay_cpu_s"] / record["units"]


def p50_us(record: Record) -> float:
    return record["p50_us"]


def rss_kib(record: Record) -> float:
    return record["rss_kib"]


def delivered(record: Record) -> float:
    return record["delivered"]


@dataclass(frozen=True)
class Bar:
    """`figure` of ours, over the peer's where there is one, is at least or at most so much."""

    says: str
    workload: str
    figure: Figure
    peer: str = ""
    least: float = 0.0
    most: float = float("inf")

    def value(self, runs: Sequence[Run], turn: int) -> float | None:
        """In one round; None where it was not measured."""
        mine, theirs = (
            [
                self.figure(run.record)
                for run in runs
                if (run.workload, run.peer, run.round) == (self.workload, peer, turn)
                and not run.error
            ]
            for peer in ("ours", self.peer)
        )
        if not mine or (self.peer and not theirs):
            return None
        return mine[0] / theirs[0] if self.peer else mine[0]


BARS = (
    Bar("GB/s over nginx's", "bulk", throughput, "nginx", least=1.2),
    Bar("CPU per GB over nginx's", "bulk", cpu_per_unit, "nginx", most=0.95),
    Bar("CPU per update over Node's", "typical", cpu_per_unit, "node", most=1.5),
    Bar("CPU per round trip over Node's", "tiny", cpu_per_unit, "node", most=1.6),
    Bar("p50 over Node's", "tiny", p50_us, "node", most=1.6),
    Bar("CPU per update over Node's", "many", cpu_per_unit, "node", most=1.25),
    Bar("KiB a session", "many", rss_kib, most=12),
    # What is under way when the time ends is not there yet.
    Bar("delivered, of 12,000 updates a second", "many60", delivered, least=0.995),
    Bar("CPU per update over Node's", "many60", cpu_per_unit, "node", most=1.25),
    Bar("sessions a second", "starts", throughput, least=350),
)


def judge(bar: Bar, runs: Sequence[Run], count: int) -> tuple[str, bool | None]:
    """One line, and whether the bar is met; None where it could not be measured."""
    values = [value for turn in range(count) if (value := bar.value(runs, turn)) is not None]
    limit = f"at least {bar.least:g}" if bar.least else f"at most {bar.most:g}"
    text = f"{bar.workload:<8} {bar.says:<38} {limit:<14}"
    if not values:
        return f"{text} NOT MEASURED", None
    middle = statistics.median(values)
    met = bar.least <= middle <= bar.most
    spread = f"({min(values):.3g}-{max(values):.3g})"
    return f"{text} {middle:8.3g} {spread:<18} {'met' if met else 'NOT MET'}", met


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("bench.guard", __doc__)
    parser.add_argument("--secs", type=float, default=1.5, help="length of one run")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs, for the median")
    parser.add_argument("--no-install", action="store_true", help="take peers as they are")
    options = parser.parse_args(arguments)
    check_pace(parser, options)
    if not options.no_install:
        install()
    found, missing = available({"ours"} | {bar.peer for bar in BARS if bar.peer})
    for name, reason in missing.items():
        print(f"{name} cannot be measured: {reason}")
    runs = []
    for run in rounds(plan(found), options.rounds, options.secs):
        runs.append(run)
        print(f"round {run.round + 1}: {line(run)}", file=sys.stderr, flush=True)
    verdicts = [judge(bar, runs, options.rounds) for bar in BARS]
    for text, _ in verdicts:
        print(text)
    if any(met is False for _, met in verdicts):
        return 1
    return 2 if any(met is None for _, met in verdicts) else 0


def plan(found: Container[str]) -> dict[str, list[str]]:
    """What has to be measured: for each workload, ours and the peers that its bars name."""
    wanted: dict[str, list[str]] = {}
    for bar in BARS:
        peers = wanted.setdefault(bar.workload, ["ours"])
        if bar.peer in found and bar.peer not in peers:
            peers.append(bar.peer)
    return wanted


if __name__ == "__main__":
    sys.exit(main())
