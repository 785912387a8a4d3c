"""A desktop's messages, painted: how much of what has come is done at once."""

from __future__ import annotations

import struct
import zlib

import pytest

from relay.limits import Limits
from relay.rfb.pixels.canvas import Canvas
from relay.rfb.pixels.messages import WORK_AT_ONCE_PX, Messages
from tests.painting import RGBA
from tests.test_client import EXTENDED_CAPABILITIES, extended, provided

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
