"""Encodings beside those every viewer knows: each at every split, and each rule broken.

Bytes are written out from RFC 6143, the community specification (rfbproto), ITU-T T.81 for JPEG,
and, for what is registered but not described, from UltraVNC's viewer and libvncclient.
"""

from __future__ import annotations

import struct

import pytest

from relay.rfb import encodings
from relay.rfb.conversation import Conversation
from tests.labs.conversations import everything
from tests.labs.jpeg import DATA, EOI, IMAGE, SCAN, SOI, TABLES, frame_header, segment
from tests.labs.rfb_messages import PIXEL, RGB565, rect, update
from tests.labs.splits import check, check_refused, passes, rectangle, refused

CPIXEL = PIXEL[:3]
PALETTE_RUNS = b"\x82" + CPIXEL * 2  # two colours


LEGAL = {
    "CoRRE": update(
        rect(
            0,
            0,
            300,
            16,
            4,
            b"\0\0\0\x03" + PIXEL + PIXEL + b"\xff\x00\x2d\x10" + (PIXEL + b"\x08\x08\x00\x08") * 2,
        )
    ),
    "CoRRE, only a background": update(rect(0, 0, 1, 1, 4, b"\0\0\0\0" + PIXEL)),
    "TRLE raw": update(rect(0, 0, 18, 2, 15, b"\0" + CPIXEL * 32 + b"\0" + CPIXEL * 4)),
    "TRLE solid": update(rect(0, 0, 17, 17, 15, (b"\x01" + CPIXEL) * 4)),
    # The packed pixels of a row fill whole bytes.
    "TRLE 2 colours": update(rect(0, 0, 9, 2, 15, b"\x02" + CPIXEL * 2 + b"\xff\x80" * 2)),
    "TRLE 3 colours": update(rect(0, 0, 5, 2, 15, b"\x03" + CPIXEL * 3 + b"\x1b\x40" * 2)),
    "TRLE 4 colours": update(rect(0, 0, 5, 2, 15, b"\x04" + CPIXEL * 4 + b"\x1b\x40" * 2)),
    "TRLE 5 colours": update(rect(0, 0, 3, 2, 15, b"\x05" + CPIXEL * 5 + b"\x01\x20" * 2)),
    "TRLE 16 colours": update(rect(0, 0, 3, 2, 15, b"\x10" + CPIXEL * 16 + b"\x01\x20" * 2)),
    "TRLE palette again": update(
        rect(0, 0, 32, 1, 15, b"\x03" + CPIXEL * 3 + b"\x1b" * 4 + b"\x7f" + b"\x1b" * 4)
    ),
    # "The last tile that had a palette" is the first of four.
    "TRLE palette again, later": update(
        rect(
            0,
            0,
            1,
            64,
            15,
            b"\x02"
            + CPIXEL * 2
            + b"\x80" * 16
            + b"\x01"
            + CPIXEL
            + b"\0"
            + CPIXEL * 16
            + b"\x7f"
            + b"\x80" * 16,
        )
    ),
    "TRLE runs": update(
        rect(
            0,
            0,
            16,
            48,
            15,
            (b"\x80" + CPIXEL + b"\xff\x00")  # 256 pixels
            + (b"\x80" + CPIXEL + b"\xfe" + CPIXEL + b"\x00")  # 255 and 1
            + (b"\x80" + (CPIXEL + b"\x0f") * 16),
        )
    ),
    "TRLE palette runs": update(
        rect(0, 0, 16, 2, 15, PALETTE_RUNS + b"\x00\x01\x80\x1c\x81\x00"),
        rect(0, 0, 16, 16, 15, PALETTE_RUNS + b"\x81\xff\x00"),
    ),
    "TRLE 127 colours in runs": update(
        rect(0, 0, 2, 1, 15, b"\xff" + CPIXEL * 127 + b"\x7e\xfe\x00")
    ),
    "TRLE palette of runs again": update(
        rect(
            0,
            0,
            16,
            64,
            15,
            (PALETTE_RUNS + b"\x81\xff\x00")
            + (b"\x81" + b"\x80\xff\x00")
            + (b"\x7f" + b"\xaa\xaa" * 16)
            + (b"\x81" + b"\x01" + b"\x80\xfe"),
        )
    ),
    "TRLE nothing": update(rect(0, 0, 0, 16, 15)),
    "zlibhex": update(
        rect(
            0,
            0,
            16,
            80,
            8,
            b"\x20\x00\x05zzzzz"  # raw, deflated
            + b"\x5e\x01\x00"  # background, foreground and coloured sub-rectangles, deflated
            + b"z" * 256
            + b"\x7e\x00\x00"
            + b"\x0e"
            + PIXEL * 2
            + b"\x01\x00\xff"  # as in Hextile
            + b"\x01"
            + PIXEL * 256,
        )
    ),
    "Ultra": update(rect(0, 0, 4, 4, 9, b"\0\0\0\x07lzolzo!")),
    "Ultra, empty": update(rect(0, 0, 4, 4, 9, b"\0\0\0\0")),
    "Ultra2": update(rect(0, 0, 16, 8, 10, struct.pack(">I", len(IMAGE)) + IMAGE)),
    "UltraZip": update(rect(3, 65535, 9, 0, -65527, b"\0\0\0\x07lzolzo!")),
    "ZYWRLE": update(rect(0, 0, 4, 4, 17, b"\0\0\0\x07\x78zzzzzz")),
    "JPEG": update(rect(0, 0, 16, 8, 21, IMAGE)),
    "JPEG, tables as before": update(
        rect(0, 0, 16, 8, 21, IMAGE),
        rect(16, 0, 16, 8, 21, SOI + frame_header(16, 8) + SCAN + DATA + EOI),
    ),
    "JPEG, progressive": update(
        rect(
            0,
            0,
            16,
            8,
            21,
            SOI + frame_header(16, 8, 0xC2) + (SCAN + DATA + TABLES) * 3 + SCAN + DATA + EOI,
        )
    ),
    "JPEG, a scan without data": update(rect(0, 0, 16, 8, 21, SOI + SCAN + EOI)),
    "JPEG, bare markers": update(rect(0, 0, 16, 8, 21, SOI + b"\xff\x01\xff\xd3" + EOI)),
    "Open H.264": update(rect(0, 0, 64, 64, 50, b"\0\0\0\x05\0\0\0\x01\0\0\0\x01\x67")),
    "Open H.264, only flags": update(rect(0, 0, 64, 64, 50, b"\0\0\0\0\xff\xff\xff\xff")),
    "XCursor": update(rect(1, 2, 9, 2, -240, b"RGBrgb" + b"\xff\x80" * 2 + b"\xff\x80" * 2)),
    "XCursor 0x2": update(rect(0, 0, 0, 2, -240)),
    "pointer position": update(rect(65535, 3, 0, 0, -232)),
    "VMware": update(
        rect(0, 0, 0, 0, 0x574D5665, b"\x00\x03"),
        rect(9000, 9000, 0, 0, 0x574D5666),
        rect(0, 0, 0, 0, 0x574D5667, b"\x00\x01\0\0\0\x19\0\0\x01\xf4"),
        rect(0, 0, 0, 0, 0x574D566A, b"\x00\x01"),
    ),
    "VMware display mode, then in it": update(
        rect(0, 0, 800, 600, 0x574D5669, RGB565), rect(798, 599, 2, 1, 0, b"\x12\x34" * 2)
    ),
    "libvncserver": update(
        rect(0, 0, 64, 0, -131071, b"m" * 64),
        rect(0, 0, 88, 22, -131070, b"e" * 88),
        rect(0, 0, 30, 0, -131069, b"i" * 30),
        rect(3, 0, 0, 0, -131072),
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_the_desktop_may_say(name: str) -> None:
    passes(everything, "down", LEGAL[name])


# Payload begins at 16: behind the head of the message and the rectangle's.
ILLEGAL: dict[str, tuple[bytes, int, str, str]] = {
    "CoRRE count": (rect(0, 0, 2, 2, 4, b"\0\0\0\x05" + PIXEL), 16, "CoRRE", "rre-count"),
    "CoRRE outside": (
        rect(0, 0, 16, 16, 4, b"\0\0\0\x01" + PIXEL + PIXEL + b"\x0f\x0f\x01\x02"),
        24,
        "CoRRE",
        "rre-subrectangle",
    ),
    "TRLE 17": (rect(0, 0, 1, 1, 15, b"\x11"), 16, "TRLE", "trle-subencoding"),
    "TRLE 126": (rect(0, 0, 1, 1, 15, b"\x7e"), 16, "TRLE", "trle-subencoding"),
    "TRLE no palette to pack": (rect(0, 0, 1, 1, 15, b"\x7f\0"), 16, "TRLE", "trle-palette"),
    "TRLE no palette for runs": (rect(0, 0, 1, 1, 15, b"\x81\0"), 16, "TRLE", "trle-palette"),
    "TRLE solid is no palette": (
        rect(0, 0, 1, 17, 15, b"\x01" + CPIXEL + b"\x81\0"),
        20,
        "TRLE",
        "trle-palette",
    ),
    "TRLE 17 colours packed": (
        rect(0, 0, 1, 17, 15, b"\x91" + CPIXEL * 17 + b"\x80\x0f" + b"\x7f\0"),
        16 + 1 + 51 + 2,
        "TRLE",
        "trle-palette",
    ),
    "TRLE run": (
        rect(0, 0, 2, 2, 15, b"\x80" + CPIXEL + b"\x01" + CPIXEL + b"\x02"),
        16 + 1 + 4,
        "TRLE",
        "trle-run",
    ),
    "TRLE run of 257": (
        rect(0, 0, 16, 16, 15, b"\x80" + CPIXEL + b"\xff\x01"),
        17,
        "TRLE",
        "trle-run",
    ),
    "TRLE run without end": (
        rect(0, 0, 16, 16, 15, b"\x80" + CPIXEL + b"\xff\xff"),
        17,
        "TRLE",
        "trle-run",
    ),
    "TRLE palette run": (
        rect(0, 0, 2, 2, 15, PALETTE_RUNS + b"\x00\x81\x03"),
        16 + 7 + 1,
        "TRLE",
        "trle-run",
    ),
    "TRLE colour": (rect(0, 0, 2, 2, 15, PALETTE_RUNS + b"\x02"), 23, "TRLE", "trle-index"),
    "TRLE colour of a run": (
        rect(0, 0, 2, 2, 15, PALETTE_RUNS + b"\x82\x03"),
        23,
        "TRLE",
        "trle-index",
    ),
    "zlibhex raw and deflated": (rect(0, 0, 1, 1, 8, b"\x21"), 16, "zlibhex", "hextile-mask"),
    "zlibhex bit 7": (rect(0, 0, 1, 1, 8, b"\xc0"), 16, "zlibhex", "hextile-mask"),
    "zlibhex length": (
        rect(0, 0, 16, 16, 8, b"\x40\xff\xff"),
        16,
        "zlibhex",
        "zlibhex-length",
    ),
    "zlibhex outside": (
        rect(0, 0, 8, 8, 8, b"\x08\x01\xff\x00"),
        16,
        "zlibhex",
        "hextile-subrectangle",
    ),
    "Hextile, deflated": (rect(0, 0, 1, 1, 5, b"\x40"), 16, "Hextile", "hextile-mask"),
    "Ultra length": (rect(0, 0, 1, 1, 9, b"\0\0\x20\0"), 4, "Ultra", "ultra-length"),
    "Ultra outside": (rect(640, 0, 1, 1, 9), 4, "Ultra", "rectangle-outside"),
    "Ultra2 length": (rect(0, 0, 1, 1, 10, b"\xff\xff\xff\xff"), 4, "Ultra2", "ultra-length"),
    "UltraZip length": (
        rect(1, 1, 1, 1, -65527, b"\x80\0\0\0"),
        4,
        "UltraZip",
        "ultra-length",
    ),
    "ZYWRLE length": (rect(0, 0, 1, 1, 17, b"\0\0\x20\0"), 4, "ZYWRLE", "zrle-length"),
    "JPEG, not one": (rect(0, 0, 16, 8, 21, b"\x89PNG"), 16, "JPEG", "jpeg-marker"),
    "JPEG, no start": (rect(0, 0, 16, 8, 21, TABLES), 16, "JPEG", "jpeg-marker"),
    "JPEG, two starts": (rect(0, 0, 16, 8, 21, SOI + SOI), 18, "JPEG", "jpeg-marker"),
    "JPEG, bytes between segments": (
        rect(0, 0, 16, 8, 21, SOI + segment(0xE0, b"") + b"xx"),
        22,
        "JPEG",
        "jpeg-marker",
    ),
    "JPEG, stuffing between segments": (
        rect(0, 0, 16, 8, 21, SOI + b"\xff\x00"),
        18,
        "JPEG",
        "jpeg-marker",
    ),
    "JPEG, fill bytes": (
        rect(0, 0, 16, 8, 21, SOI + SCAN + b"d" + b"\xff\xff\xd9"),
        18 + len(SCAN) + 1,
        "JPEG",
        "jpeg-marker",
    ),
    "JPEG, segment": (
        rect(0, 0, 16, 8, 21, SOI + b"\xff\xe0\x00\x01"),
        18,
        "JPEG",
        "jpeg-segment",
    ),
    "JPEG, short frame header": (
        rect(0, 0, 16, 8, 21, SOI + segment(0xC0, b"\x08\x00\x08\x00")),
        18,
        "JPEG",
        "jpeg-segment",
    ),
    "JPEG, wider": (
        rect(0, 0, 16, 8, 21, SOI + TABLES + frame_header(17, 8)),
        18 + len(TABLES),
        "JPEG",
        "jpeg-size",
    ),
    "JPEG, a bomb": (
        rect(0, 0, 16, 8, 21, SOI + frame_header(65535, 65535, 0xC2)),
        18,
        "JPEG",
        "jpeg-size",
    ),
    "JPEG, scan without end": (
        rect(0, 0, 1, 1, 21, SOI + SCAN + b"\0" * 65_536),
        16 + 8 + 65_536,
        "JPEG",
        "jpeg-length",
    ),
    "JPEG, segments without end": (
        rect(0, 0, 1, 1, 21, SOI + segment(0xE0, b"\0" * 60_000) + segment(0xE0, b"\0" * 6_000)),
        16 + 2 + 60_004,
        "JPEG",
        "jpeg-length",
    ),
    "Open H.264": (
        rect(0, 0, 1, 1, 50, struct.pack(">II", 4_194_305, 0)),
        4,
        "Open H.264",
        "h264-length",
    ),
    "XCursor": (rect(0, 0, 65535, 65535, -240), 4, "XCursor", "cursor-size"),
    "24 bits per pixel": (
        rect(0, 0, 800, 600, 0x574D5669, b"\x18" + RGB565[1:]),
        4,
        "VMware display mode change",
        "pixel-format",
    ),
    "no screen": (
        rect(0, 0, 0, 600, 0x574D5669, RGB565),
        4,
        "VMware display mode change",
        "framebuffer-size",
    ),
    "libvncserver's messages": (
        rect(0, 0, 65, 0, -131071),
        4,
        "libvncserver supported messages",
        "supported-messages-length",
    ),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_the_desktop_must_not_say(name: str) -> None:
    body, offset, encoding, rule = ILLEGAL[name]
    assert refused(everything, "down", update(body), offset, rectangle(encoding)) == rule


def test_a_palette_is_not_used_again_in_the_next_rectangle() -> None:
    first = rect(0, 0, 1, 1, 15, b"\x02" + CPIXEL * 2 + b"\x80")
    wire = update(first, rect(0, 0, 1, 1, 15, b"\x7f\x80"))
    offset = 4 + len(first) + 12
    check_refused(everything, "down", wire, offset, rectangle("TRLE", 1))


@pytest.mark.parametrize(
    ("pixels", "cpixel_bytes"),
    [
        ((32, 24, 0, 1, 255, 255, 255, 16, 8, 0), 3),
        ((32, 24, 0, 1, 255, 255, 255, 24, 16, 8), 3),
        ((32, 32, 0, 1, 255, 255, 255, 16, 8, 0), 4),
        ((32, 24, 0, 1, 255, 255, 255, 24, 8, 0), 4),
        ((16, 16, 0, 1, 31, 63, 31, 11, 5, 0), 2),
        ((8, 8, 0, 1, 7, 7, 3, 0, 3, 6), 1),
    ],
)
def test_trle_in_every_pixel_size(pixels: tuple[int, ...], cpixel_bytes: int) -> None:
    def make() -> Conversation:
        made = everything()
        wanted = bytearray(4) + struct.pack(">BBBBHHHBBBxxx", *pixels)
        assert made.up.judge(wanted, 0, len(wanted)) == 20
        return made

    cpixel = b"c" * cpixel_bytes
    tiles = (
        b"\0"
        + cpixel * 16
        + (b"\x01" + cpixel)
        + (b"\x02" + cpixel * 2 + b"\x80" * 16)
        + (b"\x80" + cpixel + b"\x0f")
        + (b"\x82" + cpixel * 2 + b"\x81\x0f")
    )
    check(make, "down", update(rect(0, 0, 1, 80, 15, tiles)) + b"\x02")


@pytest.mark.parametrize(("x", "relative"), [(0, True), (1, False)])
def test_qemu_says_how_it_reads_the_pointer(x: int, relative: bool) -> None:
    made = check(everything, "down", update(rect(x, 0, 640, 480, -257)))
    assert made.state.pointer_relative is relative


def test_qemu_offers_audio() -> None:
    assert not everything().state.audio
    assert check(everything, "down", update(rect(0, 0, 640, 480, -259))).state.audio


def test_a_display_mode_has_its_padding_and_flags_written_anew() -> None:
    odd = RGB565[:2] + b"\x00\xff" + RGB565[4:13] + b"pad"
    made = check(
        everything,
        "down",
        update(rect(0, 0, 800, 600, 0x574D5669, odd)),
        update(rect(0, 0, 800, 600, 0x574D5669, RGB565)),
    )
    assert (made.state.width, made.state.height) == (800, 600)
    assert made.state.pixel_format.pack() == RGB565


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 9)])
def test_a_name_somewhere_is_not_for_the_viewer(place: tuple[int, int, int, int]) -> None:
    name = encodings.REGISTRY[-307]
    dropped = name.applied(bytearray(b"\0\0\0\0"), 0, *place, everything().state)
    assert dropped is any(place)


def test_what_endangers_a_viewer_is_framed_and_left_out() -> None:
    assert {9, 10, -65527, 0x574D5669} == encodings.RISKY
    assert set(encodings.REGISTRY) >= encodings.RISKY
    assert not encodings.LET_THROUGH & encodings.RISKY
    assert set(encodings.REGISTRY) | encodings.SIGNALS == encodings.LET_THROUGH | encodings.RISKY
