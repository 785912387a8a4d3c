"""Encodings whose form follows from what they say: each form, and each end of each range.

Written out from RFC 6143, Sections 7.7.3 to 7.7.5, the community specification, and ITU-T T.81.
"""

from __future__ import annotations

import struct

import pytest

from relay.rfb.conversation import Conversation
from relay.rfb.errors import ProtocolError
from tests.labs.conversations import conversation, everything, in_format, sized
from tests.labs.jpeg import DATA, EOI, SCAN, SOI, frame_header, segment
from tests.labs.peers import UPDATE_REQUEST
from tests.labs.rfb_messages import BGR233, PIXEL, rect, u32, update
from tests.labs.splits import check, passes, rectangle, refused

# No byte of it is zero, and the last is a large count.
FULL_PIXEL = b"\x11\x22\x33\xee"

# Tight, where its form follows from the size.


@pytest.mark.parametrize(
    ("w", "h", "body"),
    [
        # 11 bytes and less have no length, 12 have one: three colours, a byte a pixel ...
        (11, 1, b"\x40\x01\x02" + b"abcdefghi" + b"p" * 11),
        (12, 1, b"\x40\x01\x02" + b"abcdefghi" + b"\x05" + b"zzzzz"),
        # ... TPIXELs ...
        (1, 3, b"\x00" + b"t" * 9),
        (1, 4, b"\x00" + b"\x05" + b"zzzzz"),
        (2, 2, b"\x40\x02" + b"\x05" + b"zzzzz"),
        # ... and two colours, a bit a pixel, whole bytes a row.
        (8, 11, b"\x40\x01\x01" + b"abcdef" + b"b" * 11),
        (9, 6, b"\x40\x01\x01" + b"abcdef" + b"\x05" + b"zzzzz"),
        # Bits 0 to 3 reset streams, bits 4 and 5 choose one; only bit 6 tells of a filter.
        (25, 28, b"\x3f" + b"\x05" + b"zzzzz"),
        (1, 1, b"\x8f" + b"rgb"),
        # A length of each form, at its ends.
        (90, 90, b"\x00\x7f" + b"z" * 127),
        (90, 90, b"\x00\x80\x01" + b"z" * 128),
        (90, 90, b"\x00\xff\x7f" + b"z" * 16_383),
        (90, 90, b"\x00\x80\x80\x01" + b"z" * 16_384),
    ],
)
def test_forms_of_tight(w: int, h: int, body: bytes) -> None:
    passes(everything, "down", update(rect(0, 0, w, h, 7, body)))


def test_tight_is_at_most_2048_wide() -> None:
    def make() -> Conversation:
        return sized(4096, 4)

    image = b"\x90\x05\xff\xd8jpg"
    passes(make, "down", update(rect(0, 0, 2048, 1, 7, image)))
    for body in (image, b"\x00\x09deflated!"):
        wire = update(rect(0, 0, 2049, 1, 7, body))
        assert refused(make, "down", wire, 4, rectangle("Tight")) == "tight-width"


def test_tight_fills_any_width() -> None:
    # Xvnc 1.12 at 3840x2160 with `xsetroot -solid "#2e3f55"`: its first rectangle.
    wire = bytes.fromhex("000000000f000870 00000007 80 2e3f55".replace(" ", ""))
    passes(lambda: sized(3840, 2160), "down", b"\0\0\0\1" + wire)


def test_at_8_bits_tight_has_no_gradient() -> None:
    wire = update(rect(0, 0, 8, 8, 7, b"\x40\x02"))
    assert (
        refused(lambda: in_format(BGR233), "down", wire, 4, rectangle("Tight")) == "tight-gradient"
    )


def test_at_8_bits_tight_may_have_jpeg() -> None:
    # What x11vnc 0.9.16 sends to a viewer that asks for 8 bits and a quality level.
    image = b"\xff\xd8" + bytes(65_534 + 8 * 64)
    for body in (b"\x08\xff\xd8xxxxxx", b"\x80\x84\x04" + image):
        passes(lambda: in_format(BGR233), "down", update(rect(0, 0, 8, 8, 7, b"\x90" + body)))
    wire = update(rect(0, 0, 8, 8, 7, b"\x90\x81\x84\x04\xff\xd8"))
    assert refused(lambda: in_format(BGR233), "down", wire, 4, rectangle("Tight")) == "image-length"


