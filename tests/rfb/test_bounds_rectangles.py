"""Each limit of a rectangle: what is at it passes, what is one beyond is refused.

Rectangles are 3x5 where nothing else is said, at 32 bits per pixel and depth 24: 60 bytes of
pixels, 45 of CPIXELs and TPIXELs. Their shapes are those of RFC 6143 and of the community
specification; the limits are docs/protocol.md's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.labs.conversations import conversation, everything, in_format
from tests.labs.jpeg import EOI, image_of
from tests.labs.peers import PIXEL_FORMAT
from tests.labs.rfb_messages import BGR233, PIXEL, compact, rect, u32, update
from tests.labs.splits import passes, passes_head, rectangle, refused

# Lengths that a payload announces.

Head = Callable[[int], bytes]


def zrle(length: int) -> bytes:
    """With the first byte of a zlib stream (RFC 1950, Section 2.2)."""
    return u32(length) + b"\x78"


LENGTHS: dict[str, tuple[int, Head, int, str]] = {
    "zlib": (6, u32, 2 * 60 + 4096, "zlib-length"),
    "ZRLE": (16, zrle, 2 * 45 + 64 + 4096, "zrle-length"),
    "ZYWRLE": (17, zrle, 2 * 45 + 64 + 4096, "zrle-length"),
    "Ultra": (9, u32, 2 * 60 + 4096, "ultra-length"),
    "Ultra2": (10, u32, 2 * 60 + 65_536, "ultra-length"),
    "UltraZip": (
        -65527,
        u32,
        2 * (640 * 480 * 4 + 65_535 * 12) + 4096,
        "ultra-length",
    ),
    "Open H.264": (50, lambda n: u32(n) + b"\0\0\0\0", 4_194_304, "h264-length"),
    # A payload of 45 bytes, and an eighth of it.
    "Tight": (7, lambda n: b"\0" + compact(n), 45 + 5 + 4096, "tight-length"),
    "DesktopName": (-307, u32, 4096, "name-length"),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths(name: str) -> None:
    number, head, limit, rule = LENGTHS[name]
    place = (0, 0, 0, 0) if number == -307 else (0, 0, 3, 5)
    opaque = limit - 1 if head is zrle else limit
    passes_head(everything, "down", update(rect(*place, number, head(limit))), opaque)
    wire = update(rect(*place, number, head(limit + 1)))
    assert refused(everything, "down", wire, 4, rectangle(name)) == rule


def test_zrle_counts_tiles() -> None:
    # 65x65: four tiles of 64x64.
    limit = 2 * 65 * 65 * 3 + 4 * 64 + 4096
    passes_head(everything, "down", update(rect(0, 0, 65, 65, 16, zrle(limit))), limit - 1)
    wire = update(rect(0, 0, 65, 65, 16, u32(limit + 1)))
    assert refused(everything, "down", wire, 4, rectangle("ZRLE")) == "zrle-length"


def test_zrle_may_begin_in_a_cursor() -> None:
    # Whether the stream is the same depends on the desktop.
    cursor = rect(0, 0, 3, 5, -314, b"\0\0\0\x10" + u32(2) + b"\x79\x9c")
    passes(everything, "down", update(cursor, rect(0, 0, 3, 5, 16, u32(2) + b"\x9c\x9c")))
    plain = rect(0, 0, 1, 1, -314, b"\0\0\0\0rgba")
    wire = update(plain, rect(0, 0, 3, 5, 16, u32(2) + b"\x9c\x9c"))
    assert refused(everything, "down", wire, 24, rectangle("ZRLE", 1))


@pytest.mark.parametrize("number", [16, 17])
def test_zrle_begins_a_zlib_stream(number: int) -> None:
    def tile(body: bytes) -> bytes:
        return rect(0, 0, 3, 5, number, u32(len(body)) + body)

    name = rectangle({16: "ZRLE", 17: "ZYWRLE"}[number])
    assert refused(everything, "down", update(tile(b"\x79\x9c")), 4, name) == "zrle-header"
    # An empty one begins nothing; behind the first, the stream goes on.
    passes(everything, "down", update(tile(b""), tile(b"\x78"), tile(b"\x9c"), tile(b"")))
    assert refused(everything, "down", update(tile(b""), tile(b"\x9c")), 20, name.replace("0", "1"))


IMAGES = {"Tight": (7, 0x90, b"\xff\xd8"), "TightPNG": (-260, 0xA0, b"\x89P")}


@pytest.mark.parametrize("name", IMAGES)
def test_images_in_tight(name: str) -> None:
    number, control, magic = IMAGES[name]

    def image(length: int, begins: bytes = magic) -> bytes:
        return rect(0, 0, 3, 5, number, bytes((control,)) + compact(length) + begins)

    limit = 2 * 60 + 65_536
    passes_head(everything, "down", update(image(limit)), limit - 2)
    for length in (4, 5, 127, 128, 16_383, 16_384):
        body = b"i" * (length - 2)
        passes(everything, "down", update(image(length) + body))
    where = rectangle(name)
    assert refused(everything, "down", update(image(limit + 1) + b"xx"), 4, where) == "image-length"
    assert refused(everything, "down", update(image(3) + b"xx"), 4, where) == "image-length"
    for wrong in (magic[:1] + b"?", b"?" + magic[1:]):
        assert (
            refused(everything, "down", update(image(100, wrong) + b"xx"), 4, where)
            == "image-magic"
        )


def test_a_jpeg_image_is_bounded_to_the_byte() -> None:
    limit = 2 * 60 + 65_536
    passes(everything, "down", update(rect(0, 0, 3, 5, 21, image_of(limit))))
    wire = update(rect(0, 0, 3, 5, 21, image_of(limit + 1)))
    end = 16 + limit + 1 - len(EOI)
    assert refused(everything, "down", wire, end, rectangle("JPEG")) == "jpeg-length"


def test_a_deflated_tile_of_zlibhex() -> None:
    # Twice the largest tile, 1,540 bytes, and 1 KiB.
    limit = 2 * 1540 + 1024
    tile = b"\x40" + struct.pack(">H", limit)
    passes_head(everything, "down", update(rect(0, 0, 3, 5, 8, tile)), limit)
    wire = update(rect(0, 0, 3, 5, 8, b"\x40" + struct.pack(">H", limit + 1)))
    assert refused(everything, "down", wire, 16, rectangle("zlibhex")) == "zlibhex-length"


# Sizes and positions.


@pytest.mark.parametrize(
    ("x", "y", "legal"), [(610, 460, True), (611, 460, False), (610, 461, False)]
)
def test_places(x: int, y: int, legal: bool) -> None:
    copy = update(rect(0, 0, 30, 20, 1, struct.pack(">HH", x, y)))
    paint = update(rect(x, y, 30, 20, 16, u32(0)))
    if legal:
        passes(everything, "down", copy, paint)
    else:
        assert refused(everything, "down", copy, 4, rectangle("CopyRect")) == "copyrect-source"
        assert refused(everything, "down", paint, 4, rectangle("ZRLE")) == "rectangle-outside"


@pytest.mark.parametrize("w", [16_384, 16_385])
def test_framebuffers(w: int) -> None:
    # At most 16,384 a side and 67,108,864 pixels in all.
    for number, body, name in (
        (-223, b"", "DesktopSize"),
        (-308, b"\0\0\0\0", "ExtendedDesktopSize"),
        (0x574D5669, PIXEL_FORMAT, "VMware display mode change"),
    ):
        for size in ((w, 1), (1, w), (w, 4096), (4096, w)):
            wire = update(rect(0, 0, *size, number, body))
            if w == 16_384:
                passes(everything, "down", wire)
            else:
                assert refused(everything, "down", wire, 4, rectangle(name)) == "framebuffer-size"
        for size in ((16_384, 4097), (8_193, 8_192), (0, 5), (5, 0)):
            wire = update(rect(0, 0, *size, number, body))
            assert refused(everything, "down", wire, 4, rectangle(name)) == "framebuffer-size"


def test_a_new_size_counts_in_each_direction() -> None:
    passes(everything, "down", update(rect(0, 0, 700, 480, -223), rect(699, 0, 1, 1, 0, PIXEL)))
    passes(everything, "down", update(rect(0, 0, 640, 500, -223), rect(0, 499, 1, 1, 0, PIXEL)))


@pytest.mark.parametrize(
    ("reason", "status", "size"),
    [
        (0, 0, (800, 600)),
        (0, 1, (800, 600)),
        (1, 0, (800, 600)),
        # Refused: "the width and height are undefined" (ExtendedDesktopSize).
        (1, 1, (640, 480)),
        (2, 3, (800, 600)),
    ],
)
def test_a_refused_resize_leaves_the_size(reason: int, status: int, size: tuple[int, int]) -> None:
    made = passes(everything, "down", update(rect(reason, status, 800, 600, -308, b"\0\0\0\0")))
    assert (made.state.width, made.state.height) == size


def test_screens() -> None:
    passes(everything, "down", update(rect(0, 0, 640, 480, -308, b"\x10\0\0\0" + b"s" * 256)))
    padded = rect(0, 0, 640, 480, -308, b"\x01abc" + b"s" * 16)
    clean = rect(0, 0, 640, 480, -308, b"\x01\0\0\0" + b"s" * 16)
    passes(everything, "down", update(padded), expected=update(clean))


# Cursors.

CURSORS = {
    "Cursor": (-239, b""),
    "XCursor": (-240, b""),
    "VMware cursor": (0x574D5664, b"\0\0"),
    "CursorWithAlpha": (-314, b"\0\0\0\0"),
}


@pytest.mark.parametrize("name", CURSORS)
def test_cursors(name: str) -> None:
    number, head = CURSORS[name]
    opaque = {
        "Cursor": 1024 * 4 + 128,
        "XCursor": 6 + 2 * 128,
        "VMware cursor": 2 * 1024 * 4,
        "CursorWithAlpha": 1024 * 4,
    }
    passes_head(everything, "down", update(rect(0, 0, 1024, 1, number, head)), opaque[name])
    for size in ((1025, 1), (1, 1025)):
        wire = update(rect(0, 0, *size, number, head))
        assert refused(everything, "down", wire, 4, rectangle(name)) == "cursor-size"


def test_the_rows_of_a_mask_fill_whole_bytes() -> None:
    for w, row in ((1, 1), (8, 1), (9, 2), (16, 2), (17, 3)):
        passes(everything, "down", update(rect(0, 0, w, 3, -239, PIXEL * w * 3 + b"m" * row * 3)))
        passes(everything, "down", update(rect(0, 0, w, 3, -240, b"RGBrgb" + b"m" * row * 6)))
    for w, h in ((5, 0), (0, 5)):
        passes(everything, "down", update(rect(0, 0, w, h, -240)), update(rect(0, 0, w, h, -239)))
    padded = rect(0, 0, 1, 1, 0x574D5664, b"\x01\xaa" + PIXEL)
    clean = rect(0, 0, 1, 1, 0x574D5664, b"\x01\0" + PIXEL)
    passes(everything, "down", update(padded), expected=update(clean))


def test_a_cursor_with_alpha_has_pixels_of_four_bytes() -> None:
    passes(everything, "down", update(rect(0, 0, 3, 5, -314, b"\0\0\0\x07" + b"\x80" + b"rgba")))
    passes(everything, "down", update(rect(0, 0, 1, 1, -314, b"\0\0\0\0" + b"rgba")))
    limit = 2 * 60 + 64 + 4096
    for length in (limit, limit + 1):
        wire = update(rect(0, 0, 3, 5, -314, b"\0\0\0\x10" + u32(length)))
        if length == limit:
            passes_head(everything, "down", wire, limit)
        else:
            assert (
                refused(everything, "down", wire, 4, rectangle("CursorWithAlpha")) == "zrle-length"
            )


def test_hextile_inside_a_cursor() -> None:
    # 20x17: a tile in sub-rectangles, a raw one of four bytes a pixel, two of a background.
    tiles = b"\x18\x01rgba\x00\xff" + b"\x01" + b"r" * 256 + b"\x02rgba" + b"\x00"
    cursor = rect(9, 9, 20, 17, -314, b"\0\0\0\x05" + tiles)
    passes(everything, "down", update(cursor, rect(0, 0, 1, 1, 0, PIXEL)), update(cursor))
    # Pixels of the framebuffer are of one byte meanwhile.
    passes(lambda: in_format(BGR233), "down", update(cursor, rect(0, 0, 1, 1, 0, b"p")))
    where = rectangle("CursorWithAlpha")
    wrong = update(rect(0, 0, 20, 17, -314, b"\0\0\0\x05" + b"\x20" + tiles[1:]))
    assert refused(everything, "down", wrong, 20, where) == "hextile-mask"
    wide = update(rect(0, 0, 1025, 1, -314, b"\0\0\0\x05" + tiles))
    assert refused(everything, "down", wide, 4, where) == "cursor-size"
    alone = update(rect(0, 0, 20, 17, -314, b"\0\0\0\x05" + tiles))
    assert refused(lambda: conversation(-314), "down", alone, 4, where) == "encoding-not-offered"
