"""What is under way while a list of encodings changes."""

from __future__ import annotations

import struct

import pytest

from relay.rfb.errors import ProtocolError
from relay.rfb.fences import OUR_FENCE
from tests.labs.conversations import conversation
from tests.labs.flow import Talk
from tests.labs.rfb_messages import (
    CURSOR_ONLY,
    END,
    EVERYTHING,
    LAST_RECT,
    SET_SMALL,
    answer,
    begun,
    copyrect,
    enable,
    fence,
    offers,
    raw,
    request,
)


def test_a_list_that_shrinks_while_nothing_is_under_way(talk: Talk) -> None:
    talk.up(offers(7))
    assert talk.refused(copyrect()) == "encoding-not-offered"


@pytest.mark.parametrize("asked", [1, 2])
def test_what_a_list_drops_may_come_as_often_as_was_asked(talk: Talk, asked: int) -> None:
    talk.up(b"".join((request(), request(incremental=0))[:asked]) + offers(7))
    for _ in range(asked):
        talk.down(copyrect())
    assert talk.refused(copyrect()) == "encoding-not-offered"


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


def test_an_offer_holds_at_once() -> None:
    for offered, wire in ((1, copyrect()), (-224, LAST_RECT)):
        talk = Talk(conversation(7))
        talk.up(request() + offers(7, offered))
        talk.down(wire)


def test_a_list_waits_inside_an_update(talk: Talk) -> None:
    talk.down(begun(copyrect()[4:], 2))
    talk.up(offers(7))
    talk.down(copyrect()[4:])
    assert talk.refused(copyrect()) == "encoding-not-offered"


def test_a_list_that_drops_a_signal_alone(fenced: Talk) -> None:
    fenced.up(request() + offers(*(number for number in EVERYTHING if number != -224)))
    fenced.down(LAST_RECT)
    fenced.down(raw())
    # No request brings it, so it may be on its way as long as the desktop has not read the list.
    fenced.down(LAST_RECT)
    fenced.down(answer(b"L", 1))
    assert fenced.refused(LAST_RECT) == "encoding-not-offered"


CAPABILITIES = struct.pack(">BxxxiII", 3, -8, 1 << 24 | 1, 9)


@pytest.mark.parametrize(
    "wire",
    [fence(1 << 31, b"!"), CAPABILITIES, CURSOR_ONLY, fence(0, b"ping"), END],
    ids=["fence", "clipboard", "cursor", "answer", "end"],
)
def test_what_comes_unasked_may_cross_a_list(fenced: Talk, wire: bytes) -> None:
    # Xvnc 1.12 answers a first list with a fence and an end, which cross a second one.
    fenced.up(enable(1) + enable(0) + fence(1 << 31, b"ping") + offers(7, -312))
    fenced.down(wire)
    fenced.down(answer(b"L", 1))
    if wire[0] not in (248, 150):
        assert fenced.refused(wire) in ("encoding-not-offered", "cut-text-length")


def test_a_desktop_without_fences_may_go_on_with_what_comes_unasked(talk: Talk) -> None:
    talk.up(offers(7))
    for _ in range(3):
        talk.down(CURSOR_ONLY + CAPABILITIES)
    assert talk.refused(copyrect()) == "encoding-not-offered"


def test_a_fence_tells_only_of_its_own_list(fenced: Talk) -> None:
    fenced.up(offers(7, -239, -312))
    fenced.up(offers(7))
    fenced.down(answer(b"L", 1))
    # The desktop has not read the second one.
    fenced.down(CURSOR_ONLY)


def test_an_answer_to_the_relay_crosses_a_list_without_fences(fenced: Talk) -> None:
    fenced.up(request() + offers(7, -312, -313))
    fenced.up(offers(7, -313))
    fenced.down(raw())
    assert fenced.down(answer(b"L", 1)) == b""
    # Nor is one sent any more.
    assert fenced.up(request() + request(incremental=0) + SET_SMALL) == request() + request(
        incremental=0
    )
    fenced.flow.expire()
    assert fenced.due() == request(0, 0, 1, 1, incremental=0)


def test_buttons_are_of_six_bytes_again_without_the_offer(talk: Talk) -> None:
    talk.down(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 0, 0, -316))
    seven = bytes.fromhex("0580000a001401")
    assert talk.up(seven) == seven
    key = bytes.fromhex("0401000000000061")
    talk.up(offers(7))
    assert talk.up(seven[:6] + key) == seven[:6] + key


def test_a_list_that_comes_back_drops_nothing(talk: Talk) -> None:
    talk.up(request() + offers(7) + offers(*EVERYTHING))
    talk.down(raw())
    talk.down(copyrect())


def test_a_fence_behind_a_list_only_where_it_tells_something(fenced: Talk) -> None:
    assert fenced.up(offers(7, 1, -312)) == offers(7, 1, -312) + answer(b"L", 1, 1 << 31 | 1)
    fenced.down(answer(b"L", 1))
    fenced.up(enable(1))
    # Not if nothing is dropped, and not if the list has no fences.
    assert fenced.up(offers(7, 1, -312)) == offers(7, 1, -312)
    assert fenced.up(offers(7)) == offers(7)
    fenced.down(copyrect())
    fenced.up(enable(0))
    fenced.down(copyrect())


def test_no_fence_behind_a_list_for_a_desktop_that_has_none(talk: Talk) -> None:
    talk.down(END)
    talk.up(enable(1))
    assert talk.up(offers(7, -312)) == offers(7, -312)
    talk.up(enable(0))
    talk.down(copyrect())


def test_a_list_holds_from_the_last_end_on(talk: Talk) -> None:
    talk.down(END)
    talk.up(enable(1) + offers(7, -313) + enable(0) + enable(1) + enable(0))
    talk.down(copyrect() + END + copyrect())
    talk.up(request())
    talk.down(END + copyrect())
    assert talk.refused(copyrect()) == "encoding-not-offered"


def test_a_list_holds_at_the_last_end(talk: Talk) -> None:
    talk.down(END)
    talk.up(enable(1) + offers(7, -313) + enable(0))
    talk.down(END)
    assert talk.refused(copyrect()) == "encoding-not-offered"


def test_only_the_answer_to_the_last_fence_tells(fenced: Talk) -> None:
    fenced.up(enable(1))
    fenced.up(offers(7, -312))
    fenced.up(offers(16, -312))
    for wrong in (answer(b"L", 1), answer(b"F", 2), answer(b"L", 3), answer(b"?", 2)):
        fenced.down(wrong)
        fenced.down(copyrect())
    fenced.down(answer(b"L", 2) * 2)
    assert fenced.refused(copyrect()) == "encoding-not-offered"
