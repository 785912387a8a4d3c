"""Recorded conversations, of which nothing is held and nothing is cut."""

from __future__ import annotations

import struct

from relay.rfb.fences import OUR_FENCE
from tests.labs.flow import Talk
from tests.labs.rfb_messages import (
    END,
    SET_16,
    SET_LARGE,
    SET_SMALL,
    begun,
    copyrect,
    enable,
    fence,
    offers,
    raw,
    request,
)


def test_a_recorded_conversation_is_only_looked_at(recorded: Talk) -> None:
    talk = recorded
    wire = request() + request() + SET_SMALL + request(incremental=0)
    assert talk.up(wire) == wire
    # It may have been another relay's.
    talk.down(fence(1 << 31, b"?"))
    assert talk.up(fence(1 << 31, OUR_FENCE + b"F\0\0\0\x01"))
    assert not talk.rule()
    talk.down(raw(1))
    # Inside an update, a format holds from its end on.
    begun = struct.pack(">BxH", 0, 2) + raw(1)[4:]
    talk.down(begun)
    talk.up(SET_LARGE)
    talk.down(raw(1)[4:] + raw(4))


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


def test_a_recorded_list_says_how_long_buttons_are(recorded: Talk) -> None:
    talk = recorded
    talk.down(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 0, 0, -316))
    seven, key = bytes.fromhex("0580000a001401"), bytes.fromhex("0401000000000061")
    talk.up(offers(7, -316) + seven + key)
    assert talk.conversation.up.messages == 3
    talk.up(offers(7) + seven[:6] + key)
    assert talk.conversation.up.messages == 6
