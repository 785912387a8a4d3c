"""Pixel formats: each changes at a byte that both sides know (RFC 6143, Section 7.5.1; community
specification, ClientFence). Those in continuous updates are in test_continuous_updates.py."""

from __future__ import annotations

import struct

import pytest

from relay.rfb.fences import OUR_FENCE
from tests.labs.flow import Talk
from tests.labs.peers import PIXEL_FORMAT
from tests.labs.rfb_messages import (
    BGR233,
    SET_16,
    SET_LARGE,
    SET_SMALL,
    answer,
    begun,
    fence,
    raw,
    request,
)


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


@pytest.mark.parametrize(
    ("wanted", "bytes_per_pixel"), [(SET_LARGE + SET_SMALL, 1), (SET_16, 2)], ids=["8", "16"]
)
def test_of_several_formats_that_wait_the_last_counts(
    talk: Talk, wanted: bytes, bytes_per_pixel: int
) -> None:
    talk.up(request())
    assert talk.up(SET_SMALL + wanted) == b""
    assert talk.down(raw(4)) == wanted[-20:]
    talk.down(raw(bytes_per_pixel))


def test_a_format_waits_for_both_updates_that_may_come(talk: Talk) -> None:
    talk.up(request() + request(incremental=0) + SET_SMALL)
    assert talk.down(raw(4)) == b""
    assert talk.down(raw(4)) == SET_SMALL


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


def test_nothing_expires_where_nothing_waits(fenced: Talk) -> None:
    fenced.up(request())
    fenced.flow.expire()
    assert not fenced.flow.wake
    assert fenced.due() == b""


# Behind fences of the relay's.


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


# The same sizes with the channels the other way round.
SET_SMALL_TURNED = b"\0\0\0\0" + BGR233[:10] + b"\x05\x02\x00" + bytes(3)


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
