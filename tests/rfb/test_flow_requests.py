"""Update requests (RFC 6143, Section 7.5.3): which go up, which wait, and what may come without."""

from __future__ import annotations

import struct

import pytest

from relay.rfb.flow import UNREQUESTED_LIMIT
from tests.labs.flow import Talk
from tests.labs.rfb_messages import CURSOR_ONLY, SET_LARGE, SET_SMALL, begun, raw, request


def test_at_most_one_request_of_each_kind_is_under_way(talk: Talk) -> None:
    assert talk.up(request()) == request()
    assert talk.up(request(incremental=0)) == request(incremental=0)
    for _ in range(50):
        assert talk.up(request() + request(incremental=0) + request(5, 5, 10, 10)) == b""
    # One update may answer both, so one more of each may go, the incremental one behind.
    assert talk.down(raw()) == request(incremental=0)
    assert talk.down(raw()) == request()
    assert talk.down(raw()) == b""


def test_an_incremental_request_waits_for_a_full_one(talk: Talk) -> None:
    assert talk.up(request(incremental=0)) == request(incremental=0)
    assert talk.up(request()) == b""
    assert talk.down(raw()) == request()


def test_a_full_request_for_nothing_holds_nothing_up(talk: Talk) -> None:
    # TigerVNC's server answers it only together with one for something.
    for size in ((0, 0), (0, 9), (9, 0)):
        for incremental in (0, 1):
            nothing = request(0, 0, *size, incremental=incremental)
            assert talk.up(nothing) == nothing
            assert talk.up(nothing + request(0, 0, 0, 1, incremental=incremental)) == b""
            something = request(incremental=incremental)
            assert talk.up(something) == something
            assert talk.up(something + nothing) == b""
            talk.down(raw())
            talk.flow.due()
            talk.down(raw())
        # Nor an incremental one.
        assert talk.up(request(0, 0, *size, incremental=0)) == request(0, 0, *size, incremental=0)
        assert talk.up(request()) == request()
        talk.down(raw())
    nothing = request(0, 0, 0, 9, incremental=0)
    talk.up(nothing)
    talk.flow.viewer_behind = True
    assert talk.up(request(incremental=0)) == b""
    talk.flow.viewer_behind = False
    assert talk.due() == request(incremental=0)


def test_held_requests_become_one_that_covers_them(talk: Talk) -> None:
    talk.flow.viewer_behind = True
    assert talk.up(request(0, 0, 10, 10) + request(630, 470, 10, 10)) == b""
    talk.flow.viewer_behind = False
    assert talk.due() == request()


@pytest.mark.parametrize("turn", [1, -1])
def test_held_requests_are_covered_on_each_side(talk: Talk, turn: int) -> None:
    talk.flow.viewer_behind = True
    held = [request(50, 60, 10, 10), request(5, 70, 10, 10), request(70, 7, 10, 20)]
    assert talk.up(b"".join(held[::turn])) == b""
    talk.flow.viewer_behind = False
    assert talk.due() == request(5, 7, 75, 73)


def test_a_request_that_was_held_is_under_way(talk: Talk) -> None:
    talk.flow.viewer_behind = True
    for incremental in (1, 0):
        talk.up(request(incremental=incremental))
        assert talk.flow.holding
        talk.flow.viewer_behind = False
        assert talk.due() == request(incremental=incremental)
        assert talk.due() == b""
        talk.flow.viewer_behind = True
    talk.flow.viewer_behind = False
    # So the next one waits, and so does a format.
    assert talk.up(request() + SET_SMALL) == b""
    assert talk.down(raw(4)) == b""
    assert talk.down(raw(4)) == SET_SMALL + request()


def test_what_is_due_is_due_once(fenced: Talk) -> None:
    fenced.up(request() + request())
    buf = bytearray(raw())
    fenced.conversation.down.judge(buf, 0, len(buf))
    assert fenced.flow.wake
    assert fenced.due() == request()
    assert not fenced.flow.wake


# Requests for more than is under way.


@pytest.mark.parametrize("incremental", [0, 1])
def test_a_request_for_more_than_is_under_way_goes_up_when_that_is_late(
    talk: Talk, incremental: int
) -> None:
    # Nothing may change in the part that was asked for.
    first = request(0, 0, 10, 10, incremental=incremental)
    beyond = request(0, 0, 11, 10, incremental=incremental)
    assert talk.up(first) == first
    assert talk.up(first) == b""
    assert not talk.waiting(), "it has been asked for"
    talk.flow.expire()
    assert talk.due() == b""
    assert talk.up(beyond) == b""
    assert talk.waiting()
    talk.flow.expire()
    assert talk.flow.wake
    assert talk.due() == beyond
    assert not talk.waiting()
    # It is under way now, beside the other.
    assert talk.up(beyond + first) == b""
    assert talk.down(raw()) == beyond


