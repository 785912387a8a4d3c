"""The up leg, where framing and RFB meet: what goes up in front of a fault, in how many pieces."""

from __future__ import annotations

import struct

import pytest

from relay.limits import Limits
from relay.net.websocket import FrameReader
from relay.pumps.leg import UpLeg
from relay.rfb.conversation import Conversation
from relay.rfb.errors import CloseCode
from relay.rfb.rights import VIEW_ONLY
from tests.labs.peers import INIT, KEY, PIXEL_FORMAT, UPDATE_REQUEST, client_frame
from tests.labs.splits import chunkings

SET_PIXEL_FORMAT = b"\0\0\0\0" + PIXEL_FORMAT


def leg() -> UpLeg:
    """Of a viewer that may only look."""
    conversation = Conversation(INIT, Limits(), rights=VIEW_ONLY)
    return UpLeg(conversation.up, FrameReader(mask_expected=True, limit_bytes=1 << 20), b"")


def take(up: UpLeg, data: bytes) -> bytes:
    buf = bytearray(up.tail + data)
    return b"".join(up.take(buf, memoryview(buf), 0, len(buf)))


@pytest.mark.parametrize(
    "garbage",
    [
        # Ten bytes that are two messages of RFB, and no frame: FIN is not set, the opcode is 4.
        bytes.fromhex("0401000000 00ff0d0501".replace(" ", "")),
        b"\x82\x08" + KEY,
        b"\xff" * 20,
    ],
    ids=["no frame", "not masked", "reserved bits"],
)
def test_nothing_of_what_is_no_frame_goes_up(garbage: bytes) -> None:
    # The first frame leaves an edit behind: its key event is not allowed.
    before = client_frame(UPDATE_REQUEST + KEY)
    for cuts in chunkings(len(before + garbage)):
        up, sent = leg(), b""
        for first, behind in zip([0, *cuts], [*cuts, len(before + garbage)], strict=True):
            if up.fault is None:
                sent += take(up, (before + garbage)[first:behind])
        assert sent == UPDATE_REQUEST, cuts
        assert up.fault is not None
        assert up.fault.close_code is CloseCode.WEBSOCKET_FAULT
        assert up.fault.evidence in garbage


def test_what_is_in_front_of_a_fault_counts() -> None:
    good = client_frame(UPDATE_REQUEST) + client_frame(KEY + SET_PIXEL_FORMAT)
    up = leg()
    assert take(up, good + b"\xff" * 20) == UPDATE_REQUEST + SET_PIXEL_FORMAT
    assert up.fault is not None
    assert up.fault.offset == len(good)


def test_the_first_of_two_faults_is_told() -> None:
    up = leg()
    assert take(up, client_frame(UPDATE_REQUEST + b"\x63") + b"\xff" * 20) == UPDATE_REQUEST
    assert up.fault is not None
    assert (up.fault.rule, up.fault.evidence) == ("message-type", b"\x63")


def test_a_gathered_write_takes_what_is_left_of_many_messages() -> None:
    # Linux takes 1,024 pieces in one (IOV_MAX).
    up = leg()
    move = struct.pack(">BBHH", 5, 0, 1, 1)
    wire = client_frame((SET_PIXEL_FORMAT + move) * 2000)
    buf = bytearray(wire)
    pieces = up.take(buf, memoryview(buf), 0, len(buf))
    assert b"".join(pieces) == SET_PIXEL_FORMAT * 2000
    assert len(pieces) <= 1024
