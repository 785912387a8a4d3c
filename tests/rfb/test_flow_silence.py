"""What silence tells of requests, and what a viewer does not see meanwhile."""

from __future__ import annotations

import struct

import pytest

from tests.labs.flow import Talk
from tests.labs.peers import BELL
from tests.labs.rfb_messages import (
    CURSOR_ONLY,
    END,
    SET_LARGE,
    SET_SMALL,
    answer,
    begun,
    copyrect,
    enable,
    raw,
    request,
)


def silence(talk: Talk, wanted: bytes) -> None:
    """A format that waits, and nothing comes any more."""
    assert talk.up(wanted) == b""
    talk.flow.expire()
    assert talk.due() == wanted


def settled(talk: Talk, wanted: bytes, bytes_per_pixel: int) -> None:
    """A format that waits, for which a pixel is asked for; that comes, and nothing more."""
    assert talk.up(wanted) == b""
    talk.flow.expire()
    assert talk.due() == request(0, 0, 1, 1, incremental=0)
    assert talk.down(raw(bytes_per_pixel)) == b""
    talk.flow.expire()
    assert talk.due() == b""
    talk.flow.expire()
    assert talk.due() == wanted + request(0, 0, 3, 1, incremental=0)
    assert talk.down(raw({4: 1, 1: 4}[bytes_per_pixel])) == b""


# One pixel is asked for.


def test_without_fences_one_pixel_is_asked_for(talk: Talk) -> None:
    talk.up(request() + SET_SMALL)
    talk.flow.expire()
    assert talk.due() == request(0, 0, 1, 1, incremental=0)
    # One update for both requests, or another to come: silence behind an answer tells.
    assert talk.down(raw(4)) == b""
    talk.flow.expire()
    assert talk.due() == b""
    talk.flow.expire()
    assert talk.due() == SET_SMALL
    assert talk.bits == 8


def test_silence_of_a_desktop_that_answers_nothing_tells_nothing(talk: Talk) -> None:
    talk.up(request() + request(incremental=0))
    talk.down(raw(4))
    assert talk.up(SET_SMALL) == b""
    talk.flow.expire()
    assert talk.due() == request(0, 0, 1, 1, incremental=0)
    for _ in range(10):
        talk.flow.expire()
        assert talk.due() == b""
    assert talk.down(raw(4)) == b""
    talk.flow.expire()
    assert talk.due() == b""
    # Whatever comes begins the silence anew; as many as were asked for, and it is certain.
    assert talk.down(CURSOR_ONLY) == b""
    # What the viewer has not seen is asked for again.
    assert talk.down(raw(4)) == SET_SMALL + request(0, 0, 3, 1, incremental=0)


def test_a_pixel_that_a_cursor_came_for_is_asked_for_again(talk: Talk) -> None:
    # Xvnc 1.12 answers with a cursor that is due, and with nothing else.
    talk.up(request() + request(incremental=0))
    talk.down(raw(4))
    assert talk.up(SET_SMALL) == b""
    for _ in range(3):
        talk.flow.expire()
        assert talk.due() == request(0, 0, 1, 1, incremental=0)
        assert talk.down(CURSOR_ONLY) == b""
    talk.flow.expire()
    assert talk.due() == request(0, 0, 1, 1, incremental=0)
    # Behind the pixels a cursor changes nothing.
    assert talk.down(raw(4) + CURSOR_ONLY) == b""
    talk.flow.expire()
    assert talk.due() == b""
    talk.flow.expire()
    assert talk.due() == SET_SMALL + request(0, 0, 3, 1, incremental=0)


def test_an_answer_in_between_begins_the_silence_anew(talk: Talk) -> None:
    talk.up(request() + request(incremental=0))
    talk.down(raw(4))
    talk.up(request() + SET_SMALL)
    talk.flow.expire()
    assert talk.due() == request(0, 0, 1, 1, incremental=0)
    for _ in range(2):
        assert talk.down(raw(4)) == b""
        talk.flow.expire()
        assert talk.due() == b""
    talk.flow.expire()
    assert talk.due() == SET_SMALL


