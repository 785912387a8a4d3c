"""The bench that measures isolation: its table and its bars. Nothing is timed."""

from __future__ import annotations

import math

import pytest

from bench import isolation
from bench.isolation import Round, Waits, main, row

MS = 0.001


def waits(median_s: float, p99_s: float) -> Waits:
    return {"tiny": [median_s] * 97 + [p99_s] * 3}


@pytest.mark.parametrize(
    ("name", "beside", "elsewhere", "met"),
    [
        pytest.param("20 stalled viewers", (1 * MS, 2.19 * MS), None, True, id="just as fast"),
        pytest.param("20 stalled viewers", (1 * MS, 2.21 * MS), None, False, id="slower"),
        pytest.param("viewer: moves", (1 * MS, 2.21 * MS), None, False, id="rests too little"),
        pytest.param("desktop: tiles", (1.9 * MS, 4 * MS), (1 * MS, 4 * MS), True, id="a share"),
        pytest.param(
            "desktop: tiles", (2.1 * MS, 4 * MS), (1 * MS, 4 * MS), False, id="long turns"
        ),
        pytest.param("desktop: tiles", (1.9 * MS, 5 * MS), (1 * MS, 4 * MS), False, id="late"),
        pytest.param("desktop: tiles", (1 * MS, math.inf), (1 * MS, 4 * MS), False, id="never"),
        pytest.param("4 desktops: copies", (4.9 * MS, 5 * MS), (1 * MS, 5 * MS), True, id="four"),
    ],
)
def test_a_bar(
    name: str, beside: tuple[float, float], elsewhere: tuple[float, float] | None, met: bool
) -> None:
    one = Round(waits(1 * MS, 2 * MS), waits(*beside), waits(*elsewhere) if elsewhere else None)
    line, fine = row(name, "tiny", [one, one, one])
    assert fine is met
    assert line.endswith("| met |" if met else "| NOT MET |")


def test_it_prints_a_row_for_each_case_and_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "WARM_UP_S", 0.0)
    main(
        [
            "--secs",
            "0.02",
            "--rounds",
            "1",
            "--cases",
            "nobody,20 viewers that drip,desktop: pixels",
        ]
    )
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    names = ("nobody", "20 viewers that drip", "desktop: pixels")
    assert [tuple(cells[:2]) for cells in rows] == [
        (f"| {name}", size) for name in names for size in isolation.UPDATES
    ]
    for cells in rows:
        assert all(float(cell) > 0 for cell in cells[2:6])


def test_a_wrong_case_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--cases", "nonsense"])
    assert "no case 'nonsense'" in capsys.readouterr().err
