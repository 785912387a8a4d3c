"""Runs in tables: one for each workload, and one of the noise."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.load import Record
from bench.peers import PEERS
from bench.runs import Run, parallel
from bench.workloads import WORKLOADS

Figure = Callable[[Record], float]


@dataclass(frozen=True)
class Column:
    """One figure of a run; `relay` where it is a relay's, so that `direct` has none."""

    title: str
    of: Figure
    digits: int = 0
    relay: bool = False


def _rate(record: Record) -> float:
    return record["units"] / record["seconds"]


def _cpu_per_unit(record: Record) -> float:
    return record["relay_cpu_s"] / record["units"]


def _load_percent(record: Record) -> float:
    """Of the CPU that the viewer has; where the desktop has it too, of the same."""
    return 100 * (record["desktop_cpu_s"] + record["viewer_cpu_s"]) / record["seconds"]


_PER_S = Column("{unit}s/s", _rate)
_CPU_US = Column("CPU us/{unit}", lambda r: _cpu_per_unit(r) * 1e6, 1, relay=True)
_CPU_PERCENT = Column("CPU %", lambda r: 100 * r["relay_cpu_s"] / r["seconds"], relay=True)
_MB_PER_S = Column("MB/s", lambda r: r["bytes"] / 1e6 / r["seconds"], 1)
_LATENCY = tuple(
    Column(f"{title} us", lambda r, name=name: r[name])  # type: ignore[misc]
    for title, name in (("p50", "p50_us"), ("p90", "p90_us"), ("p99", "p99_us"))
)
_BULK = (
    Column("GB/s", _rate, 3),
    Column("CPU s/GB", _cpu_per_unit, 3, relay=True),
    _CPU_PERCENT,
    Column("load %", _load_percent),
)
_ROUND_TRIPS = (_PER_S, _CPU_US, *_LATENCY, Column("p99.9 us", lambda r: r["p999_us"]))
_MANY = (
    _PER_S,
    Column("delivered %", lambda r: 100 * r["delivered"], 1),
    _CPU_US,
    _CPU_PERCENT,
    *_LATENCY,
    Column("RSS KiB/session", lambda r: r["rss_kib"], 1, relay=True),
    Column("PSS KiB/session", lambda r: r["pss_kib"], 1, relay=True),
    Column("RSS before MiB", lambda r: r["base_kib"] / 1024, 1, relay=True),
    Column("load %", _load_percent),
)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "bulk": _BULK,
    "typical": _ROUND_TRIPS,
    "tiny": _ROUND_TRIPS,
    "many": _MANY,
    "many60": _MANY,
    "starts": (_PER_S, _CPU_US, *_LATENCY, Column("load %", _load_percent)),
    "scale": (_PER_S, _CPU_US, *_LATENCY, Column("RSS KiB/session", lambda r: r["rss_kib"], 1)),
    "replay": _BULK,
    "xvnc": (_PER_S, _MB_PER_S, _CPU_US, _CPU_PERCENT, *_LATENCY),
    "workers": (
        _PER_S,
        _CPU_US,
        Column("updates per CPU second", lambda r: r["updates"] / r["relay_cpu_s"]),
    ),
}
HEADLINE = 0
"""The column whose spread is a workload's noise."""

Key = tuple[str, str, int, int]
"""Workload, peer, sessions, relay processes."""


def grouped(runs: Iterable[Run]) -> dict[Key, list[Run]]:
    """Runs of the same thing; failed ones among those of one session."""
    groups: dict[Key, list[Run]] = {}
    for run in runs:
        several = len(WORKLOADS[run.workload].sessions) > 1
        sessions = int(run.record.get("sessions", 0)) if several else 0
        groups.setdefault((run.workload, run.peer, sessions, run.relays), []).append(run)
    return groups


def median(runs: Sequence[Run], figure: Figure) -> float:
    return statistics.median(figure(run.record) for run in runs)


def _cell(column: Column, runs: Sequence[Run]) -> str:
    if column.relay and runs[0].peer == "direct":
        return "-"
    values = [column.of(run.record) for run in runs]
    text = f"{statistics.median(values):.{column.digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{column.digits}f}-{max(values):.{column.digits}f})"
    return text


def _who(key: Key) -> str:
    _, peer, sessions, relays = key
    text = f"{peer}, {sessions}" if sessions else peer
    return f"{text}, {relays} processes" if relays > 1 else text


def table(name: str, runs: Sequence[Run]) -> list[str]:
    """One workload's table: medians, and the least and the most of all rounds."""
    columns = COLUMNS[name]
    titles = [column.title.format(unit=WORKLOADS[name].unit) for column in columns]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    groups = grouped(run for run in runs if run.workload == name)
    order = {peer: at for at, peer in enumerate(PEERS)}
    for key, group in sorted(groups.items(), key=lambda item: (order[item[0][1]], *item[0][2:])):
        done = [run for run in group if not run.error]
        errors = sorted({run.error for run in group if run.error})
        cells = [_cell(column, done) if done else "-" for column in columns]
        lines.append(f"| {_who(key)} | {' | '.join(cells)} |")
        lines += [f"| {_who(key)} | {error} |" for error in errors]
    return lines


def line(run: Run) -> str:
    """A run in short, as it is done."""
    text = f"{run.workload} {_who(next(iter(grouped([run]))))}: "
    if run.error:
        return text + run.error
    columns = COLUMNS[run.workload][:2]
    titles = [column.title.format(unit=WORKLOADS[run.workload].unit) for column in columns]
    cells = [_cell(column, [run]) for column in columns]
    return text + ", ".join(map("{} {}".format, cells, titles))


def noise(runs: Sequence[Run]) -> list[str]:
    """How far rounds of the same thing differ, and who else was busy meanwhile."""
    lines = [
        "| | spread between rounds % | other CPU % | stolen CPU % | late requests % |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(run.workload for run in runs):
        figure = COLUMNS[name][HEADLINE].of
        groups = grouped(run for run in runs if run.workload == name and not run.error)
        spreads = []
        for group in groups.values():
            values = [figure(run.record) for run in group]
            spreads.append(100 * (max(values) - min(values)) / statistics.median(values))
        records = [run.record for group in groups.values() for run in group]
        shares = [
            max(
                (100 * record[part] / record[whole] for record in records if part in record),
                default=0,
            )
            for part, whole in (
                ("other_cpu_s", "seconds"),
                ("steal_s", "seconds"),
                ("late", "updates"),
            )
        ]
        several = any(len(group) > 1 for group in groups.values())
        spread = f"{max(spreads):.0f}" if several else "-"
        lines.append(f"| {name} | {spread} | {' | '.join(f'{s:.1f}' for s in shares)} |")
    return lines


def workers(runs: Sequence[Run]) -> list[str]:
    """What two relay processes carry beside one."""
    groups = grouped(run for run in runs if run.workload == "workers" and not run.error)
    by_relays = {key[3]: group for key, group in groups.items()}
    if set(by_relays) != {1, 2}:
        return ["Not measured."]
    one, two = by_relays[1], by_relays[2]
    if parallel():
        ratio = median(two, _rate) / median(one, _rate)
        return [f"Two processes carry {ratio:.2f} times what one does."]
    first, second = (median(group, _cpu_per_unit) * 1e6 for group in (one, two))
    return [
        "Parallel speed could not be measured: two relays and their loads need four CPUs.",
        f"CPU per update is {first:.1f} us with one process and {second:.1f} us with two, so that",
        f"two carry {first / second:.2f} times as many updates per CPU-second.",
    ]
