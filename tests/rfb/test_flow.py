"""What is under way: requests, pixel formats, lists, continuous updates (RFC 6143, Sections 7.5.1
to 7.5.3; community specification, EnableContinuousUpdates and ClientFence)."""

from __future__ import annotations

import struct

import pytest

from relay.limits import Limits
from relay.net.websocket import FrameReader, frame
from relay.pumps.leg import DownLeg, UpLeg
from relay.rfb import encodings
from relay.rfb.continuous_updates import ENDS_LIMIT
from relay.rfb.conversation import Conversation
from relay.rfb.errors import ProtocolError
from relay.rfb.fences import OUR_FENCE
from relay.rfb.flow import UNREQUESTED_LIMIT
from tests.labs.peers import INIT, PIXEL_FORMAT
from tests.labs.splits import conversation

SMALL = bytes.fromhex("08080001000700070003 000306 000000".replace(" ", ""))
SET_SMALL = b"\0\0\0\0" + SMALL
SET_LARGE = b"\0\0\0\0" + PIXEL_FORMAT
BELL = b"\x02"


def request(x: int = 0, y: int = 0, w: int = 640, h: int = 480, incremental: int = 1) -> bytes:
    return struct.pack(">BBHHHH", 3, incremental, x, y, w, h)


def enable(on: int, w: int = 640, h: int = 480) -> bytes:
    return struct.pack(">BBHHHH", 150, on, 0, 0, w, h)


def raw(bytes_per_pixel: int = 4) -> bytes:
    """An update of one Raw rectangle of 3x1."""
    return struct.pack(">BxHHHHHi", 0, 1, 0, 0, 3, 1, 0) + b"p" * (3 * bytes_per_pixel)


CURSOR_ONLY = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 0, 0, -239)
END = b"\x96"


