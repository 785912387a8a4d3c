"""The report's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import Figure, grouped, median
from bench.runs import Run
from bench.workloads import WORKLOADS

BARS: dict[str, tuple[str, float, str, tuple[str, ...]]] = {
    "throughput": ("units a second", 1, "rate", ("bulk", "typical", "tiny", "starts")),
    "cpu": ("relay's CPU per unit, us", 1e6, "cpu", ("bulk", "typical", "tiny", "many", "starts")),
    "memory": ("resident KiB per session", 1, "rss_kib", ("many", "many60")),
}
"""By file: what is drawn, in what scale, which figure, of which workloads."""

FIGURES: dict[str, Figure] = {
    "rate": lambda r: r["units"] / r["seconds"],
    "cpu": lambda r: r["relay_cpu_s"] / r["units"],
    "rss_kib": lambda r: r["rss_kib"],
}
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
        *((name, _bars, bar[3]) for name, bar in BARS.items()),
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


def _bars(axis: Any, name: str, _workload: str, runs: Sequence[Run]) -> None:
    label, scale, figure, _ = BARS[name]
    values = {
        peer: median(group, FIGURES[figure]) * scale
        for (_, peer, _, _), group in grouped(runs).items()
        if name == "throughput" or peer != "direct"
    }
    bars = axis.bar(list(values), list(values.values()), color=_colours(values))
    axis.bar_label(bars, fmt="%.3g")
    axis.tick_params(axis="x", rotation=45)
    axis.set_ylabel(label)


def _colours(peers: Sequence[str] | dict[str, float]) -> list[str]:
    return ["tab:orange" if peer == "ours" else "tab:gray" for peer in peers]


def _latency(axis: Any, _name: str, _workload: str, runs: Sequence[Run]) -> None:
    for (_, peer, _, _), group in grouped(runs).items():
        values = [median(group, lambda r, name=name: r[name]) for name in PERCENTILES.values()]  # type: ignore[misc]
        axis.plot(list(PERCENTILES), values, marker="o", label=peer)
    axis.set_yscale("log")
    axis.set_xlabel("percentile")
    axis.set_ylabel("from request to update, us")
    axis.legend()


def _scale(axis: Any, _name: str, _workload: str, runs: Sequence[Run]) -> None:
    by_peer: dict[str, list[tuple[int, float]]] = {}
    for (_, peer, sessions, _), group in sorted(grouped(runs).items()):
        by_peer.setdefault(peer, []).append((sessions, median(group, FIGURES["cpu"]) * 1e6))
    for peer, points in by_peer.items():
        axis.plot(*zip(*points, strict=True), marker="o", label=peer)
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("sessions")
    axis.set_ylabel("relay's CPU per update, us")
    axis.legend()
