"""What reading a rectangle costs is told of each encoding."""

from __future__ import annotations

import pytest

from bench import framing
from relay.rfb import encodings
from tests.labs import captures


def test_framing_has_a_row_for_each_encoding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    captures.load("tiger-novnc-basic")  # or there are none, and the test is skipped
    monkeypatch.setattr(framing, "ROUNDS", 1)
    monkeypatch.setattr(framing, "RECTANGLES", 1)
    framing.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert {int(row[0]) for row in rows} == set(encodings.REGISTRY)
    with_bars = {int(row[0]) for row in rows if "met" in row or "MET" in row}
    assert with_bars == set(framing.BARS_US)
