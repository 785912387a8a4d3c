"""Continuous updates: when they are on, their ends, and formats that change in between (community
specification, EnableContinuousUpdates)."""

from __future__ import annotations

import pytest

from relay.rfb.continuous_updates import ENDS_LIMIT
from relay.rfb.flow import UNREQUESTED_LIMIT
from tests.labs.flow import Talk
from tests.labs.peers import PIXEL_FORMAT
from tests.labs.rfb_messages import (
    BGR233,
    CURSOR_ONLY,
    END,
    SET_16,
    SET_LARGE,
    SET_SMALL,
    answer,
    enable,
    raw,
    request,
)


def test_in_continuous_updates_nothing_is_asked_for(fenced: Talk) -> None:
    # "The server must ignore all incremental update requests"; TigerVNC forgets earlier ones too.
    fenced.up(request() + request())
    assert fenced.up(enable(1)) == enable(1)
    assert fenced.up(request()) == b""
    assert fenced.down(raw()) == b""
    full = request(incremental=0)
    assert fenced.up(full) == full
    fenced.down(raw())
    fenced.up(enable(0))
    fenced.down(END)
    assert fenced.up(request()) == request()
    assert fenced.down(raw()) == b""


def test_a_request_from_before_continuous_updates_is_asked_again(fenced: Talk) -> None:
    fenced.up(request() + enable(1) + enable(0))
    fenced.down(END)
    assert fenced.up(request()) == request()


def test_continuous_updates_are_not_bounded(fenced: Talk) -> None:
    fenced.up(enable(1))
    for _ in range(3 * UNREQUESTED_LIMIT):
        fenced.down(raw())


def test_updates_until_the_end_are_those_of_continuous_updates(fenced: Talk) -> None:
    fenced.up(enable(1) + enable(0))
    for _ in range(200):
        fenced.down(raw())
    fenced.down(END)
    for _ in range(64):
        fenced.down(raw())
    assert fenced.refused(raw()) == "unrequested-updates"


def test_continuous_updates_that_were_held_are_on(fenced: Talk) -> None:
    fenced.up(request() + SET_SMALL)
    assert fenced.up(enable(1)) == b""
    assert fenced.down(raw(4)) == SET_SMALL + enable(1)
    assert fenced.due() == b""
    for _ in range(200):
        fenced.down(raw(1))


# Ends.


def test_an_end_that_only_announces_goes_to_the_viewer(fenced: Talk) -> None:
    fenced.up(enable(1))
    end = bytearray(END)
    assert fenced.conversation.down.judge(end, 0, 1) == 1
    assert not fenced.conversation.down.edits


def test_more_ends_than_there_can_be(fenced: Talk) -> None:
    assert fenced.refused(END) == "continuous-updates-end"


def test_ends_that_never_come_are_bounded(fenced: Talk) -> None:
    assert ENDS_LIMIT == 256
    fenced.up(enable(0) * ENDS_LIMIT)
    assert not fenced.rule()
    fenced.up(enable(0))
    assert fenced.rule() == "continuous-updates-flood"


@pytest.mark.parametrize("ons", [0, 1, 3])
def test_each_end_that_is_held_is_asked_for(fenced: Talk, ons: int) -> None:
    fenced.up(request() + SET_SMALL)
    assert fenced.up(enable(1) + enable(0) + enable(0) + enable(1) * ons) == b""
    on = enable(1) if ons else b""
    assert fenced.down(raw(4)) == SET_SMALL + enable(1) + enable(0) * 2 + on
    fenced.down(END * 2)
    assert fenced.due() == b""


def test_held_ends_leave_room_for_the_format(fenced: Talk) -> None:
    fenced.up(request(incremental=0) + enable(1) + SET_SMALL + enable(0) * (ENDS_LIMIT - 1))
    assert not fenced.rule()
    assert fenced.down(raw(4)).endswith(SET_SMALL + enable(0) * (ENDS_LIMIT - 1))
    fenced.up(enable(0))
    assert not fenced.rule()
    fenced.up(enable(0))
    assert fenced.rule() == "continuous-updates-flood"


