"""Continuous updates stop while the viewer is behind."""

from __future__ import annotations

import pytest

from tests.rfb.test_flow import (
    END,
    SET_SMALL,
    Talk,
    enable,
    fenced,
    raw,
    request,
    talk,
)

# The fixtures.
__all__ = ["fenced", "talk"]


def behind(talk: Talk, now: bool) -> bytes:
    """What goes up when the viewer falls behind, or is not any more."""
    talk.flow.viewer_behind = now
    return talk.due()


def ends_seen(talk: Talk, count: int) -> int:
    """Of so many ends of continuous updates, how many the viewer gets to see."""
    reader = talk.conversation.down
    seen = 0
    for _ in range(count):
        assert reader.judge(bytearray(END), 0, 1) == 1
        seen += not reader.edits
    return seen


def test_they_stop_and_go_on(fenced: Talk) -> None:
    fenced.up(enable(1, 600))
    for _ in range(3):
        assert behind(fenced, True) == enable(0, 600)
        assert behind(fenced, True) == b""
        # What the desktop had begun.
        fenced.down(raw())
        assert behind(fenced, False) == enable(1, 600)
        assert behind(fenced, False) == b""
        assert ends_seen(fenced, 1) == 0, "the viewer did not ask for this end"
        fenced.down(raw())


def test_without_them_nothing_is_said(fenced: Talk) -> None:
    for wire in (b"", enable(1) + enable(0)):
        fenced.up(wire)
        assert behind(fenced, True) == behind(fenced, False) == b""


def test_a_stop_waits_for_the_end_of_the_last(fenced: Talk) -> None:
    fenced.up(enable(1))
    assert behind(fenced, True) + behind(fenced, False) == enable(0) + enable(1)
    for _ in range(1000):
        assert behind(fenced, True) + behind(fenced, False) == b""
    fenced.down(END)
    assert behind(fenced, True) == enable(0)


@pytest.mark.parametrize("late", [False, True])
def test_a_viewer_that_switches_them_off_meanwhile(fenced: Talk, late: bool) -> None:
    fenced.up(enable(1))
    behind(fenced, True)
    if late:
        assert ends_seen(fenced, 1) == 0
    assert fenced.up(enable(0)) == enable(0)
    assert ends_seen(fenced, 1 if late else 2) == 1
    assert behind(fenced, False) == b""
    assert fenced.up(request()) == request()


def test_a_viewer_that_switches_them_on_again_meanwhile(fenced: Talk) -> None:
    fenced.up(enable(1))
    behind(fenced, True)
    assert fenced.up(enable(1, 600)) == enable(1, 600)
    fenced.down(END)
    assert behind(fenced, True) == enable(0, 600)


def test_a_format_meanwhile(fenced: Talk) -> None:
    fenced.up(enable(1))
    behind(fenced, True)
    assert fenced.up(SET_SMALL) == b""
    assert behind(fenced, False) == b""
    fenced.down(raw(4))
    # What was hidden from a viewer that believes in the new format is asked for again.
    again = request(0, 0, 3, 1, incremental=0)
    assert fenced.down(END) == enable(0) + SET_SMALL + enable(1) + again
    fenced.down(raw(4))
    fenced.down(END)
    fenced.down(raw(1))
    assert behind(fenced, True) == enable(0)
