"""Cursors, written out from RFC 6143, Section 7.8.1, and the community specification."""

from __future__ import annotations

import struct
import zlib

import pytest

from relay.rfb.pixels import DECODERS, Canvas, Cursor
from tests.labs.painting import RGB565, canvas, paint, refused, rows, run

PIXELS, BITMAPS, ALPHA = -239, -240, -314
HIDDEN = (0, 0, 0, 0)


def shape(payload: bytes, number: int, x: int, y: int, w: int, h: int, on: Canvas) -> Cursor:
    before = on.pixels.copy()
    run(DECODERS[number](on, x, y, w, h), payload)
    assert (on.pixels == before).all(), "the screen stays as it is"
    assert on.cursor is not None
    assert (on.cursor.hot_x, on.cursor.hot_y) == (x, y)
    assert on.cursor.image.shape == (h, w, 4)
    return on.cursor


def test_cursor() -> None:
    # Red and green, of which the second is masked out; 565, little endian.
    found = shape(b"\0\xf8\xe0\x07" + b"\x80", PIXELS, 1, 0, 2, 1, canvas(3, 3, RGB565))
    assert rows(found.image) == [[(255, 0, 0, 255), (0, 255, 0, 0)]]


def test_cursor_of_nine_has_two_bytes_a_row() -> None:
    mask = b"\x80\x80\x00\x00\xff\x00"
    found = shape(b"\1\2\3\0" * 27 + mask, PIXELS, 8, 2, 9, 3, canvas(1, 1))
    assert [[pixel[3] for pixel in row] for row in rows(found.image)] == [
        [255, 0, 0, 0, 0, 0, 0, 0, 255],
        [0] * 9,
        [255] * 8 + [0],
    ]


def test_xcursor() -> None:
    # Bit set: primary colour. Bit of the mask set: shown.
    found = shape(b"\1\2\3\4\5\6" + b"\x40" + b"\xc0", BITMAPS, 0, 0, 3, 1, canvas(1, 1, RGB565))
    assert rows(found.image) == [[(4, 5, 6, 255), (1, 2, 3, 255), (4, 5, 6, 0)]]


@pytest.mark.parametrize("number", [PIXELS, BITMAPS])
@pytest.mark.parametrize("size", [(0, 0), (0, 2), (2, 0)])
def test_a_hidden_cursor(number: int, size: tuple[int, int]) -> None:
    assert shape(b"", number, 0, 0, *size, canvas(1, 1)).image.size == 0


RAW, HEXTILE, TIGHT, ZRLE = (struct.pack(">i", number) for number in (0, 5, 7, 16))
# Half of red at half alpha is red; at no alpha is nothing.
HALF = b"\x80\0\0\x80"
SOLID = b"\1\2\3\xff"


def deflated(data: bytes) -> bytes:
    return zlib.compress(data)


@pytest.mark.parametrize(
    "payload",
    [
        RAW + HALF + SOLID + bytes(4) + HALF,
        HEXTILE + b"\x1a" + HALF + b"\x02" + SOLID + b"\x10\x00" + bytes(4) + b"\x01\x00",
        # A TPIXEL of depth 32 has four bytes, and so has a CPIXEL.
        TIGHT + b"\x40\x01\x02" + HALF + SOLID + bytes(4) + b"\0\1\2\0",
        TIGHT
        + b"\x00"
        + (lambda data: bytes((len(data),)) + data)(deflated(HALF + SOLID + bytes(4) + HALF)),
        ZRLE
        + (lambda data: struct.pack(">I", len(data)) + data)(
            deflated(b"\0" + HALF + SOLID + bytes(4) + HALF)
        ),
    ],
    ids=["Raw", "Hextile", "Tight", "Tight, deflated", "ZRLE"],
)
def test_cursor_with_alpha(payload: bytes) -> None:
    found = shape(payload, ALPHA, 1, 1, 2, 2, canvas(1, 1, RGB565))
    half, solid = (255, 0, 0, 128), (1, 2, 3, 255)
    assert rows(found.image) == [[half, solid], [HIDDEN, half]]


def test_a_filled_cursor_with_alpha() -> None:
    found = shape(TIGHT + b"\x80" + HALF, ALPHA, 0, 0, 3, 1, canvas(1, 1))
    assert rows(found.image) == [[(255, 0, 0, 128)] * 3]


def test_colours_above_their_alpha_are_the_brightest() -> None:
    found = shape(RAW + b"\xff\x01\x02\x02", ALPHA, 0, 0, 1, 1, canvas(1, 1))
    assert rows(found.image) == [[(255, 128, 255, 2)]]


def test_its_zlib_stream_is_that_of_the_screen() -> None:
    """As the specification says of ZRLE."""
    on = canvas(1, 1)
    packer = zlib.compressobj()

    def sent(tile: bytes) -> bytes:
        data = packer.compress(tile) + packer.flush(zlib.Z_SYNC_FLUSH)
        return struct.pack(">I", len(data)) + data

    assert paint(on, 16, (0, 0, 1, 1), sent(b"\x01\1\2\3")) == [[(1, 2, 3, 255)]]
    assert rows(shape(ZRLE + sent(b"\x01" + SOLID), ALPHA, 0, 0, 1, 1, on).image) == [
        [(1, 2, 3, 255)]
    ]
    assert paint(on, 16, (0, 0, 1, 1), sent(b"\x01\4\5\6")) == [[(4, 5, 6, 255)]]


@pytest.mark.parametrize("inner", [1, 2, 6, -239, -314])
def test_what_may_not_be_inside(inner: int) -> None:
    refused("cursor-encoding", ALPHA, (1, 1), struct.pack(">i", inner))


@pytest.mark.parametrize("number", [PIXELS, BITMAPS, ALPHA])
@pytest.mark.parametrize("size", [(1025, 1), (1, 1025), (65535, 65535)])
def test_too_large(number: int, size: tuple[int, int]) -> None:
    refused("cursor-size", number, size, b"", on=canvas(1, 1))
