"""The guard: how bars are judged, and what its exit status says."""

from __future__ import annotations

import dataclasses

import pytest

from bench import guard
from bench.runs import Run


def ran(workload: str, peer: str, turn: int, **record: float) -> Run:
    return Run(workload, peer, turn, {"seconds": 1.0} | record)


def test_a_bar_is_held_against_the_median_of_paired_rounds() -> None:
    bar = guard.Bar("CPU", "tiny", guard.cpu_per_unit, "node", most=1.5)
    runs = []
    # The second round ran on a machine half as fast, which is nobody's fault.
    for turn, (ours, node) in enumerate([(1.4, 1.0), (2.8, 2.0), (9.0, 1.0)]):
        runs.append(ran("tiny", "ours", turn, units=1, relay_cpu_s=ours))
        runs.append(ran("tiny", "node", turn, units=1, relay_cpu_s=node))
    text, met = guard.judge(bar, runs, 3)
    assert met
    assert "1.4" in text
    text, met = guard.judge(dataclasses.replace(bar, most=1.3), runs, 3)
    assert met is False
    assert "NOT MET" in text


def test_a_bar_without_its_peer_is_not_met() -> None:
    bar = guard.Bar("CPU", "tiny", guard.cpu_per_unit, "node", most=1.5)
    text, met = guard.judge(bar, [ran("tiny", "ours", 0, units=1, relay_cpu_s=1)], 1)
    assert met is None
    assert "NOT MEASURED" in text
    failed = Run("tiny", "node", 0, error="did not start")
    assert guard.judge(bar, [ran("tiny", "ours", 0, units=1, relay_cpu_s=1), failed], 1)[1] is None


def test_a_bar_of_its_own_needs_no_peer() -> None:
    bar = guard.Bar("sessions", "starts", guard.throughput, least=350)
    assert guard.judge(bar, [ran("starts", "ours", 0, units=350)], 1)[1] is True
    assert guard.judge(bar, [ran("starts", "ours", 0, units=349)], 1)[1] is False


@pytest.mark.parametrize(("least", "status"), [(1, 0), (1e9, 1)])
def test_the_guards_exit_status_says_whether_bars_are_met(
    least: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        guard, "BARS", (guard.Bar("updates", "tiny", guard.throughput, least=least),)
    )
    assert guard.main(["--secs", "0.1", "--rounds", "1", "--no-install"]) == status
    assert ("NOT MET" in capsys.readouterr().out) == bool(status)


def test_the_guards_plan_has_only_what_its_bars_name() -> None:
    plan = guard.plan({"ours", "node"})
    assert set(plan) == {bar.workload for bar in guard.BARS}
    assert plan["bulk"] == ["ours"]  # nginx is missing
    assert plan["tiny"] == ["ours", "node"]
