"""A desktop's messages: what they change, and how much of what has come is done at once."""

from __future__ import annotations

import struct
import zlib

import pytest

from relay.limits import Limits
from relay.rfb.pixels.canvas import Canvas
from relay.rfb.pixels.messages import WORK_AT_ONCE_PX, Messages
from tests.labs.client import EXTENDED_CAPABILITIES, extended, provided
from tests.labs.painting import RGBA

SIDE_PX = 512
AREA_PX = SIDE_PX * SIDE_PX


def rectangles(encoding: int, payload: bytes, count: int) -> bytes:
    """An update of so many rectangles, each of the whole canvas."""
    one = struct.pack(">HHHHi", 0, 0, SIDE_PX, SIDE_PX, encoding) + payload
    return struct.pack(">BxH", 0, count) + one * count


def runs_of_one() -> bytes:
    """ZRLE: of two colours in turn, each pixel a run of its own."""
    tile = b"\x82" + bytes(6) + bytes((0, 1)) * 2048
    deflated = zlib.compress(tile * (AREA_PX // 4096))
    return struct.pack(">I", len(deflated)) + deflated


def cursors(side_px: int, count: int) -> bytes:
    """Shapes with alpha, each of one colour."""
    one = struct.pack(">BxHHHHHi", 0, 1, 0, 0, side_px, side_px, -314)
    return (one + struct.pack(">i", 7) + b"\x80abcd") * count


def resizes(count: int) -> bytes:
    """To twice the size and a pixel less, in turn."""
    return b"".join(
        struct.pack(">BxHHHHHi", 0, 1, 0, 0, 2 * SIDE_PX - at % 2, 2 * SIDE_PX, -223)
        for at in range(count)
    )


FLOODS = {
    # A few bytes each, which paint all of the screen.
    "CopyRect": (rectangles(1, b"\0\0\0\0", 100), 100 * AREA_PX),
    "Tight, one colour": (rectangles(7, b"\x80abc", 100), 100 * AREA_PX),
    # A step for each pixel, of which no byte need come any more.
    "ZRLE, a run a pixel": (rectangles(16, runs_of_one(), 1), 64 * AREA_PX),
    "cursor": (cursors(1024, 16), 16 << 20),
    "resize": (resizes(50), 50 * 4 * AREA_PX),
    "clipboard": (EXTENDED_CAPABILITIES + provided(1 << 17, bytes(1 << 17)) * 50, 50 << 18),
    # No pixels at all.
    "nothing": (rectangles(7, b"\x80abc", 0) * 100_000, 64 * 200_000),
    "bells": (b"\x02" * 200_000, 64 * 200_000),
}


@pytest.mark.parametrize(("flood", "work_px"), FLOODS.values(), ids=FLOODS)
def test_a_flood_is_taken_in_parts(flood: bytes, work_px: int) -> None:
    """Between them other tasks have their turn."""
    messages = Messages(Canvas(SIDE_PX, SIDE_PX, RGBA), Limits())
    messages.feed(flood)
    parts = 1
    while messages.behind:
        messages.feed(b"")
        parts += 1
    assert parts >= work_px // (2 * WORK_AT_ONCE_PX)
    # All of it has been taken.
    messages.feed(b"\x03\0\0\0\0\0\0\x02ok")
    assert messages.clipboard == "ok"


def pseudo(encoding: int, x: int, y: int, w: int, h: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BxHHHHHi", 0, 1, x, y, w, h, encoding) + payload


@pytest.mark.parametrize(
    ("reason", "status", "size"),
    [
        (0, 0, (30, 20)),  # by the desktop itself
        (1, 0, (30, 20)),  # by this client
        (1, 3, (8, 4)),  # asked for by this client, and refused: "invalid screen layout"
        (2, 0, (30, 20)),  # by another client
    ],
)
def test_extended_desktop_size(reason: int, status: int, size: tuple[int, int]) -> None:
    messages = Messages(Canvas(8, 4, RGBA), Limits())
    screens = b"\x02\0\0\0" + bytes(32)
    messages.feed(pseudo(-308, reason, status, 30, 20, screens) + b"\x02")
    assert messages.canvas.pixels.shape[1::-1] == size
    assert not messages.behind


def test_what_else_a_desktop_says_of_itself() -> None:
    messages = Messages(Canvas(8, 4, RGBA), Limits())
    messages.feed(pseudo(-232, 5, 3, 0, 0))
    messages.feed(pseudo(-307, 0, 0, 0, 0, b"\0\0\0\x03new"))
    messages.feed(pseudo(-261, 0, 0, 0, 0, b"\x07"))
    assert (messages.pointer, messages.name) == ((5, 3), b"new")
    # None of it has painted anything.
    assert (messages.updates, messages.damages) == (3, 0)


def test_a_last_rectangle_ends_an_update() -> None:
    messages = Messages(Canvas(1, 1, RGBA), Limits())
    pixel = struct.pack(">HHHHi", 0, 0, 1, 1, 0) + b"abcd"
    last = struct.pack(">HHHHi", 0, 0, 0, 0, -224)
    messages.feed(struct.pack(">BxH", 0, 0xFFFF) + pixel * 2 + last)
    assert messages.updates == 1


@pytest.mark.parametrize("flags", [0x80000000, 0x80000003, 0x80000107, 0xFFFFFFFF])
def test_a_fence_comes_back_with_the_flags_that_are_known(flags: int) -> None:
    """Without the request (community specification, ClientFence)."""
    messages = Messages(Canvas(1, 1, RGBA), Limits())
    for payload in (b"", bytes(range(64))):
        messages.replies.clear()
        messages.feed(struct.pack(">BxxxIB", 248, flags, len(payload)) + payload)
        expected = struct.pack(">BxxxIB", 248, flags & 7, len(payload)) + payload
        assert messages.replies == expected


def test_a_screen_is_taken_at_once() -> None:
    messages = Messages(Canvas(SIDE_PX, SIDE_PX, RGBA), Limits())
    messages.feed(rectangles(0, bytes(4 * AREA_PX), 1))
    assert not messages.behind
    assert messages.updates == 1


def test_a_clipboard_that_is_asked_for_again_and_again() -> None:
    messages = Messages(Canvas(1, 1, RGBA), Limits())
    messages.feed(EXTENDED_CAPABILITIES)
    messages.offer(bytes(range(33, 127)).decode() * 1000)
    messages.replies.clear()
    messages.feed(extended(0x02000001) * 1000)
    once = len(messages.replies)
    messages.feed(extended(0x02000001))
    assert len(messages.replies) == 2 * once