def test_an_end_that_is_held_counts_too(fenced: Talk) -> None:
    # Two requests that one update answers, so that a format goes behind a fence at once.
    fenced.up(request() + request(incremental=0))
    fenced.down(raw())
    assert fenced.up(SET_SMALL).endswith(SET_SMALL)
    fenced.up(enable(0) * ENDS_LIMIT + SET_LARGE)
    assert fenced.rule() == ""
    fenced.up(enable(0))
    assert fenced.rule() == "continuous-updates-flood"
    fenced.down(answer(b"F", 1))
    assert fenced.due() == b""


# Formats in between.


def test_in_continuous_updates_a_format_changes_between_off_and_on(fenced: Talk) -> None:
    assert fenced.up(enable(1, 600)) == enable(1, 600)
    assert fenced.up(SET_SMALL) == enable(0, 600) + SET_SMALL + enable(1, 600)
    fenced.down(raw(4))
    end = bytearray(END)
    reader = fenced.conversation.down
    assert reader.judge(end, 0, 1) == 1
    assert reader.edits == [(0, 1, b"")], "the viewer did not ask for this end"
    assert fenced.bits == 8
    fenced.down(raw(1))


def test_a_viewer_that_changes_between_off_and_on_itself(fenced: Talk) -> None:
    # As TigerVNC's viewer does (capture tiger-vncviewer-pfchange).
    fenced.up(enable(1))
    for fmt, before, after in ((SET_SMALL, 4, 1), (SET_LARGE, 1, 4)):
        wire = enable(0) + fmt + enable(1)
        assert fenced.up(wire) == wire
        fenced.down(raw(before))
        end = bytearray(END)
        assert fenced.conversation.down.judge(end, 0, 1) == 1
        assert not fenced.conversation.down.edits
        fenced.down(raw(after))


def test_of_formats_in_continuous_updates_the_last_counts(fenced: Talk) -> None:
    fenced.up(enable(1))
    toggle = enable(0) + SET_SMALL + enable(1)
    assert fenced.up(SET_SMALL + (SET_LARGE + SET_SMALL) * ENDS_LIMIT + SET_LARGE) == toggle
    fenced.down(raw(4))
    again = request(0, 0, 3, 1, incremental=0)
    assert fenced.down(END) == enable(0) + SET_LARGE + enable(1) + again
    fenced.down(raw(1) + END + raw(4))


# The same sizes with the channels the other way round.
SET_SMALL_TURNED = b"\0\0\0\0" + BGR233[:10] + b"\x05\x02\x00" + bytes(3)
SET_LARGE_TURNED = b"\0\0\0\0" + PIXEL_FORMAT[:10] + b"\x00\x08\x10" + bytes(3)


def test_a_format_of_the_same_sizes_between_off_and_on(fenced: Talk) -> None:
    fenced.up(enable(1) + enable(0))
    # Nothing of the framing changes, so it holds at once ...
    assert fenced.up(SET_LARGE_TURNED) == SET_LARGE_TURNED
    assert fenced.conversation.state.pixel_format.red_shift == 0
    # ... unless one that changes it holds from the end on.
    assert fenced.up(SET_SMALL + SET_SMALL_TURNED) == SET_SMALL + SET_SMALL_TURNED
    fenced.down(raw(4) + END + raw(1))
    assert fenced.conversation.state.pixel_format.red_shift == 5


def test_many_changes_in_continuous_updates(fenced: Talk) -> None:
    fenced.up(enable(1))
    for wanted, before, after in ((SET_SMALL, 4, 1), (SET_16, 1, 2), (SET_LARGE, 2, 4)) * 3:
        assert fenced.up(wanted) == enable(0) + wanted + enable(1)
        fenced.down(raw(before) + END + raw(after))
    # Some answer each EnableContinuousUpdates with an end, those that switch on too (what the
    # specification says of it contradicts itself): as many more, and the first is an announcement.
    for _ in range(10):
        fenced.down(END)
    assert fenced.refused(END) == "continuous-updates-end"


