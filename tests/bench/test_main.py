"""The bench runs each workload, writes its report, and says what went wrong. Nothing is timed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.peers import installed
from bench.report.tables import COLUMNS
from bench.workloads import WORKLOADS

ON_THE_SYNTHETIC_DESKTOP = ("bulk", "tiny", "many", "starts", "workers")


def rows(text: str, workload: str) -> dict[str, list[str]]:
    """The cells of a workload's table by what its line is of."""
    section = text.partition(f"\n## {workload}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_every_workload_gives_a_row_for_each_peer(tmp_path: Path) -> None:
    arguments = ["--secs", "0.1", "--rounds", "1", "--no-install", "--out", str(tmp_path)]
    names = ",".join(ON_THE_SYNTHETIC_DESKTOP)
    assert main([*arguments, "--workloads", names, "--peers", "direct,ours"]) == 0
    text = (tmp_path / "report.md").read_text()
    for name in ON_THE_SYNTHETIC_DESKTOP:
        found = rows(text, name)
        assert set(found) == (
            {"ours", "ours, 2 processes"} if name == "workers" else {"direct", "ours"}
        )
        for who, cells in found.items():
            assert float(cells[0]) > 0, (name, who)
            # Without a relay there is nothing that could have spent CPU.
            for column, cell in zip(COLUMNS[name], cells, strict=True):
                assert (cell == "-") == (who == "direct" and column.relay)
    kept = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert {run["workload"] for run in kept} == set(ON_THE_SYNTHETIC_DESKTOP)
    for picture in ("throughput.png", "cpu.png", "latency.png", "memory.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
        assert f"({picture})" in text
    for said in ("- CPU: ", "- kernel: ", "- Python: ", "deskrelay demo; this checkout"):
        assert said in text


def test_a_missing_peer_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installed, "WEBSOCKIFY", tmp_path / "websockify")
    arguments = ["--secs", "0.1", "--rounds", "1", "--no-install", "--out", str(tmp_path)]
    assert main([*arguments, "--workloads", "tiny", "--peers", "direct,websockify"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert set(rows(text, "tiny")) == {"direct"}
    assert "- websockify is left out: websockify is not installed" in text
    assert "websockify is left out" in capsys.readouterr().err


def test_a_run_that_fails_is_in_the_report_and_in_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A viewer of Xvnc's that meets the synthetic desktop asks for what that does not know.
    wrong = dataclasses.replace(WORKLOADS["xvnc"], desktop="bench.server")
    monkeypatch.setitem(WORKLOADS, "xvnc", wrong)
    arguments = ["--secs", "0.1", "--rounds", "1", "--no-install", "--out", str(tmp_path)]
    assert main([*arguments, "--workloads", "xvnc", "--peers", "direct"]) == 1
    (cells,) = rows((tmp_path / "report.md").read_text(), "xvnc").values()
    assert "ConnectionError" in cells[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "nonsense"], "no workload 'nonsense'"),
        (["--peers", "direct,nobody"], "no peer 'nobody'"),
        (["--rounds", "0"], "must be more than 0"),
        (["--secs", "nan"], "must be more than 0"),
        (["--secs", "soon"], "invalid float value: 'soon'"),
    ],
)
def test_a_wrong_argument_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