def test_one_pixel_is_asked_for_each_time(talk: Talk) -> None:
    for wanted, before in ((SET_SMALL, 4), (SET_LARGE, 1)):
        talk.up(request())
        assert talk.up(wanted) == b""
        talk.flow.expire()
        assert talk.flow.wake
        assert talk.due() == request(0, 0, 1, 1, incremental=0)
        for _ in range(20):
            talk.flow.expire()
            assert talk.due() == b"", "it is not asked for twice, and silence tells nothing"
        # A desktop that was stopped, say, and now answers what it was asked before it reads on.
        assert talk.down(raw(before)) == b""
        assert talk.down(raw(before)) == wanted


def test_the_pixel_that_was_asked_for_is_waited_for(talk: Talk) -> None:
    talk.up(request() + SET_SMALL)
    talk.flow.expire()
    talk.due()
    assert talk.down(raw(4)) == b""
    assert talk.down(raw(4)) == SET_SMALL


# Whether updates without pixels are answers.


def test_whether_a_cursor_answers_a_request_is_learned_from_silence(talk: Talk) -> None:
    talk.up(request())
    talk.down(CURSOR_ONLY)
    assert talk.up(SET_SMALL) == b""
    talk.flow.expire()
    assert talk.due() == SET_SMALL
    # As TigerVNC and libvncserver do; so the next one need not wait.
    talk.up(request())
    talk.down(CURSOR_ONLY)
    assert talk.up(SET_LARGE) == SET_LARGE


def test_a_desktop_that_answers_after_a_cursor_is_waited_for(talk: Talk) -> None:
    talk.up(request())
    talk.down(CURSOR_ONLY)
    assert talk.up(SET_SMALL) == b""
    talk.flow.expire()
    assert talk.due() == SET_SMALL
    # As QEMU does: nobody asked for this one, so the cursor was no answer.
    talk.down(raw(1))
    talk.up(request())
    talk.down(CURSOR_ONLY)
    assert talk.up(SET_LARGE) == b""
    assert talk.down(raw(1)) == SET_LARGE + request(0, 0, 3, 1, incremental=0)


def test_one_cursor_for_two_requests_tells_nothing(talk: Talk) -> None:
    for wanted, before in ((SET_SMALL, 4), (SET_LARGE, 1)):
        talk.up(request() + request(incremental=0))
        talk.down(CURSOR_ONLY)
        settled(talk, wanted, before)
    talk.up(request())
    talk.down(CURSOR_ONLY)
    assert talk.up(SET_SMALL) == b""


def test_cursors_beside_one_that_answers_tell_nothing(talk: Talk) -> None:
    # The pixels may have answered both requests.
    talk.up(request() + request(incremental=0))
    talk.down(CURSOR_ONLY + raw() + CURSOR_ONLY)
    settled(talk, SET_SMALL, 4)
    talk.up(request())
    talk.down(CURSOR_ONLY)
    assert talk.up(SET_LARGE) == b""


def test_after_an_answer_cursors_tell_again(talk: Talk) -> None:
    talk.up(request() + request(incremental=0))
    talk.down(raw() + raw())
    talk.up(request())
    talk.down(CURSOR_ONLY)
    silence(talk, SET_SMALL)
    talk.up(request())
    talk.down(CURSOR_ONLY)
    assert talk.up(SET_LARGE) == SET_LARGE


def test_cursors_around_continuous_updates_tell_nothing(talk: Talk) -> None:
    talk.down(END)
    talk.up(request())
    talk.down(CURSOR_ONLY)
    talk.up(enable(1))
    talk.down(raw())
    talk.up(enable(0))
    talk.down(END + CURSOR_ONLY)
    settled(talk, SET_SMALL, 4)


def test_after_a_silence_cursors_tell_again(talk: Talk) -> None:
    talk.up(request() + request(incremental=0) + SET_SMALL)
    talk.flow.expire()
    assert talk.due() == request(0, 0, 1, 1, incremental=0)
    talk.down(raw(4))
    talk.flow.expire()
    talk.flow.expire()
    assert talk.due() == SET_SMALL
    talk.up(request())
    talk.down(CURSOR_ONLY)
    silence(talk, SET_LARGE)


