"""What a session may do, and what it leaves behind: dropped messages, held keys and buttons."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from relay import FULL, VIEW_ONLY, Rights
from relay.limits import Limits
from relay.rfb import ledger
from relay.rfb.conversation import Conversation
from relay.rfb.ledger import Ledger
from tests.labs.conversations import confirmed
from tests.labs.flow import Talk
from tests.labs.peers import BELL, UPDATE_REQUEST
from tests.labs.rfb_messages import KEY, LEGAL_UP, cut_text
from tests.labs.splits import check

KEY_UP = bytes.fromhex("0400000000000061")
QEMU_KEY = struct.pack(">BBHII", 255, 0, 1, 0x61, 30)
QEMU_KEY_UP = struct.pack(">BBHII", 255, 0, 0, 0x61, 30)
NOTHING = Rights(False, False, False, False, False, False)

REQUEST, PEEK, NOTIFY, PROVIDE = (struct.pack(">I", 1 << bit | 1) for bit in (25, 26, 27, 28))
CAPS = cut_text(6, -8, struct.pack(">II", 1 << 24 | 1, 100))


def extended(kind: int, body: bytes) -> bytes:
    return cut_text(kind, -len(body), body)


# By right: what of a viewer goes only with it.
NEEDS = {
    "KeyEvent": ("keyboard", KEY),
    "QEMU key": ("keyboard", QEMU_KEY),
    "PointerEvent": ("pointer", LEGAL_UP["PointerEvent"]),
    "PointerEvent, extended": ("pointer", LEGAL_UP["PointerEvent, extended"]),
    "ClientCutText": ("clipboard_in", cut_text(6, 5, b"hello")),
    "clipboard notify": ("clipboard_in", extended(6, NOTIFY)),
    "clipboard provide": ("clipboard_in", extended(6, PROVIDE + b"zlib")),
    "clipboard request": ("clipboard_out", extended(6, REQUEST)),
    "clipboard peek": ("clipboard_out", extended(6, PEEK)),
    "SetDesktopSize": ("resize", LEGAL_UP["SetDesktopSize"]),
}


def with_rights(rights: Rights) -> Conversation:
    made = confirmed()
    made.set_rights(rights)
    return made


def goes_with_its_right_alone(way: str, right: str, wire: bytes, behind: bytes) -> None:
    """`wire` goes where there is no right but this one, and not where all but this one are."""
    only = dataclasses.replace(NOTHING, **{right: True})
    without = dataclasses.replace(FULL, **{right: False})
    check(lambda: with_rights(only), way, wire + behind)
    check(lambda: with_rights(without), way, wire + behind, behind)


@pytest.mark.parametrize("name", NEEDS)
def test_a_message_goes_with_its_right_alone(name: str) -> None:
    goes_with_its_right_alone("up", *NEEDS[name], UPDATE_REQUEST)


def test_a_viewer_that_may_only_look() -> None:
    wire = b"".join(wire for _, wire in NEEDS.values()) + CAPS
    check(lambda: with_rights(VIEW_ONLY), "up", wire + UPDATE_REQUEST, UPDATE_REQUEST)
    # What it needs to look is let through.
    for name in ("SetPixelFormat", "ClientFence", "EnableContinuousUpdates"):
        check(lambda: with_rights(VIEW_ONLY), "up", LEGAL_UP[name])


FROM_DESKTOP = {
    "ServerCutText": ("clipboard_out", cut_text(3, 5, b"hello")),
    "clipboard notify": ("clipboard_out", extended(3, NOTIFY)),
    "clipboard provide": ("clipboard_out", extended(3, PROVIDE + b"zlib")),
    "clipboard request": ("clipboard_in", extended(3, REQUEST)),
}


@pytest.mark.parametrize("name", FROM_DESKTOP)
def test_the_desktops_clipboard(name: str) -> None:
    goes_with_its_right_alone("down", *FROM_DESKTOP[name], BELL)


def test_a_large_clipboard_without_the_right_is_skipped_and_not_held() -> None:
    size = 10 << 20
    made = with_rights(VIEW_ONLY)
    made.state.bounds = Limits(clipboard_bytes=size)
    head = bytearray(struct.pack(">Bxxxi", 6, -size) + PROVIDE)
    reader = made.up
    assert reader.judge(head, 0, len(head)) == len(head)
    left = size - 4
    chunk = bytearray(65_536)
    while left:
        count = min(left, len(chunk))
        assert reader.judge(chunk, 0, count) == count
        assert reader.edits == [(0, count, b"")]
        left -= count
    request = bytearray(UPDATE_REQUEST)
    assert reader.judge(request, 0, 10) == 10
    assert not reader.edits


# What is held down.


def test_what_is_held_is_released() -> None:
    book = Ledger()
    book.key(0xFFE1, True)
    book.key(0x61, True)
    book.key(0x61, False)
    book.extended_key(0x62, 48, True)
    book.pointer(0b101, 30, 40)
    assert book.release(relative=False) == (
        struct.pack(">BBxxI", 4, 0, 0xFFE1)
        + struct.pack(">BBHII", 255, 0, 0, 0x62, 48)
        + struct.pack(">BBHH", 5, 0, 30, 40)
    )
    assert book.release(relative=False) == b""


def test_a_key_pressed_with_two_keysyms_is_one_key() -> None:
    book = Ledger()
    book.extended_key(0x61, 30, True)
    book.extended_key(0x41, 30, False)
    assert book.release(relative=False) == b""


def test_the_ledger_is_bounded() -> None:
    book = Ledger()
    for keysym in range(256):
        assert book.key(keysym, True) == b""
    # One more, and the oldest is released: nothing stays down.
    for keysym in range(256, 10_000):
        assert book.key(keysym, True) == struct.pack(">BBxxI", 4, 0, keysym - 256)
    assert len(book.keys) == ledger.HELD_KEYS_LIMIT == 256
    assert book.extended_key(0x61, 30, True) == struct.pack(">BBxxI", 4, 0, 9_744)
    assert book.release(relative=False)[-20:-12] == struct.pack(">BBxxI", 4, 0, 9_999)


def test_one_key_too_many_releases_the_oldest() -> None:
    talk = Talk(confirmed())
    presses = b"".join(struct.pack(">BBxxI", 4, 1, keysym) for keysym in range(1000, 1256))
    assert talk.up(presses) == presses
    for key, oldest in ((KEY, 1000), (QEMU_KEY, 1001)):
        assert talk.up(key) == key + struct.pack(">BBxxI", 4, 0, oldest)


def test_keys_without_a_keycode_are_told_apart() -> None:
    book = Ledger()
    for keysym in (0x61, 0x62, 0x63):
        book.extended_key(keysym, 0, True)
    book.extended_key(0x62, 0, False)
    assert book.release(relative=False) == (
        struct.pack(">BBHII", 255, 0, 0, 0x61, 0) + struct.pack(">BBHII", 255, 0, 0, 0x63, 0)
    )


def test_a_button_is_released_where_the_desktop_reads_deltas() -> None:
    book = Ledger()
    book.pointer(1, 300, 200)
    # No move (community specification, QEMU Pointer Motion Change).
    assert book.release(relative=True) == struct.pack(">BBHH", 5, 0, 0x7FFF, 0x7FFF)


def test_the_eighth_button_too() -> None:
    talk = Talk(confirmed())
    talk.up(struct.pack(">BBHHB", 5, 0x80, 10, 20, 1))
    assert talk.farewell() == struct.pack(">BBHH", 5, 0, 10, 20)


def test_a_right_that_is_lost_releases() -> None:
    talk = Talk(confirmed())
    talk.up(KEY + QEMU_KEY + struct.pack(">BBHH", 5, 1, 10, 20))
    talk.conversation.set_rights(dataclasses.replace(FULL, pointer=False))
    assert talk.due() == struct.pack(">BBHH", 5, 0, 10, 20)
    talk.conversation.set_rights(VIEW_ONLY)
    assert talk.due() == KEY_UP + QEMU_KEY_UP
    assert talk.up(KEY) == b""
    talk.conversation.set_rights(FULL)
    assert talk.up(KEY) == KEY


def test_only_what_is_lost_is_released() -> None:
    talk = Talk(confirmed())
    talk.up(KEY + struct.pack(">BBHH", 5, 1, 10, 20))
    talk.conversation.set_rights(dataclasses.replace(FULL, keyboard=False))
    assert talk.flow.wake
    assert talk.due() == KEY_UP
    assert talk.farewell() == struct.pack(">BBHH", 5, 0, 10, 20)


def test_what_is_dropped_is_not_held() -> None:
    talk = Talk(with_rights(VIEW_ONLY))
    talk.due()
    talk.up(KEY + QEMU_KEY + struct.pack(">BBHH", 5, 1, 10, 20))
    assert talk.farewell() == b""


def test_a_text_under_way_is_ended_first() -> None:
    talk = Talk(confirmed())
    talk.up(KEY + struct.pack(">Bxxxi", 6, 10) + b"half")
    assert talk.farewell() == b" " * 6 + KEY_UP


def test_a_viewer_does_not_put_off_what_it_loses() -> None:
    talk = Talk(confirmed())
    talk.up(KEY + struct.pack(">Bxxxi", 6, 10) + b"half")
    talk.conversation.set_rights(VIEW_ONLY)
    assert talk.due() == b" " * 6 + KEY_UP
    # The rest of its text goes nowhere, and what follows is read in step.
    assert talk.up(b"his") == b""
    assert talk.up(b"!!!" + UPDATE_REQUEST + KEY) == UPDATE_REQUEST
    assert talk.farewell() == b""


def test_other_messages_wait_for_the_end_of_a_text() -> None:
    talk = Talk(confirmed())
    talk.up(struct.pack(">Bxxxi", 6, 10) + b"half")
    talk.flow.injected = UPDATE_REQUEST
    assert talk.due() == b""
    assert talk.flow.wake
    assert talk.up(b" a text") == b" a text"[:6] + UPDATE_REQUEST
    # A session's end needs no picture.
    talk.up(struct.pack(">Bxxxi", 6, 10) + b"half")
    talk.flow.injected = UPDATE_REQUEST
    assert talk.farewell() == b" " * 6


def test_what_is_no_text_is_ended_in_zeros() -> None:
    talk = Talk(confirmed())
    talk.down(bytes.fromhex("fd 81 0004 0001 0001"))
    begun = bytes.fromhex("fd 80 0008") + b"dev"
    assert talk.up(KEY + begun) == KEY + begun
    assert talk.farewell() == bytes(5) + KEY_UP
    talk = Talk(confirmed())
    talk.down(bytes.fromhex("fd 81 0004 0001 0001"))
    text = struct.pack(">Bxxxi", 6, 10) + b"half"
    talk.up(begun + bytes(5) + text)
    assert talk.farewell() == b" " * 6


def test_what_came_before_a_fault_counts() -> None:
    talk = Talk(confirmed())
    assert talk.up(KEY + b"\x63") == KEY
    assert talk.rule()
    assert talk.farewell() == KEY_UP


# Moves behind a slow desktop.


def pointer(buttons: int, x: int) -> bytes:
    return struct.pack(">BBHH", 5, buttons, x, 0)


def test_moves_that_queued_up_collapse_into_the_last() -> None:
    talk = Talk(confirmed())
    talk.up(pointer(0, 0))
    moves = b"".join(pointer(0, x) for x in range(100))
    assert talk.up(moves) == moves, "a desktop that keeps up gets them all"
    talk.flow.desktop_behind = True
    assert talk.up(moves) == pointer(0, 99)
    # Where a button changes is where it changes.
    drag = pointer(0, 1) + pointer(0, 2) + pointer(1, 3) + pointer(1, 4) + pointer(1, 5)
    drop = pointer(0, 6) + pointer(0, 7) + pointer(0, 8)
    assert talk.up(drag + drop) == b"".join(
        (pointer(0, 2), pointer(1, 3), pointer(1, 5), pointer(0, 6), pointer(0, 8))
    )
    assert talk.up(pointer(0, 1) + KEY + pointer(0, 2)) == pointer(0, 1) + KEY + pointer(0, 2)


def test_collapsed_moves_with_seven_bytes() -> None:
    talk = Talk(confirmed())
    talk.flow.desktop_behind = True
    held = [struct.pack(">BBHHB", 5, 0x80, x, 0, 1) for x in range(4)]
    assert talk.up(b"".join(held)) == held[0] + held[3]


def test_relative_moves_add_up(talk: Talk) -> None:
    # QEMU Pointer Motion Change: x of 0 says that deltas around 0x7fff follow.
    talk.down(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 640, 480, -257))
    talk.flow.desktop_behind = True
    moves = b"".join(struct.pack(">BBHH", 5, 0, 0x7FFF + dx, 0x7FFF) for dx in (5, 7, -1))
    assert talk.up(moves) == moves