def test_tight_png_at_8_bits_has_basic_compression() -> None:
    # QEMU 7.2 and libvncserver: they make no PNG of such pixels.
    palette = b"\x40\x01\xff" + bytes(256) + b"\x0a" + b"d" * 10
    copied = b"\x00\x0c" + b"d" * 12
    for body in (palette, copied):
        wire = update(rect(0, 0, 8, 8, -260, body))
        passes(lambda: in_format(BGR233), "down", wire)
        assert refused(everything, "down", wire, 4, rectangle("TightPNG")) == "tight-control"


@pytest.mark.parametrize("control", [0xB0, 0xC0, 0xD0, 0xE0, 0xF0])
def test_controls_that_tight_png_has_not(control: int) -> None:
    wire = update(rect(0, 0, 8, 8, -260, bytes((control,)) + b"\x08\x89PNG...."))
    assert refused(everything, "down", wire, 4, rectangle("TightPNG")) == "tight-control"


@pytest.mark.parametrize("quality", [-32, -23, -512, -412])
def test_any_quality_level_permits_jpeg(quality: int) -> None:
    image = update(rect(0, 0, 8, 8, 7, b"\x90\x08\xff\xd8xxxxxx"))
    passes(lambda: conversation(7, quality), "down", image)
    # An update under way has the levels of the old list, the next one those of the new.
    for asked in (b"", UPDATE_REQUEST):
        made = conversation(7, quality)
        said = bytearray(asked + struct.pack(">BxHi", 2, 1, 7))
        made.up.judge(said, 0, len(said))
        if asked:
            wire = bytearray(image)
            assert made.down.judge(wire, 0, len(wire)) == len(wire)
        with pytest.raises(ProtocolError) as caught:
            made.down.judge(bytearray(image), 0, len(image))
        assert caught.value.rule == "tight-jpeg"


@pytest.mark.parametrize("level", [-22, -33, -256, -411, -513])
def test_no_other_level_does(level: int) -> None:
    image = update(rect(0, 0, 8, 8, 7, b"\x90\x08\xff\xd8xxxxxx"))
    assert (
        refused(lambda: conversation(7, level), "down", image, 4, rectangle("Tight"))
        == "tight-jpeg"
    )


# Hextile's tiles.


@pytest.mark.parametrize(
    ("w", "h", "tiles"),
    [
        (20, 16, b"\x01" + FULL_PIXEL * 256 + b"\x01" + FULL_PIXEL * 64),
        (16, 20, b"\x01" + FULL_PIXEL * 256 + b"\x01" + FULL_PIXEL * 64),
        # A sub-rectangle in each corner: of one pixel, of the whole tile, to the edges.
        (16, 16, b"\x08\x04" + b"\x00\xff" + b"\xff\x00" + b"\xf0\x0f" + b"\x0f\xf0"),
        (20, 4, b"\x08\x01\x00\xf3" + b"\x08\x02\x00\x33" + b"\x33\x00"),
        # What ends a rectangle waits for nothing: a background, no sub-rectangle, the last one.
        (1, 1, b"\x02" + FULL_PIXEL),
        (1, 1, b"\x06" + FULL_PIXEL + FULL_PIXEL),
        (1, 1, b"\x08\x00"),
        (1, 1, b"\x1a" + FULL_PIXEL + b"\x01" + FULL_PIXEL + b"\x00\x00"),
        (1, 1, b"\x00"),
    ],
)
def test_tiles_of_hextile(w: int, h: int, tiles: bytes) -> None:
    passes(everything, "down", update(rect(0, 0, w, h, 5, tiles)))
    check(everything, "down", update(rect(0, 0, w, h, 5, tiles)))


def test_the_bits_beside_raw_mean_nothing() -> None:
    # "If set, the other bits are irrelevant"; noVNC fails on 31.
    for mask in range(1, 32, 2):
        tile = rect(0, 0, 1, 1, 5, bytes((mask,)) + PIXEL)
        passes(
            everything, "down", update(tile), expected=update(rect(0, 0, 1, 1, 5, b"\x01" + PIXEL))
        )


