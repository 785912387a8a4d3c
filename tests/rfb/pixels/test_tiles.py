"""TRLE and ZRLE: tiles written out from RFC 6143, 7.7.5 and 7.7.6, and each rule broken."""

from __future__ import annotations

import struct
import zlib

import pytest

from relay.rfb.pixels import DECODERS
from tests.labs.painting import FORMATS, RGBA, canvas, deflated, paint, picture, refused, rows, run

# CPIXELs of three bytes.
RED, GREEN, BLUE, WHITE = b"\xff\0\0", b"\0\xff\0", b"\0\0\xff", b"\xff\xff\xff"
TRLE, ZRLE = 15, 16


def payload(number: int, tiles: bytes) -> bytes:
    return tiles if number == TRLE else deflated(tiles)


TILES = {
    "raw": (b"\0" + RED + GREEN + BLUE + WHITE, ["RG", "BW"]),
    "one colour": (b"\x01" + RED, ["RR", "RR"]),
    # A bit a pixel, the left one highest, each row of whole bytes.
    "2 colours": (b"\x02" + RED + GREEN + b"\x40\x80", ["RG", "GR"]),
    "2 colours, 9 wide": (
        b"\x02" + RED + GREEN + b"\x01\x80\xff\x00",
        ["RRRRRRRGG", "GGGGGGGGR"],
    ),
    "3 colours": (b"\x03" + RED + GREEN + BLUE + b"\x18\x24", ["RGB", "RBG"]),
    "4 colours, 5 wide": (b"\x04" + RED + GREEN + BLUE + WHITE + b"\x1b\xc0", ["RGBWW"]),
    "5 colours": (b"\x05" + RED + GREEN + BLUE + WHITE + RED + b"\x01\x20\x34\x00", ["RGB", "WRR"]),
    "16 colours": (b"\x10" + RED * 15 + BLUE + b"\xf0\xef", ["BR", "RB"]),
    "runs": (b"\x80" + RED + b"\x02" + GREEN + b"\x00", ["RR", "RG"]),
    "runs of a palette": (
        b"\x82" + RED + GREEN + b"\x80\x01\x01\x00",
        ["RR", "GR"],
    ),
    "runs of 127 colours": (b"\xff" + RED * 126 + BLUE + b"\xfe\x02\x00", ["BB", "BR"]),
}


@pytest.mark.parametrize("number", [TRLE, ZRLE])
@pytest.mark.parametrize("name", TILES)
def test_tile(name: str, number: int) -> None:
    tile, expected = TILES[name]
    area = (0, 0, len(expected[0]), len(expected))
    assert paint(canvas(*area[2:]), number, area, payload(number, tile)) == picture(*expected)


@pytest.mark.parametrize(("number", "side"), [(TRLE, 16), (ZRLE, 64)])
def test_tiles_go_left_to_right_and_down(number: int, side: int) -> None:
    on = canvas(side + 3, side + 3)
    tiles = b"".join(b"\x01" + colour for colour in (RED, GREEN, BLUE, WHITE))
    run(DECODERS[number](on, 1, 1, side + 2, side + 1), payload(number, tiles))
    wide = ["." + "R" * side + "GG"] * side
    assert rows(on.pixels) == picture(
        "." * (side + 3), *wide, "." + "B" * side + "WW", "." * (side + 3)
    )


