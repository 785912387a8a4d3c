"""What is under way, where several things are at once, or something comes late or twice."""

from __future__ import annotations

import struct

import pytest

from relay.limits import Limits
from relay.rfb.continuous_updates import ENDS_LIMIT
from relay.rfb.conversation import Conversation
from relay.rfb.errors import ProtocolError
from relay.rfb.fences import OUR_FENCE
from tests.labs.peers import INIT, PIXEL_FORMAT
from tests.rfb.test_flow import (
    CURSOR_ONLY,
    END,
    SET_LARGE,
    SET_SMALL,
    SMALL,
    Talk,
    copyrect,
    enable,
    fence,
    fenced,
    offers,
    raw,
    request,
    talk,
)

# The fixtures.
__all__ = ["fenced", "talk"]

# The same sizes with the channels the other way round.
SET_SMALL_TURNED = b"\0\0\0\0" + SMALL[:10] + b"\x05\x02\x00" + bytes(3)
SET_LARGE_TURNED = b"\0\0\0\0" + PIXEL_FORMAT[:10] + b"\x00\x08\x10" + bytes(3)
SET_16 = b"\0\0\0\0" + bytes.fromhex("10100001 001f003f001f 0b0500 000000".replace(" ", ""))

LAST_RECT = struct.pack(">BxHHHHHi", 0, 9, 0, 0, 0, 0, -224)


def answer(purpose: bytes, number: int, flags: int = 0) -> bytes:
    """The desktop's answer to a fence of the relay's."""
    return fence(flags, OUR_FENCE + purpose + struct.pack(">I", number))


