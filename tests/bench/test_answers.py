"""The benchmark of long lists measures a real server, here with short ones."""

from __future__ import annotations

import pytest

from bench import answers


def test_a_short_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("CHATS", 500), ("MESSAGES", 3), ("EMOJI", 1_000), ("WARM_UP_S", 0.1)):
        monkeypatch.setattr(answers, name, value)
    # A machine on which others work may be too busy for the bars, and says so.
    monkeypatch.setattr(answers, "DELAY_BAR_S", 60.0)
    cases = ["8 read chats", "1 reads messages", "8 follow and do not read"]
    assert answers.main(["--rounds", "1", "--secs", "0.3", "--cases", ",".join(cases)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == cases
    assert all(line.endswith("| met |") for line in lines[2:])


def test_a_bar_that_is_not_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(_server: object, name: str, _seconds: float) -> answers.Round:
        late_s = 0.2 if name == noticed else 0.001
        return answers.Round([0.001] * 10, [late_s] * 10, 0.0)

    monkeypatch.setattr(answers, "measure", measured)
    for name in ("CHATS", "MESSAGES"):
        monkeypatch.setattr(answers, name, 1)
    for noticed, status in (("none", 0), ("1 reads chats", 1), ("nobody", 0)):
        assert answers.main(["--rounds", "1", "--cases", "nobody,1 reads chats"]) == status
        assert ("NOT MET" in capsys.readouterr().out) == (noticed != "none")