@pytest.mark.parametrize(("number", "side"), [(TRLE, 16), (ZRLE, 64)])
def test_a_run_over_a_whole_tile(number: int, side: int) -> None:
    pixels = side * side
    # "The length is the sum of all the bytes plus one", each but the last 255.
    length = b"\xff" * ((pixels - 1) // 255) + bytes(((pixels - 1) % 255,))
    for tile in (b"\x80" + RED + length, b"\x82" + BLUE + RED + b"\x81" + length):
        on = canvas(side, side)
        run(DECODERS[number](on, 0, 0, side, side), payload(number, tile))
        assert (on.pixels == (255, 0, 0, 255)).all()


def test_trle_palettes_are_used_again() -> None:
    tiles = (
        (b"\x02" + RED + GREEN + b"\x80\x00")  # green, then red
        + (b"\x01" + BLUE)  # one colour, which is no palette
        + (b"\x7f" + b"\x40\x00")  # packed: red, green, red
        + (b"\x81" + b"\x81\x01")  # a run of two greens
    )
    on = canvas(50, 1)
    paint(on, TRLE, (0, 0, 50, 1), tiles)
    expected = "G" + "R" * 15 + "B" * 16 + "RG" + "R" * 14 + "GG"
    assert rows(on.pixels) == picture(expected)


def test_zrle_is_one_stream() -> None:
    packer = zlib.compressobj()
    on = canvas(2, 2)
    for y, colour in enumerate((RED, BLUE)):
        sent = packer.compress(b"\x01" + colour) + packer.flush(zlib.Z_SYNC_FLUSH)
        paint(on, ZRLE, (0, y, 2, 1), struct.pack(">I", len(sent)) + sent)
    assert rows(on.pixels) == picture("RR", "BB")


BROKEN = {
    "17 colours": ("trle-subencoding", b"\x11"),
    "126 colours": ("trle-subencoding", b"\x7e"),
    "an index too high": ("colour-index", b"\x03" + RED * 3 + b"\x30\x00"),
    "a run's index too high": ("colour-index", b"\x82" + RED * 2 + b"\x02\x81\x02"),
    "a run too long": ("trle-run", b"\x80" + RED + b"\x04"),
    "a second run too long": ("trle-run", b"\x80" + RED + b"\x02" + RED + b"\x01"),
    "a run without end": ("trle-run", b"\x80" + RED + b"\xff"),
    "a palette's run too long": ("trle-run", b"\x82" + RED * 2 + b"\x80\x04"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_trle_refused(name: str) -> None:
    rule, tile = BROKEN[name]
    refused(rule, TRLE, (2, 2), tile)


@pytest.mark.parametrize("name", BROKEN)
def test_zrle_refused(name: str) -> None:
    rule, tile = BROKEN[name]
    refused(rule, ZRLE, (2, 2), payload(ZRLE, tile))


@pytest.mark.parametrize("kind", [b"\x7f", b"\x81"])
def test_palettes_used_again_that_were_not_there(kind: bytes) -> None:
    refused("trle-palette", TRLE, (2, 2), kind)
    refused("trle-palette", TRLE, (17, 1), b"\x01" + RED + kind)
    palette = b"\x82" + RED * 2 + b"\x80\x0f"
    refused("trle-subencoding", ZRLE, (16, 1), payload(ZRLE, kind))
    # A palette of this rectangle does not outlast it.
    on = canvas(16, 1)
    run(DECODERS[TRLE](on, 0, 0, 16, 1), palette)
    refused("trle-palette", TRLE, (16, 1), kind, on=on)


def test_a_palette_of_runs_is_too_large_to_be_packed() -> None:
    tiles = b"\x91" + RED * 17 + b"\x80\x0f" + b"\x7f"
    refused("trle-palette", TRLE, (17, 1), tiles)


@pytest.mark.parametrize(
    ("rule", "sent"),
    [
        ("zrle-length", struct.pack(">I", 2 * 4 * 3 + 64 + 4096 + 1)),
        ("zlib-data", b"\0\0\0\x04abcd"),
        ("zrle-length", payload(ZRLE, b"\x01\xff\0")),
        ("zrle-length", payload(ZRLE, b"")),
        ("zrle-length", payload(ZRLE, b"\x01" + RED + b"\0")),
        ("inflated-length", payload(ZRLE, bytes(4 * 4 + 1 + 127 * 3 + 1))),
    ],
)
def test_zrle_lengths(rule: str, sent: bytes) -> None:
    refused(rule, ZRLE, (2, 2), sent)


def test_the_largest_tile_is_not_refused() -> None:
    """Each pixel a run: what the limit is made for."""
    plain = b"\x80" + (RED + b"\0") * 64 * 64
    # Behind a palette of 127 colours; a pixel has one byte, as many as its index.
    palette = b"\xff" + b"\xe0" * 127 + b"\xfe\x00" * 64 * 64
    for pixel_format, tile in ((RGBA, plain), (FORMATS["332"], palette)):
        on = canvas(64, 64, pixel_format)
        run(DECODERS[ZRLE](on, 0, 0, 64, 64), payload(ZRLE, tile))
        assert (on.pixels == (255, 0, 0, 255)).all()