def refuses(talk: Talk, wire: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        talk.down(wire)
    return caught.value.rule


def begun(rectangles: bytes, count: int) -> bytes:
    return struct.pack(">BxH", 0, count) + rectangles


# Update requests.


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
    assert refuses(talk, raw()) == "unrequested-updates"


def test_an_update_in_two_pieces_has_pixels_in_the_first(talk: Talk) -> None:
    first, second = begun(raw()[4:], 2), CURSOR_ONLY[4:]
    for _ in range(64):
        talk.down(first)
        talk.down(second)
    talk.down(first)
    assert refuses(talk, second) == "unrequested-updates"


def test_a_request_waits_behind_a_format(talk: Talk) -> None:
    assert talk.up(request(0, 0, 9, 9) + SET_SMALL + request()) == request(0, 0, 9, 9)
    assert talk.down(raw(4)) == SET_SMALL + request()


def test_updates_until_the_end_are_those_of_continuous_updates(fenced: Talk) -> None:
    fenced.up(enable(1) + enable(0))
    for _ in range(200):
        fenced.down(raw())
    fenced.down(END)
    for _ in range(64):
        fenced.down(raw())
    assert refuses(fenced, raw()) == "unrequested-updates"


def test_what_is_due_is_due_once(fenced: Talk) -> None:
    fenced.up(request() + request())
    buf = bytearray(raw())
    fenced.conversation.down.judge(buf, 0, len(buf))
    assert fenced.flow.wake
    assert fenced.due() == request()
    assert not fenced.flow.wake


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


# Pixel formats.


def test_a_format_waits_inside_an_update_nobody_asked_for(talk: Talk) -> None:
    talk.down(begun(raw()[4:], 2))
    assert talk.up(SET_SMALL) == b""
    talk.flow.expire()
    assert talk.due() == b"", "it is coming; nothing need be asked for"
    assert talk.down(raw(4)[4:]) == SET_SMALL
    talk.down(raw(1))
    # An empty update has ended as well.
    talk.down(begun(b"", 0))
    assert talk.up(SET_LARGE) == SET_LARGE


def test_a_format_waits_inside_an_update_that_comes(talk: Talk, fenced: Talk) -> None:
    assert talk is fenced
    for asked in (request(), b""):
        for wanted, before in ((SET_SMALL, 4), (SET_LARGE, 1)):
            talk.up(asked)
            talk.down(begun(raw(before)[4:], 2))
            assert talk.up(wanted) == b""
            talk.flow.expire()
            assert talk.due() == b""
            assert talk.down(raw(before)[4:]) == wanted


def test_what_comes_is_not_asked_for(talk: Talk) -> None:
    talk.up(request())
    talk.down(begun(raw()[4:], 2))
    assert talk.up(SET_SMALL) == b""
    talk.flow.expire()
    assert talk.due() == b""
    assert talk.down(raw()[4:]) == SET_SMALL


def test_the_last_of_the_formats_that_wait_is_sent(talk: Talk) -> None:
    talk.up(request())
    assert talk.up(SET_SMALL + SET_16) == b""
    assert talk.down(raw(4)) == SET_16
    talk.down(raw(2))


def test_nothing_expires_where_nothing_waits(fenced: Talk) -> None:
    fenced.up(request())
    fenced.flow.expire()
    assert not fenced.flow.wake
    assert fenced.due() == b""


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


def test_a_format_behind_one_behind_a_fence(fenced: Talk) -> None:
    fenced.up(request() + SET_SMALL)
    fenced.flow.expire()
    assert fenced.due().endswith(SET_SMALL)
    # It waits for the answer, however quiet it is, and nothing makes it go earlier.
    assert fenced.up(SET_LARGE) == b""
    fenced.flow.expire()
    assert fenced.due() == b""
    assert fenced.down(raw(4)) == b""
    assert fenced.due() == b""
    assert fenced.down(answer(b"L", 1)) == b""
    fenced.down(raw(4))
    assert fenced.down(answer(b"F", 1)) == SET_LARGE
    fenced.down(raw(4))
    # And no answer counts twice.
    assert fenced.down(answer(b"F", 1)) == b""
    assert fenced.bits == 32


def test_a_format_of_the_same_sizes_behind_one_behind_a_fence(fenced: Talk) -> None:
    fenced.up(request() + SET_SMALL)
    fenced.flow.expire()
    fenced.due()
    assert fenced.up(SET_SMALL_TURNED) == SET_SMALL_TURNED
    fenced.down(raw(4))
    fenced.down(answer(b"F", 1))
    fenced.down(raw(1))
    assert fenced.conversation.state.pixel_format.red_shift == 5


def test_an_answer_does_not_forget_what_is_due(fenced: Talk) -> None:
    fenced.up(request() + SET_SMALL + request())
    fenced.flow.expire()
    fenced.due()
    assert fenced.down(raw(4) + answer(b"F", 1)) == request()


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
    assert refuses(fenced, END) == "continuous-updates-end"


def test_continuous_updates_that_were_held_are_on(fenced: Talk) -> None:
    fenced.up(request() + SET_SMALL)
    assert fenced.up(enable(1)) == b""
    assert fenced.down(raw(4)) == SET_SMALL + enable(1)
    assert fenced.due() == b""
    for _ in range(200):
        fenced.down(raw(1))


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


# Recorded conversations.


@pytest.fixture
def recorded() -> Talk:
    return Talk(Conversation(INIT, Limits(), passive=True))


def test_nothing_of_a_recorded_one_is_cut_or_bounded(recorded: Talk) -> None:
    # Ultra is framed, and cut out of other conversations.
    assert recorded.up(offers(9)) == offers(9)
    recorded.down(copyrect())
    for _ in range(100):
        recorded.down(raw())


def test_formats_of_a_recorded_one(recorded: Talk) -> None:
    recorded.up(SET_SMALL)
    recorded.down(begun(raw(1)[4:], 2))
    recorded.up(SET_16)
    recorded.down(raw(1)[4:])
    recorded.down(raw(2))
    recorded.up(SET_SMALL)
    recorded.down(raw(1) + raw(1))
    recorded.down(END)
    recorded.up(enable(1) + enable(0) + SET_LARGE + enable(1))
    recorded.down(raw(1) + END + raw(4))


# Several things in a row.


def test_a_format_behind_the_end_that_brings_another(fenced: Talk) -> None:
    # As a viewer may write it in one go: the first end brings one format, the second the other.
    wire = enable(0) + SET_SMALL + enable(1) + enable(0) + SET_LARGE + enable(1)
    assert fenced.up(enable(1) + wire) == enable(1) + wire
    fenced.down(raw(4) + END)
    assert fenced.bits == 8
    fenced.down(raw(1) + END)
    assert fenced.bits == 32
    fenced.down(raw(4))


def test_a_format_waits_for_the_one_behind_a_fence(fenced: Talk) -> None:
    fenced.up(request() + SET_SMALL)
    fenced.flow.expire()
    assert fenced.due().endswith(SET_SMALL)
    fenced.down(raw(4))
    # Nothing has been asked for any more.
    assert fenced.up(SET_16) == b""
    assert fenced.down(answer(b"F", 1)) == SET_16


def test_a_late_format_is_not_overtaken(fenced: Talk) -> None:
    fenced.up(request(0, 0, 9, 9) + SET_SMALL)
    text = struct.pack(">BxxxI", 6, 20)
    assert fenced.up(text + b"x" * 10) == text + b"x" * 10
    fenced.flow.expire()
    assert fenced.due() == b"", "not inside a message"
    # Nor by a request: its answer is to be in the new format.
    full = request(incremental=0)
    sent = fenced.up(b"y" * 10 + full)
    assert sent == b"y" * 10 + fence(1 << 31 | 4, OUR_FENCE + b"F\0\0\0\1") + SET_SMALL + full


def test_a_format_after_a_late_one_waits_again(fenced: Talk) -> None:
    fenced.up(request(0, 0, 9, 9) + SET_SMALL)
    fenced.flow.expire()
    assert fenced.due().endswith(SET_SMALL)
    fenced.down(answer(b"F", 1))
    assert fenced.bits == 8
    # The first request has not been answered.
    assert fenced.up(SET_LARGE) == b""
    fenced.flow.expire()
    assert fenced.due().endswith(SET_LARGE)
    # Nor now; and while there is no answer to the fence, nothing else is done about it.
    assert fenced.up(SET_SMALL) == b""
    fenced.flow.expire()
    assert fenced.due() == b""
    assert fenced.down(answer(b"F", 2)) == b""
    fenced.flow.expire()
    assert fenced.due().endswith(SET_SMALL)


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


def test_relative_moves_add_up(talk: Talk) -> None:
    # QEMU Pointer Motion Change: x of 0 says that deltas around 0x7fff follow.
    talk.down(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 640, 480, -257))
    talk.flow.desktop_behind = True
    moves = b"".join(struct.pack(">BBHH", 5, 0, 0x7FFF + dx, 0x7FFF) for dx in (5, 7, -1))
    assert talk.up(moves) == moves
