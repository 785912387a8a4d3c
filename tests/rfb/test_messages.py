"""The messages beside RFC 6143: xvp, gii, QEMU audio and relative pointers (community
specification, Client to Server Messages and Server to Client Messages)."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from relay import FULL
from relay.rfb.conversation import Conversation
from relay.rfb.errors import ProtocolError
from relay.rfb.from_desktop import AUDIO_LIMIT_BYTES
from tests.labs.conversations import confirmed, conversation, everything
from tests.labs.peers import BELL, UPDATE_REQUEST
from tests.labs.rfb_messages import rect, update
from tests.labs.splits import check, check_refused

XVP_REBOOT = b"\xfa\x00\x01\x03"
# gii: device creation, big-endian, eight bytes behind the head.
GII = b"\xfd\x82\x00\x08" + b"gii-body"
AUDIO_ON, AUDIO_OFF = b"\xff\x01\0\0", b"\xff\x01\0\x01"
# As gtk-vnc sends it (capture qemu-gvncviewer-splash-b): S16, two channels, 44,100 Hz.
AUDIO_FORMAT = bytes.fromhex("ff0100020502000 0ac44".replace(" ", ""))


def powerful() -> Conversation:
    made = confirmed()
    made.set_rights(dataclasses.replace(FULL, power=True))
    return made


def test_xvp() -> None:
    for code in (2, 3, 4):
        wire = bytes([250, 0, 1, code])
        check(powerful, "up", wire + UPDATE_REQUEST)
        # Shutting down is nothing that comes with looking at a desktop.
        check(confirmed, "up", wire + UPDATE_REQUEST, UPDATE_REQUEST)
    check(powerful, "up", b"\xfa\x07\x01\x03", XVP_REBOOT)


@pytest.mark.parametrize("wire", [b"\xfa\0\x02\x03", b"\xfa\0\x01\x01", b"\xfa\0\x01\x05"])
def test_an_xvp_message_is_of_version_1(wire: bytes) -> None:
    assert "xvp version" in check_refused(powerful, "up", wire, 0, "xvp")


def test_gii() -> None:
    check(confirmed, "up", GII + UPDATE_REQUEST)
    little = b"\xfd\x02\x08\x00" + b"gii-body"
    check(confirmed, "up", little + UPDATE_REQUEST)

    def without(**rights: bool) -> Conversation:
        made = confirmed()
        made.set_rights(dataclasses.replace(FULL, **rights))
        return made

    check(lambda: without(keyboard=False), "up", GII + UPDATE_REQUEST, UPDATE_REQUEST)
    check(lambda: without(pointer=False), "up", GII + UPDATE_REQUEST, UPDATE_REQUEST)


def test_audio_is_asked_for_first() -> None:
    begin, end = b"\xff\x01\0\x01", b"\xff\x01\0\0"
    data = b"\xff\x01\0\x02" + struct.pack(">I", 6) + b"sample"

    def enabled() -> Conversation:
        made = confirmed()
        wire = bytearray(AUDIO_FORMAT + AUDIO_ON)
        assert made.up.judge(wire, 0, len(wire)) == len(wire)
        return made

    check(enabled, "down", begin + data + data + end + BELL)
    check_refused(confirmed, "down", BELL + begin, 1, "QEMU audio")
    long = b"\xff\x01\0\x02" + struct.pack(">I", AUDIO_LIMIT_BYTES + 1)
    check_refused(enabled, "down", long, 0, "QEMU audio")
    check_refused(enabled, "down", b"\xff\x01\0\x03", 0, "QEMU audio")
    check_refused(enabled, "down", b"\xff\x00\0\x01", 0, "QEMU audio")


def test_what_a_viewer_says_of_audio() -> None:
    check(confirmed, "up", AUDIO_FORMAT + AUDIO_ON + AUDIO_OFF + UPDATE_REQUEST)
    for sample_format, channels in ((6, 1), (0, 0), (0, 3)):
        wire = struct.pack(">BBHBBI", 255, 1, 2, sample_format, channels, 44_100)
        check_refused(confirmed, "up", wire, 0, "QEMU message")
    check_refused(confirmed, "up", b"\xff\x01\0\x03", 0, "QEMU message")


@pytest.mark.parametrize("wire", [XVP_REBOOT, GII, AUDIO_ON], ids=["xvp", "gii", "audio"])
def test_nothing_before_the_desktop_has_said_that_it_can(wire: bytes) -> None:
    where = {250: "xvp", 253: "gii", 255: "QEMU message"}[wire[0]]
    reason = check_refused(everything, "up", UPDATE_REQUEST + wire, 10, where)
    assert "the desktop has not said" in reason


@pytest.mark.parametrize("wire", [b"\xfa\0\x01\x01", GII], ids=["xvp", "gii"])
def test_nothing_that_was_not_offered(wire: bytes) -> None:
    where = {250: "xvp", 253: "gii"}[wire[0]]
    assert "not offered" in check_refused(lambda: conversation(7), "down", wire, 0, where)


def test_a_failure_of_xvp_takes_nothing_back() -> None:
    made = powerful()
    said = bytearray(b"\xfa\xff\x01\0")
    assert made.down.judge(said, 0, 4) == 4
    assert said == b"\xfa\0\x01\0"
    assert made.up.judge(bytearray(XVP_REBOOT), 0, 4) == 4


def test_gii_is_input_and_may_be_empty() -> None:
    made = confirmed()
    for reader in (made.down, made.up):
        empty = bytearray(b"\xfd\x80\0\0")
        assert reader.judge(empty, 0, 4) == 4
    assert made.up.inputs == 1


def test_audio_of_a_mebibyte() -> None:
    made = confirmed()
    assert made.up.judge(bytearray(AUDIO_ON), 0, 4) == 4
    most = bytearray(b"\xff\x01\0\x02\0\x10\0\0")
    assert made.down.judge(most, 0, 8) == 8
    made.down.moved(1 << 20)
    with pytest.raises(ProtocolError) as caught:
        made.down.judge(bytearray(b"\xff\x01\0\x02\0\x10\0\x01"), 0, 8)
    assert caught.value.rule == "audio-length"


def test_an_unknown_xvp_code() -> None:
    check_refused(everything, "down", b"\xfa\0\x01\x02", 0, "xvp")


def test_deltas_are_not_clamped() -> None:
    def relative() -> Conversation:
        made = confirmed()
        said = bytearray(update(rect(0, 0, 640, 480, -257)))
        assert made.down.judge(said, 0, len(said)) == len(said)
        return made

    moved = struct.pack(">BBHH", 5, 1, 0x8005, 0x7FF0)
    made = check(relative, "up", moved)
    assert made.up.ledger.release(relative=True) == struct.pack(">BBHH", 5, 0, 0x7FFF, 0x7FFF)
