"""What waits of each encoding is a stated constant, and the work is linear in the bytes."""

from __future__ import annotations

import struct
import sys
from types import FrameType
from typing import Any

import pytest

from relay.rfb import encodings
from relay.rfb.conversation import Conversation
from relay.rfb.encodings.base import Walker
from relay.rfb.from_desktop import TAIL_LIMIT_BYTES
from tests.labs.conversations import everything, in_format
from tests.labs.jpeg import EOI, IMAGE, SCAN, SOI, frame_header, segment
from tests.labs.rfb_messages import BGR233, PIXEL, RGB565, rect, update
from tests.labs.splits import Feeder

TIGHT_PALETTE = b"\x50\x01\xff" + PIXEL * 256 + b"\x80\x80\x01" + b"z" * 16_384
HEXTILE_TILE = b"\x1e" + PIXEL * 2 + b"\xff" + (PIXEL + b"\x00\x00") * 255

DATA = b"z" * 16_384

# For each encoding of which something may wait, the rectangle that makes most of it wait, at 32
# bits of depth where it does not say otherwise.
LONGEST = {
    1: rect(0, 0, 1, 1, 1, b"\0\0\0\0"),
    2: rect(0, 0, 1, 1, 2, b"\0\0\0\x01" + PIXEL * 2 + struct.pack(">4H", 0, 0, 1, 1)),
    4: rect(0, 0, 1, 1, 4, b"\0\0\0\x01" + PIXEL * 2 + b"\0\0\x01\x01"),
    5: rect(0, 0, 16, 16, 5, HEXTILE_TILE),
    6: rect(0, 0, 1, 1, 6, b"\0\0\0\0"),
    7: rect(0, 0, 128, 256, 7, TIGHT_PALETTE),
    8: rect(0, 0, 16, 16, 8, HEXTILE_TILE),
    9: rect(0, 0, 1, 1, 9, b"\0\0\0\0"),
    10: rect(0, 0, 1, 1, 10, b"\0\0\0\0"),
    15: rect(0, 0, 1, 1, 15, b"\xff" + PIXEL * 127 + b"\0"),
    16: rect(0, 0, 1, 1, 16, b"\0\0\0\x01\x78"),
    17: rect(0, 0, 1, 1, 17, b"\0\0\0\x01\x78"),
    21: rect(0, 0, 16, 8, 21, IMAGE),
    50: rect(0, 0, 1, 1, 50, b"\0\0\0\0" + b"\0\0\0\0"),
    # At 8 bits per pixel.
    -260: rect(0, 0, 128, 256, -260, b"\x50\x01\xff" + bytes(256) + b"\x80\x80\x01" + DATA),
    -65527: rect(0, 0, 1, 1, -65527, b"\0\0\0\0"),
    -307: rect(0, 0, 0, 0, -307, b"\0\0\0\0"),
    -308: rect(0, 0, 640, 480, -308, b"\0\0\0\0"),
    -314: rect(0, 0, 128, 256, -314, b"\0\0\0\x07" + TIGHT_PALETTE),
    0x574D5664: rect(0, 0, 0, 0, 0x574D5664, b"\0\0"),
    0x574D5669: rect(0, 0, 640, 480, 0x574D5669, RGB565),
}


def deep() -> Conversation:
    """At 32 bits of depth, where CPIXEL and TPIXEL are of four bytes."""
    made = everything()
    wanted = bytearray(4) + struct.pack(">BBBBHHHBBBxxx", 32, 32, 0, 1, 255, 255, 255, 16, 8, 0)
    assert made.up.judge(wanted, 0, len(wanted)) == 20
    return made


def waited(wire: bytes, *, walks: bool, shallow: bool = False) -> int:
    """The most that was presented again, byte by byte; of a walk alone, where there is one."""
    reader = (in_format(BGR233) if shallow else deep()).down
    feeder = Feeder(reader, TAIL_LIMIT_BYTES)
    most = 0
    for byte in wire:
        feeder.feed(bytes([byte]))
        if reader.walking or not walks:
            most = max(most, len(feeder.tail))
    assert not feeder.tail
    return most


