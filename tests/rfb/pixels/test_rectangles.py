"""Raw, CopyRect, RRE, CoRRE, Hextile and zlib: payloads written out from RFC 6143 and the community
specification, and each rule broken."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from relay.rfb.pixels import DECODERS
from tests.labs.painting import RGB565, canvas, deflated, paint, picture, refused, rows, run

RED, GREEN, BLUE, WHITE = b"\xff\0\0\0", b"\0\xff\0\0", b"\0\0\xff\0", b"\xff\xff\xff\0"


def test_raw() -> None:
    on = canvas(4, 3)
    paint(on, 0, (1, 1, 2, 2), RED + GREEN + BLUE + WHITE)
    assert rows(on.pixels) == picture("....", ".RG.", ".BW.")


def test_raw_of_two_bytes() -> None:
    # 565: five bits of red at the top, five of blue at the bottom, little endian.
    assert paint(canvas(3, 1, RGB565), 0, (0, 0, 3, 1), b"\0\xf8\xe0\x07\x1f\0") == picture("RGB")


@pytest.mark.parametrize("number", [0, 6, 7, 15, 16, 5])
@pytest.mark.parametrize("size", [(0, 0), (0, 3), (3, 0)])
def test_a_rectangle_without_pixels(number: int, size: tuple[int, int]) -> None:
    payload = {
        6: deflated(b""),
        7: b"\x00",
        16: b"\0\0\0\0",
    }.get(number, b"")
    on = canvas(4, 4)
    run(DECODERS[number](on, 1, 1, *size), payload)
    run(DECODERS[7](on, 1, 1, *size), b"\x40\x02")  # by the gradient filter
    assert rows(on.pixels) == picture("....", "....", "....", "....")


def test_copyrect() -> None:
    on = canvas(4, 2)
    paint(on, 0, (0, 0, 2, 2), RED + GREEN + BLUE + WHITE)
    paint(on, 1, (2, 0, 2, 2), b"\0\0\0\0")
    assert rows(on.pixels) == picture("RGRG", "BWBW")


@pytest.mark.parametrize(
    ("to", "source", "expected"), [(1, 0, "RRGB"), (0, 1, "GBWW")], ids=["right", "left"]
)
def test_copyrect_onto_itself(to: int, source: int, expected: str) -> None:
    on = canvas(4, 1)
    paint(on, 0, (0, 0, 4, 1), RED + GREEN + BLUE + WHITE)
    paint(on, 1, (to, 0, 3, 1), struct.pack(">HH", source, 0))
    assert rows(on.pixels) == picture(expected)


@pytest.mark.parametrize("at", [(1, 0), (0, 1), (65535, 65535)])
def test_copyrect_from_outside(at: tuple[int, int]) -> None:
    refused("copyrect-source", 1, (2, 2), struct.pack(">HH", *at))


RRE = {2: ">4H", 4: ">4B"}


@pytest.mark.parametrize("number", RRE)
def test_rre(number: int) -> None:
    area = struct.Struct(RRE[number])
    payload = (
        (b"\0\0\0\x03" + RED)  # three on red
        + (GREEN + area.pack(1, 0, 2, 2))
        + (BLUE + area.pack(2, 1, 1, 1))  # over the green
        + (WHITE + area.pack(0, 0, 0, 1))  # nothing
    )
    on = canvas(5, 3)
    paint(on, number, (1, 0, 4, 2), payload)
    assert rows(on.pixels) == picture(".RGGR", ".RGBR", ".....")


@pytest.mark.parametrize("number", RRE)
def test_rre_is_read_in_parts(number: int) -> None:
    area = struct.Struct(RRE[number])
    cells = [(x, y) for y in range(100) for x in range(100)]
    payload = struct.pack(">I", len(cells)) + RED
    for x, y in cells:
        payload += bytes((x, y, 9, 0)) + area.pack(x, y, 1, 1)
    on = canvas(100, 100)
    paint(on, number, (0, 0, 100, 100), payload)
    assert (on.pixels[..., 0] == np.arange(100)).all()
    assert (on.pixels[..., 1] == np.arange(100)[:, np.newaxis]).all()
    steps = DECODERS[number](on, 0, 0, 100, 100)
    next(steps)
    assert steps.send(payload[:8]) < 64 * 1024


@pytest.mark.parametrize("number", RRE)
def test_rre_refused(number: int) -> None:
    area = struct.Struct(RRE[number])
    refused("rre-count", number, (2, 2), b"\0\0\0\x05" + RED)
    for outside in ((1, 0, 2, 1), (0, 1, 1, 2), (3, 0, 0, 1)):
        payload = b"\0\0\0\x01" + RED + BLUE + area.pack(*outside)
        refused("rre-subrectangle", number, (2, 2), payload)


@pytest.mark.parametrize("number", RRE)
def test_rre_is_not_painted_again_and_again(number: int) -> None:
    """A sub-rectangle of 8 to 12 bytes may be as large as the screen."""
    area = struct.Struct(RRE[number])
    for count in (4, 5):
        payload = struct.pack(">I", count) + RED + (BLUE + area.pack(0, 0, 4, 4)) * count
        if count == 4:
            paint(canvas(4, 4), number, (0, 0, 4, 4), payload)
        else:
            refused("rre-area", number, (4, 4), payload)


def hextile(mask: int, *parts: bytes) -> bytes:
    return bytes((mask,)) + b"".join(parts)


def test_hextile_tiles_keep_their_colours() -> None:
    payload = (
        hextile(2 + 4 + 8, RED, GREEN, b"\x02", b"\x00\x00", b"\x10\x01")  # 1x1 at 0,0; 1x2 at 1,0
        + hextile(8, b"\x01", b"\x01\x00")  # the same colours, 1x1 at 0,1
        + hextile(0)
    )
    on = canvas(34, 2)
    paint(on, 5, (0, 0, 34, 2), payload)
    first = "GG" + "R" * 14, "RG" + "R" * 14
    second = "R" * 16, "G" + "R" * 15
    third = "RR", "RR"
    assert rows(on.pixels) == picture(*map("".join, zip(first, second, third, strict=True)))


def test_hextile_colours_of_their_own() -> None:
    payload = hextile(2 + 8 + 16, RED, b"\x02", BLUE + b"\x00\x21", WHITE + b"\x21\x00")
    on = canvas(4, 4)
    paint(on, 5, (1, 1, 3, 3), payload)
    assert rows(on.pixels) == picture("....", ".BBB", ".BBW", ".RRR")


def test_hextile_raw_whatever_the_other_bits_say() -> None:
    on = canvas(17, 17)
    # Right of the first tile, 1 pixel wide and 16 high, then the lower row.
    run(DECODERS[5](on, 0, 0, 17, 17), hextile(2, RED) + hextile(31, BLUE * 16) + b"\0\0")
    expected = ["R" * 16 + "B"] * 16 + ["R" * 17]
    assert rows(on.pixels) == picture(*expected)


@pytest.mark.parametrize(
    ("rule", "payload"),
    [
        ("hextile-mask", b"\x20"),
        ("hextile-mask", b"\x80"),
        ("hextile-background", b"\x00"),
        ("hextile-foreground", hextile(2 + 8, RED, b"\x01", b"\0\0")),
        ("hextile-subrectangle", hextile(2 + 4 + 8, RED, BLUE, b"\x01", b"\x20\x00")),
        ("hextile-subrectangle", hextile(2 + 4 + 8, RED, BLUE, b"\x01", b"\x10\x10")),
        ("hextile-subrectangle", hextile(2 + 4 + 8, RED, BLUE, b"\x01", b"\x00\x02")),
        ("hextile-subrectangle", hextile(2 + 8 + 16, RED, b"\x01", BLUE + b"\x02\x00")),
    ],
)
def test_hextile_refused(rule: str, payload: bytes) -> None:
    refused(rule, 5, (2, 2), payload)


def test_zlib_is_one_stream() -> None:
    packer = zlib.compressobj()
    on = canvas(2, 2)
    for y, line in enumerate((RED + GREEN, BLUE + WHITE)):
        # As servers end a rectangle: with a flush, whose marker comes after the last pixel.
        sent = packer.compress(line) + packer.flush(zlib.Z_SYNC_FLUSH)
        paint(on, 6, (0, y, 2, 1), struct.pack(">I", len(sent)) + sent)
    assert rows(on.pixels) == picture("RG", "BW")


@pytest.mark.parametrize(
    ("rule", "payload"),
    [
        ("zlib-length", struct.pack(">I", 2 * 16 + 4096 + 1)),
        ("zlib-data", b"\0\0\0\x04abcd"),
        ("inflated-length", deflated(RED * 3)),
        ("inflated-length", deflated(RED * 5)),
        ("inflated-length", b"\0\0\0\0"),
    ],
)
def test_zlib_refused(rule: str, payload: bytes) -> None:
    refused(rule, 6, (2, 2), payload)


def test_zlib_inflates_no_more_than_a_byte_too_many() -> None:
    # 40 MB of zeros in 40 KB, where 100x100 pixels of 4 bytes are due.
    bomb = zlib.compress(bytes(40_000_000), 9)
    tracemalloc.start()
    said = refused("inflated-length", 6, (100, 100), struct.pack(">I", len(bomb)) + bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said == "more than 40000 bytes inflated"
    assert peak < 500_000