def fence(flags: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxIB", 248, flags, len(payload)) + payload


class Talk:
    """A conversation whose two sides are fed whole messages; `up` returns what the desktop gets."""

    def __init__(self, made: Conversation) -> None:
        self.conversation = made
        self.flow = made.flow
        frames = FrameReader(mask_expected=True, limit_bytes=1 << 20)
        self._down = DownLeg(made.down, b"")
        self._up = UpLeg(made.up, frames, b"")

    def up(self, data: bytes) -> bytes:
        buf = bytearray(frame(2, data, b"mask"))
        return b"".join(self._up.take(buf, memoryview(buf), 0, len(buf)))

    def down(self, data: bytes) -> bytes:
        """What goes up because of what the desktop said."""
        buf = bytearray(data)
        self._down.take(buf, memoryview(buf), 0, len(buf))
        assert not self._down.tail
        assert not self.conversation.down.opaque, "not as long as it was meant to be"
        return b"".join(self._up.due()) if self.flow.wake else b""

    def due(self) -> bytes:
        return b"".join(self._up.due())

    def waiting(self) -> bool:
        return self.flow.waiting

    def rule(self) -> str:
        """The rule that the viewer broke; empty if none."""
        return self._up.fault.rule if self._up.fault else ""

    @property
    def bits(self) -> int:
        return self.conversation.state.pixel_format.bits_per_pixel


@pytest.fixture
def talk() -> Talk:
    return Talk(conversation(*encodings.REGISTRY, *encodings.SIGNALS, -26))


@pytest.fixture
def fenced(talk: Talk) -> Talk:
    """The desktop has said that it can do fences and continuous updates."""
    talk.down(fence(1 << 31, b"?"))
    talk.up(fence(0, b"?"))
    talk.down(END)
    return talk


# Update requests.


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


def test_updates_that_nobody_asked_for_are_bounded(talk: Talk) -> None:
    talk.up(request())
    assert UNREQUESTED_LIMIT == 64
    for _ in range(1 + UNREQUESTED_LIMIT):
        talk.down(raw() + CURSOR_ONLY)
    with pytest.raises(ProtocolError) as caught:
        talk.down(raw())
    assert caught.value.rule == "unrequested-updates"


def test_continuous_updates_are_not_bounded(fenced: Talk) -> None:
    fenced.up(enable(1))
    for _ in range(3 * UNREQUESTED_LIMIT):
        fenced.down(raw())


# Pixel formats.


def test_a_format_changes_at_once_while_nothing_is_under_way(talk: Talk) -> None:
    assert talk.up(SET_SMALL) == SET_SMALL
    assert talk.conversation.up.edits == [], "it goes up as it is"
    assert not talk.waiting()
    assert talk.up(request()) == request()
    talk.down(raw(1))
    assert talk.bits == 8


def test_a_format_of_the_same_sizes_changes_at_once(talk: Talk) -> None:
    talk.up(request())
    swapped = b"\0\0\0\0" + PIXEL_FORMAT[:10] + b"\x00\x08\x10\0\0\0"
    assert talk.up(swapped) == swapped
    assert talk.conversation.state.pixel_format.red_shift == 0


def test_a_format_waits_for_the_update_under_way(talk: Talk) -> None:
    talk.up(request())
    key = bytes.fromhex("0401000000000061")
    assert talk.up(SET_SMALL + key) == key
    assert talk.waiting()
    assert talk.up(request()) == b""
    # The old format still, and then the new one and what was asked for behind it.
    assert talk.down(raw(4)) == SET_SMALL + request()
    talk.down(raw(1))


def test_of_several_formats_that_wait_the_last_counts(talk: Talk) -> None:
    talk.up(request())
    assert talk.up(SET_SMALL + SET_LARGE + SET_SMALL) == b""
    assert talk.down(raw(4)) == SET_SMALL


def test_a_format_waits_for_both_updates_that_may_come(talk: Talk) -> None:
    talk.up(request() + request(incremental=0) + SET_SMALL)
    assert talk.down(raw(4)) == b""
    assert talk.down(raw(4)) == SET_SMALL


def test_with_fences_a_late_update_is_not_waited_for(fenced: Talk) -> None:
    fenced.up(request() + SET_SMALL + request())
    fenced.flow.expire()
    sent = fenced.due()
    ours = OUR_FENCE + b"F" + b"\0\0\0\x01"
    # SyncNext: answered between the fence and the message behind it (bit 2), a request (bit 31).
    # The request that is under way will be answered in the new format; another need not go.
    assert sent == fence(1 << 31 | 4, ours) + SET_SMALL
    assert fenced.bits == 32
    assert fenced.down(raw(4)) == request()
    assert fenced.down(fence(4, ours)) == b""
    assert fenced.bits == 8
    fenced.down(raw(1))


def test_the_answer_to_a_fence_of_ours_is_not_for_the_viewer(fenced: Talk) -> None:
    fenced.up(request() + SET_SMALL)
    fenced.flow.expire()
    fenced.due()
    answer = bytearray(fence(4, OUR_FENCE + b"F" + b"\0\0\0\x01"))
    reader = fenced.conversation.down
    assert reader.judge(answer, 0, len(answer)) == len(answer)
    assert reader.edits == [(0, len(answer), b"")]


def test_a_viewer_does_not_speak_for_the_relay(fenced: Talk) -> None:
    talk = fenced
    talk.up(fence(1 << 31, OUR_FENCE + b"F" + b"\0\0\0\x01"))
    assert talk.rule() == "fence-payload"


def test_with_fences_a_viewer_that_has_its_answer_does_not_wait(fenced: Talk) -> None:
    fenced.up(request() + request(incremental=0))
    # It answered both with one update, which nobody can know.
    fenced.down(raw(4))
    ours = OUR_FENCE + b"F" + b"\0\0\0\x01"
    assert fenced.up(SET_SMALL + request()) == fence(1 << 31 | 4, ours) + SET_SMALL + request()
    fenced.down(fence(4, ours))
    fenced.down(raw(1))


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


def test_continuous_updates_begin_behind_a_format_that_waits(fenced: Talk) -> None:
    fenced.up(request() + SET_SMALL)
    assert fenced.up(enable(1)) == b""
    assert fenced.down(raw(4)) == SET_SMALL + enable(1)


def test_more_ends_than_there_can_be(fenced: Talk) -> None:
    with pytest.raises(ProtocolError) as caught:
        fenced.down(END)
    assert caught.value.rule == "continuous-updates-end"


def test_ends_that_never_come_are_bounded(fenced: Talk) -> None:
    assert ENDS_LIMIT == 256
    fenced.up(enable(0) * ENDS_LIMIT)
    assert not fenced.rule()
    fenced.up(enable(0))
    assert fenced.rule() == "continuous-updates-flood"


def test_of_formats_in_continuous_updates_the_last_counts(fenced: Talk) -> None:
    fenced.up(enable(1))
    toggle = enable(0) + SET_SMALL + enable(1)
    assert fenced.up(SET_SMALL + (SET_LARGE + SET_SMALL) * ENDS_LIMIT + SET_LARGE) == toggle
    fenced.down(raw(4))
    again = request(0, 0, 3, 1, incremental=0)
    assert fenced.down(END) == enable(0) + SET_LARGE + enable(1) + again
    fenced.down(raw(1) + END + raw(4))


# Lists.


def offers(*numbers: int) -> bytes:
    return struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers)