@pytest.mark.parametrize("number", LONGEST)
def test_what_waits_is_the_stated_constant(number: int) -> None:
    encoding = encodings.REGISTRY[number]
    # A walk begins when the rectangle's header has passed; a head waits together with it.
    walks = isinstance(encoding, Walker)
    header = 0 if walks else 12
    most = waited(update(LONGEST[number]), walks=walks, shallow=number == -260)
    assert most == header + encoding.element_limit_bytes - 1


def test_the_constants_are_within_the_limit_of_the_tail() -> None:
    limits = {number: e.element_limit_bytes for number, e in encodings.REGISTRY.items()}
    assert {number for number, limit in limits.items() if limit} == set(LONGEST)
    assert 12 + max(limits.values()) == TAIL_LIMIT_BYTES


def lines_run(wire: bytes, chunk_bytes: int) -> int:
    """How many lines of the parsers run to read an update that comes in chunks."""
    feeder = Feeder(deep().down, TAIL_LIMIT_BYTES)
    count = 0

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return on_line

    def on_call(frame: FrameType, event: str, argument: Any) -> Any:
        return on_line if "/relay/rfb/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        for at in range(0, len(wire), chunk_bytes):
            feeder.feed(wire[at : at + chunk_bytes])
    finally:
        sys.settrace(before)
    assert not feeder.tail
    return count


def rre(kilobytes: int) -> bytes:
    count = kilobytes * 1024 // 12
    area = struct.pack(">4H", 0, 0, 1, 1)
    return rect(0, 0, 640, 480, 2, struct.pack(">I", count) + PIXEL + (PIXEL + area) * count)


def corre(kilobytes: int) -> bytes:
    count = kilobytes * 1024 // 8
    areas = (PIXEL + b"\0\0\x01\x01") * count
    return rect(0, 0, 640, 480, 4, struct.pack(">I", count) + PIXEL + areas)


def hextile(kilobytes: int) -> bytes:
    tiles = kilobytes * 1024 // len(HEXTILE_TILE) + 1
    return rect(0, 0, 16 * tiles, 16, 5, HEXTILE_TILE * tiles)


def trle(kilobytes: int) -> bytes:
    tile = b"\xff" + PIXEL * 127 + (b"\x80\x00" * 256)
    tiles = kilobytes * 1024 // len(tile) + 1
    return rect(0, 0, 16 * tiles, 16, 15, tile * tiles)


def jpeg(kilobytes: int) -> bytes:
    data = b"\xff\x00\xff\xd0" * (kilobytes * 256)
    return rect(0, 0, 640, 480, 21, SOI + frame_header(640, 480) + SCAN + data + EOI)


def jpeg_segments(kilobytes: int) -> bytes:
    return rect(0, 0, 640, 480, 21, SOI + segment(0xE0, b"") * (kilobytes * 256) + EOI)


def tight(kilobytes: int) -> bytes:
    one = b"\x50\x01\xff" + PIXEL * 256 + b"\0"
    return b"".join(rect(0, 0, 4, 4, 7, one) for _ in range(kilobytes))


MANY = (rre, corre, hextile, trle, jpeg, jpeg_segments, tight)


@pytest.mark.parametrize("chunk_bytes", [1, 13, 997, 1 << 20])
@pytest.mark.parametrize("make", MANY, ids=lambda make: make.__name__)
def test_the_work_is_linear_whatever_the_chunks(make: Any, chunk_bytes: int) -> None:
    def work(kilobytes: int) -> float:
        rectangles = make(kilobytes)
        wire = update(rectangles, count=kilobytes if make is tight else 1)
        return lines_run(wire, chunk_bytes) / len(wire)

    # No more for a byte of a large payload than for one of a small, and little for either: a
    # byte that comes alone makes a call of each reader.
    assert work(32) <= 1.05 * work(4) <= (80 if chunk_bytes == 1 else 20)
