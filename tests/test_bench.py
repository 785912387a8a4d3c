"""The bench script runs each workload and prints its table. Nothing here is timed."""

from __future__ import annotations

import pytest

from bench.__main__ import WORKLOADS, main


def test_every_workload_gives_two_rows(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--secs", "0.1", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * len(WORKLOADS)
    for line in lines[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1] in ("direct", "relay")
        assert float(cells[3]) > 0


def test_an_unknown_workload_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--workloads", "nonsense"])
    assert "no workload 'nonsense'" in capsys.readouterr().err