def test_many_cursors_for_one_request_tell_too(talk: Talk) -> None:
    talk.up(request())
    talk.down(CURSOR_ONLY * 3)
    silence(talk, SET_SMALL)
    talk.up(request())
    talk.down(CURSOR_ONLY)
    assert talk.up(SET_LARGE) == SET_LARGE


def test_a_desktop_that_answers_after_a_cursor_is_not_doubted_again(talk: Talk) -> None:
    talk.down(raw())
    for wanted in (SET_SMALL, SET_LARGE, SET_SMALL):
        talk.up(request())
        talk.down(CURSOR_ONLY)
        silence(talk, wanted)


# What a viewer does not see.

NO_RECTANGLE = bytes(12)
HEXTILE = struct.pack(">HHHHi", 5, 6, 17, 16, 5) + b"\x01" + bytes(1024) + b"\x02abcd"
CURSOR = struct.pack(">HHHHi", 0, 0, 2, 2, -239) + bytes(16 + 2)
ALPHA = struct.pack(">HHHHii", 0, 0, 1, 1, -314, 5) + b"\x01rgba"
NAME = struct.pack(">HHHHiI", 0, 0, 0, 0, -307, 3) + b"new"


@pytest.mark.parametrize("size", [0, 1, 2, 7, 100])
def test_pixels_in_a_format_that_is_believed_to_be_over_are_hidden(talk: Talk, size: int) -> None:
    # QEMU: an update without pixels, which the viewer takes for the answer, then the answer.
    talk.up(request())
    talk.down(CURSOR_ONLY)
    assert talk.up(SET_SMALL + request()) == b""
    copied = copyrect()[4:]
    rectangles = [raw()[4:], NAME, HEXTILE, CURSOR, ALPHA, copied, raw()[4:]]
    seen = talk.shown(begun(b"".join(rectangles), 7) + BELL, size)
    hidden = [NO_RECTANGLE, NAME, NO_RECTANGLE, NO_RECTANGLE, ALPHA, *[NO_RECTANGLE] * 2]
    assert seen == begun(b"".join(hidden), 7) + BELL
    # All of it is asked for in the new format, and nothing of the next update is hidden.
    full = request(0, 0, 22, 22, incremental=0)
    assert talk.due() == SET_SMALL + full
    assert talk.shown(raw(1), size) == raw(1)


def test_pixels_behind_a_fence_are_hidden_until_the_format_holds(fenced: Talk) -> None:
    fenced.up(request() + request(incremental=0))
    fenced.down(raw(4))
    assert fenced.up(SET_SMALL).endswith(SET_SMALL)
    assert fenced.shown(raw(4)) == begun(NO_RECTANGLE, 1)
    assert fenced.due() == request(0, 0, 3, 1, incremental=0)
    assert fenced.shown(answer(b"F", 1) + raw(1)) == raw(1)


def test_a_request_between_two_formats_shows_nothing_again(fenced: Talk) -> None:
    fenced.up(request() + request(incremental=0))
    fenced.down(raw(4))
    assert fenced.up(SET_SMALL + request()).endswith(SET_SMALL + request())
    assert fenced.up(SET_LARGE) == b""
    assert fenced.shown(raw(4)) == begun(NO_RECTANGLE, 1)
    assert fenced.shown(answer(b"F", 1) + raw(1)) == begun(NO_RECTANGLE, 1)


def test_an_update_that_has_begun_is_shown(talk: Talk) -> None:
    # TigerVNC's viewer sends the format when an update begins, and it holds from its end on.
    talk.up(request() + request(incremental=0))
    assert talk.shown(begun(raw()[4:], 2)) == begun(raw()[4:], 2)
    assert talk.up(SET_SMALL) == b""
    assert talk.shown(raw()[4:]) == raw()[4:]
    assert talk.shown(raw()) == begun(NO_RECTANGLE, 1)
    assert talk.due() == SET_SMALL + request(0, 0, 3, 1, incremental=0)


def test_a_viewer_that_waits_for_its_answer_sees_it(talk: Talk) -> None:
    talk.up(request() + SET_SMALL)
    assert talk.shown(raw()) == raw()
    assert talk.due() == SET_SMALL