def test_a_format_behind_the_end_that_brings_another(fenced: Talk) -> None:
    # As a viewer may write it in one go: the first end brings one format, the second the other.
    wire = enable(0) + SET_SMALL + enable(1) + enable(0) + SET_LARGE + enable(1)
    assert fenced.up(enable(1) + wire) == enable(1) + wire
    fenced.down(raw(4) + END)
    assert fenced.bits == 8
    fenced.down(raw(1) + END)
    assert fenced.bits == 32
    fenced.down(raw(4))


def test_a_format_goes_behind_a_fence_before_the_last_end(fenced: Talk) -> None:
    fenced.up(request() + SET_SMALL)
    fenced.flow.expire()
    fenced.due()
    fenced.up(enable(1) + enable(0))
    assert fenced.up(SET_LARGE) == b""
    fenced.down(raw(4))
    assert fenced.down(answer(b"F", 1)) == b""
    # The request may still be answered behind the end.
    assert fenced.down(raw(1) + END) == (
        answer(b"F", 2, 1 << 31 | 4) + SET_LARGE + request(0, 0, 3, 1, incremental=0)
    )
    fenced.down(raw(1) + answer(b"F", 2) + raw(4))


def test_a_format_does_not_change_at_an_end_behind_a_request(fenced: Talk) -> None:
    # The desktop sends the end as soon as it has read the message; the picture comes behind it.
    fenced.up(enable(1) + enable(0) + request(incremental=0))
    assert fenced.up(SET_SMALL) == b""
    assert fenced.down(END) == b""
    assert fenced.down(raw(4)) == SET_SMALL
    fenced.down(raw(1))


def test_nor_does_the_relay_switch_off_and_on_behind_a_request(fenced: Talk) -> None:
    fenced.up(request(incremental=0) + enable(1))
    assert fenced.up(SET_SMALL) == b""
    # It may be of continuous updates, and the answer still to come.
    assert fenced.down(raw(4)) == answer(b"F", 1, 1 << 31 | 4) + SET_SMALL
    fenced.down(raw(4) + answer(b"F", 1) + raw(1))


def test_without_fences_it_does_when_nothing_comes(talk: Talk) -> None:
    talk.down(END)
    talk.up(request(incremental=0) + enable(1))
    assert talk.up(SET_SMALL) == b""
    assert talk.down(raw(4)) == b""
    talk.flow.expire()
    assert talk.due() == request(0, 0, 1, 1, incremental=0)
    talk.flow.expire()
    assert talk.due() == b""
    assert talk.down(raw(4)) == b""
    talk.flow.expire()
    assert talk.due() == enable(0) + SET_SMALL + enable(1)
    # The end is waited for, however long.
    assert talk.up(SET_LARGE) == b""
    talk.flow.expire()
    assert not talk.flow.wake
    again = request(0, 0, 3, 1, incremental=0)
    assert talk.down(raw(4) + END) == enable(0) + SET_LARGE + enable(1) + again
    # A cursor is no answer, and none has been asked for.
    talk.down(CURSOR_ONLY + END + raw(4))
    assert talk.flow._bare_answers is None


def test_a_late_format_goes_behind_a_fence_inside_continuous_updates(fenced: Talk) -> None:
    fenced.up(enable(1))
    assert fenced.up(SET_SMALL) == enable(0) + SET_SMALL + enable(1)
    assert fenced.up(SET_16) == b""
    fenced.flow.expire()
    assert fenced.due() == answer(b"F", 1, 1 << 31 | 4) + SET_16
    # The same sizes, so at once: it is about the format behind the fence.
    turned = SET_16[:14] + b"\x00\x05\x0b" + bytes(3)
    assert fenced.up(turned) == turned
    fenced.down(raw(4) + END + raw(1) + answer(b"F", 1) + raw(2))
    assert fenced.conversation.state.pixel_format.red_shift == 0


# Those of a viewer that is behind stop.


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
