"""The table of the measurement of lag, and its arguments. Nothing is timed."""

from __future__ import annotations

import pytest

from bench.lag.__main__ import main
from bench.lag.measuring import Run, rows
from bench.lag.ways import missing, websockify
from tests.labs.namespaces import before, namespaces

__all__ = ["before"]  # the fixture


class TestTable:
    def test_percentiles(self) -> None:
        run = Run([milliseconds / 1000 for milliseconds in range(100, 0, -1)], 1.0)
        assert [run.percentile_ms(p) for p in (50, 95, 99, 100)] == pytest.approx([50, 95, 99, 100])
        assert Run([0.007], 1.0).percentile_ms(50) == pytest.approx(7)

    def test_the_medians_of_rounds_beside_those_of_direct(self) -> None:
        runs = {
            "direct": [Run([0.1], 10.0), Run([0.2], 20.0), Run([0.9], 30.0)],
            "relay": [Run([0.1, 0.3], 15.0)] * 3,
        }
        assert list(rows("case", runs)) == [
            "| case | direct | 200 | 200 | 200 | 200 | 20.0 | 3 | 1.00 |",
            "| case | relay | 100 | 300 | 300 | 300 | 15.0 | 6 | 1.50 |",
        ]

    @pytest.mark.parametrize("case", ["synthetic-continuous", "xvnc-requests"])
    def test_a_case_has_a_row_for_each_way(
        self, case: str, before: set[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        if lacking := missing(case.partition("-")[0]):
            pytest.skip(lacking)
        program = websockify()
        ways = ["direct", "relay"] + ["websockify"] * (program is not None)
        main(["--cases", case, "--rounds", "1", "--secs", "0.1"])
        out = capsys.readouterr().out
        assert ("websockify is left out" in out) == (program is None)
        table = [line.split(" | ") for line in out.splitlines() if line.startswith("| " + case)]
        assert [row[1] for row in table] == ways
        for _, _, p50, _, _, worst, updates_per_s, keys, _ in table:
            assert 0 < float(p50) <= float(worst)
            assert float(updates_per_s) > 0
            assert int(keys) > 0
        assert namespaces() == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--cases", "nonsense"], "no case 'nonsense'"),
            (["--rounds", "0"], "must be more than 0"),
            (["--secs", "nan"], "must be more than 0"),
        ],
    )
    def test_a_wrong_argument_is_named(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err

    def test_what_is_missing_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        assert missing("xvnc") == "Xvnc is not installed"
        assert missing("synthetic") == ""