def copyrect() -> bytes:
    return struct.pack(">BxHHHHHiHH", 0, 1, 0, 0, 3, 1, 1, 0, 0)


def test_a_list_that_shrinks_while_nothing_is_under_way(talk: Talk) -> None:
    talk.up(offers(7))
    with pytest.raises(ProtocolError) as caught:
        talk.down(copyrect())
    assert caught.value.rule == "encoding-not-offered"


def test_what_a_list_drops_may_still_come(talk: Talk) -> None:
    talk.up(request() + offers(7))
    talk.down(copyrect())
    with pytest.raises(ProtocolError) as caught:
        talk.down(copyrect())
    assert caught.value.rule == "encoding-not-offered"


def test_with_fences_the_end_of_a_list_is_told(fenced: Talk) -> None:
    fenced.up(request() + request(incremental=0))
    fenced.down(raw(4))
    ours = OUR_FENCE + b"L" + b"\0\0\0\x01"
    assert fenced.up(offers(7, -312)) == offers(7, -312) + fence(1 << 31 | 1, ours)
    fenced.down(copyrect() + fence(1, ours))
    with pytest.raises(ProtocolError):
        fenced.down(copyrect())


def test_in_continuous_updates_a_fence_tells(fenced: Talk) -> None:
    fenced.up(enable(1))
    ours = OUR_FENCE + b"L" + b"\0\0\0\x01"
    # BlockBefore: answered when everything before it is done (bit 0).
    assert fenced.up(offers(7, -312)) == offers(7, -312) + fence(1 << 31 | 1, ours)
    fenced.down(copyrect())
    fenced.down(fence(1, ours))
    with pytest.raises(ProtocolError):
        fenced.down(copyrect())


def test_a_recorded_conversation_is_only_looked_at() -> None:
    made = Conversation(INIT, Limits(), passive=True)
    talk = Talk(made)
    wire = request() + request() + SET_SMALL + request(incremental=0)
    assert talk.up(wire) == wire
    # It may have been another relay's.
    talk.down(fence(1 << 31, b"?"))
    assert talk.up(fence(1 << 31, OUR_FENCE + b"F\0\0\0\x01"))
    assert talk._up.fault is None
    talk.down(raw(1))
    # Inside an update, a format holds from its end on.
    begun = struct.pack(">BxH", 0, 2) + raw(1)[4:]
    talk.down(begun)
    talk.up(SET_LARGE)
    talk.down(raw(1)[4:] + raw(4))