@pytest.mark.parametrize(
    "area", [(99, 100, 50, 50), (100, 99, 50, 50), (100, 100, 51, 50), (100, 100, 50, 51)]
)
def test_a_request_that_reaches_beyond_one_side(
    talk: Talk, area: tuple[int, int, int, int]
) -> None:
    assert talk.up(request(100, 100, 50, 50))
    assert talk.up(request(100, 100, 50, 50) + request(101, 102, 40, 30)) == b""
    assert not talk.waiting()
    assert talk.up(request(*area)) == b""
    assert talk.waiting()


def test_a_request_for_more_goes_up_at_the_answer_to_another(talk: Talk) -> None:
    talk.up(request(0, 0, 10, 10))
    assert talk.up(request()) == b""
    assert talk.down(raw()) == request()
    assert not talk.waiting()


def test_an_incremental_request_for_more_than_a_full_one(talk: Talk) -> None:
    talk.up(request(0, 0, 10, 10, incremental=0))
    assert talk.up(request(0, 0, 10, 10)) == b""
    assert not talk.waiting()
    assert talk.up(request()) == b""
    assert talk.waiting()
    talk.flow.expire()
    assert talk.due() == request()


def test_a_viewer_that_is_behind_gets_nothing_for_a_late_request(talk: Talk) -> None:
    talk.up(request(0, 0, 10, 10))
    talk.flow.viewer_behind = True
    assert talk.up(request()) == b""
    talk.flow.expire()
    assert not talk.flow.wake
    assert talk.due() == b""
    talk.flow.viewer_behind = False
    talk.flow.expire()
    assert talk.due() == request()


# What is held back.


def test_each_wait_is_counted_once(talk: Talk) -> None:
    talk.up(request(0, 0, 10, 10) + request(0, 0, 9, 9))
    assert talk.flow.waits == 0
    talk.up(request(0, 0, 11, 10) + request(0, 0, 12, 10))
    assert talk.flow.waits == 1
    talk.down(raw())
    talk.up(SET_SMALL + SET_LARGE + SET_SMALL)
    assert talk.flow.waits == 2
    talk.down(raw(4))
    talk.up(request() + SET_LARGE)
    assert talk.flow.waits == 3


def test_a_held_request_fits_the_size_of_then(talk: Talk) -> None:
    talk.up(request())
    talk.up(request())
    smaller = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 320, 200, -223)
    assert talk.down(smaller) == request(0, 0, 320, 200)


def test_while_the_viewer_is_behind_nothing_is_asked_for(talk: Talk) -> None:
    talk.flow.viewer_behind = True
    key = bytes.fromhex("0401000000000061")
    assert talk.up(request() + key) == key
    assert talk.flow.holding
    assert not talk.waiting(), "for the viewer, not for the desktop"
    assert talk.down(CURSOR_ONLY) == b""
    talk.flow.viewer_behind = False
    assert talk.due() == request()
    assert not talk.flow.holding


def test_nothing_goes_up_inside_a_message(talk: Talk) -> None:
    talk.up(request())
    talk.up(request())
    begun = struct.pack(">Bxxxi", 6, 10) + b"half "
    assert talk.up(begun) == begun
    assert talk.down(raw()) == b""
    assert talk.up(b"and h") == b"and h" + request()


def test_what_was_held_goes_up_behind_a_message_under_way(talk: Talk) -> None:
    talk.flow.viewer_behind = True
    begun = struct.pack(">Bxxxi", 6, 10) + b"half "
    assert talk.up(request() + begun) == begun
    talk.flow.viewer_behind = False
    assert talk.due() == b""
    assert talk.up(b"and h") == b"and h" + request()


def test_a_request_waits_behind_a_format(talk: Talk) -> None:
    assert talk.up(request(0, 0, 9, 9) + SET_SMALL + request()) == request(0, 0, 9, 9)
    assert talk.down(raw(4)) == SET_SMALL + request()


# Updates that nobody asked for.


def test_updates_that_nobody_asked_for_are_bounded(talk: Talk) -> None:
    talk.up(request())
    assert UNREQUESTED_LIMIT == 64
    for _ in range(1 + UNREQUESTED_LIMIT):
        talk.down(raw() + CURSOR_ONLY)
    assert talk.refused(raw()) == "unrequested-updates"


def test_each_request_permits_as_many_updates_again(talk: Talk) -> None:
    for _ in range(3):
        talk.up(request())
        for _ in range(1 + 64):
            talk.down(raw())
        talk.flow.viewer_behind = True
        talk.up(request())
        talk.flow.viewer_behind = False
        assert talk.due() == request()
        for _ in range(1 + 64):
            talk.down(raw())
    assert talk.refused(raw()) == "unrequested-updates"


def test_an_update_in_two_pieces_has_pixels_in_the_first(talk: Talk) -> None:
    first, second = begun(raw()[4:], 2), CURSOR_ONLY[4:]
    for _ in range(64):
        talk.down(first)
        talk.down(second)
    talk.down(first)
    assert talk.refused(second) == "unrequested-updates"
