"""The report's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers import PEERS
from bench.report.tables import Figure, grouped, median
from bench.runs import Run
from bench.workloads import WORKLOADS

FIGURES: dict[str, tuple[str, Figure]] = {
    "throughput": ("{unit}s a second", lambda r: r["units"] / r["seconds"]),
    "cpu": ("relay's CPU seconds per {unit}", lambda r: r["relay_cpu_s"] / r["units"]),
    "memory": ("resident KiB per session", lambda r: r["rss_kib"]),
}
BARS: dict[str, tuple[str, ...]] = {
    "throughput": ("bulk", "typical", "tiny", "starts"),
    "cpu": ("bulk", "typical", "tiny", "many", "starts"),
    "memory": ("many", "many60"),
}
"""By file: of which workloads it has bars."""

PERCENTILES = {"50": "p50_us", "90": "p90_us", "99": "p99_us", "99.9": "p999_us"}


def draw(folder: Path, runs: Sequence[Run]) -> list[str]:
    """Draws what there are runs for; the names of the files. Raises ImportError without
    matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    done = [run for run in runs if not run.error]
    drawn = []
    for name, draw_on, workloads in (
        *((name, _bars, workloads) for name, workloads in BARS.items()),
        ("latency", _latency, ("typical", "tiny", "many", "many60")),
        ("scale", _scale, ("scale",)),
    ):
        present = [w for w in workloads if any(run.workload == w for run in done)]
        if not present:
            continue
        figure, axes = pyplot.subplots(1, len(present), squeeze=False, layout="constrained")
        figure.set_size_inches(4 * len(present) + 1, 4)
        for axis, workload in zip(axes[0], present, strict=True):
            draw_on(axis, name, workload, [run for run in done if run.workload == workload])
            axis.set_title(f"{workload} ({WORKLOADS[workload].unit})")
        figure.savefig(folder / f"{name}.png", dpi=110)
        pyplot.close(figure)
        drawn.append(f"{name}.png")
    return drawn


def _colour(peer: str) -> str:
    """The same in all pictures."""
    return f"C{list(PEERS).index(peer)}"


def _bars(axis: Any, name: str, workload: str, runs: Sequence[Run]) -> None:
    from matplotlib.ticker import EngFormatter

    label, figure = FIGURES[name]
    values = {
        peer: median(group, figure)
        for (_, peer, _, _), group in grouped(runs).items()
        if name == "throughput" or peer != "direct"
    }
    bars = axis.bar(list(values), list(values.values()), color=list(map(_colour, values)))
    short = EngFormatter(places=1)
    axis.yaxis.set_major_formatter(short)
    axis.bar_label(bars, labels=[short(value) for value in values.values()])
    axis.tick_params(axis="x", rotation=45)
    axis.set_ylabel(label.format(unit=WORKLOADS[workload].unit))


def _latency(axis: Any, _name: str, _workload: str, runs: Sequence[Run]) -> None:
    for (_, peer, _, _), group in grouped(runs).items():
        values = [median(group, lambda r, name=name: r[name]) for name in PERCENTILES.values()]  # type: ignore[misc]
        axis.plot(list(PERCENTILES), values, marker="o", label=peer, color=_colour(peer))
    axis.set_yscale("log")
    axis.set_xlabel("percentile")
    axis.set_ylabel("from request to update, us")
    axis.legend()


def _scale(axis: Any, _name: str, _workload: str, runs: Sequence[Run]) -> None:
    by_peer: dict[str, list[tuple[int, float]]] = {}
    for (_, peer, sessions, _), group in sorted(grouped(runs).items()):
        by_peer.setdefault(peer, []).append((sessions, median(group, FIGURES["cpu"][1]) * 1e6))
    for peer, points in by_peer.items():
        axis.plot(*zip(*points, strict=True), marker="o", label=peer, color=_colour(peer))
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("sessions")
    axis.set_ylabel("relay's CPU per update, us")
    axis.legend()