@pytest.mark.parametrize("place", [b"\x10\xf0", b"\xf0\x10", b"\x01\x0f", b"\x0f\x01"])
def test_sub_rectangles_of_hextile_beyond_one_side(place: bytes) -> None:
    wire = update(rect(0, 0, 16, 16, 5, b"\x08\x01" + place))
    assert refused(everything, "down", wire, 16, rectangle("Hextile")) == "hextile-subrectangle"


@pytest.mark.parametrize("side", [1, 4, 15])
@pytest.mark.parametrize("x", [True, False])
def test_sub_rectangles_of_a_small_tile(side: int, x: bool) -> None:
    def tile(*place: int) -> bytes:
        place_and_size = bytes(value << 4 if x else value for value in place)
        return update(rect(0, 0, side, side, 5, b"\x08\x01" + place_and_size))

    passes(everything, "down", tile(0, side - 1), tile(side - 1, 0))
    for wire in (tile(0, side), tile(side, 0)):
        assert refused(everything, "down", wire, 16, rectangle("Hextile")) == "hextile-subrectangle"


# RRE, TRLE, JPEG.


def test_sub_rectangles_of_rre() -> None:
    def body(*places: tuple[int, int, int, int]) -> bytes:
        areas = b"".join(PIXEL + struct.pack(">HHHH", *place) for place in places)
        return u32(len(places)) + PIXEL + areas

    every = [(x, y, 1, 1) for x in range(2) for y in range(2)]
    passes(everything, "down", update(rect(0, 0, 2, 2, 2, body(*every))))
    passes(
        everything,
        "down",
        update(rect(0, 0, 3, 5, 2, body((0, 0, 3, 5), (2, 4, 1, 1), (3, 5, 0, 0)))),
    )
    for place in ((1, 0, 3, 5), (0, 1, 3, 5)):
        wire = update(rect(0, 0, 3, 5, 2, body(place)))
        assert refused(everything, "down", wire, 24, rectangle("RRE")) == "rre-subrectangle"


def test_palettes_of_trle() -> None:
    colour = b"rgb"
    sixteen = b"\x90" + colour * 16 + b"\x8f\x0f"  # 16 pixels of the last colour
    passes(
        everything,
        "down",
        update(
            rect(0, 0, 16, 17, 15, b"\x90" + colour * 16 + b"\x8f\xff\x00" + b"\x7f" + b"p" * 8)
        ),
    )
    passes(everything, "down", update(rect(0, 0, 16, 1, 15, sixteen)))
    seventeen = b"\x91" + colour * 17 + b"\x90\xff\x00"
    passes(everything, "down", update(rect(0, 0, 16, 17, 15, seventeen + b"\x81\x90\x0f")))
    wire = update(rect(0, 0, 2, 2, 15, b"\x83" + colour * 3 + b"\x03"))
    assert refused(everything, "down", wire, 16 + 10, rectangle("TRLE")) == "trle-index"


FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@pytest.mark.parametrize("marker", [0xBF, *range(0xC0, 0xD0), 0xDB])
def test_each_frame_header_says_a_size(marker: int) -> None:
    # T.81, Table B.1: C4 is DHT, C8 is reserved, CC is DAC; the others begin frames.
    head = frame_header(16, 9, marker)
    image = update(rect(0, 0, 16, 8, 21, SOI + head + SCAN + DATA + EOI))
    if marker in FRAMES:
        assert refused(everything, "down", image, 18, rectangle("JPEG")) == "jpeg-size"
        # A height of 0 would be told behind the scan (T.81, B.2.5).
        later = update(rect(0, 0, 16, 8, 21, SOI + frame_header(16, 0, marker)))
        assert refused(everything, "down", later, 18, rectangle("JPEG")) == "jpeg-size"
        short = update(rect(0, 0, 16, 8, 21, SOI + segment(marker, b"\x08\x00\x08\x00\x10")))
        assert refused(everything, "down", short, 18, rectangle("JPEG")) == "jpeg-segment"
        least = segment(marker, b"\x08\x00\x08\x00\x10\x00")
        passes(everything, "down", update(rect(0, 0, 16, 8, 21, SOI + least + EOI)))
    else:
        passes(everything, "down", image)


def test_a_scan_header_may_end_as_a_marker_begins() -> None:
    scan = segment(0xDA, b"\x01\x01\x00\x00\x3f\xff")
    passes(everything, "down", update(rect(0, 0, 16, 8, 21, SOI + scan + DATA + EOI)))
