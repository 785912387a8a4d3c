"""Pixels of every layout into colours, and what else a canvas does."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from relay.rfb import pixel_format
from relay.rfb.errors import Violation
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.pixels import Canvas
from tests.labs.painting import FORMATS, GROUND, MAPPED, RGB565, RGBA, canvas, colour, rows, wire


def values(wanted: PixelFormat, seed: str) -> list[int]:
    """Pixels: at random in all their bits, none and all set."""
    rng = random.Random(seed)
    top = (1 << wanted.bits_per_pixel) - 1 if wanted.true_colour else 255
    return [0, top, *(rng.randint(0, top) for _ in range(300))]


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_legal(name: str) -> None:
    assert pixel_format.parse(FORMATS[name].pack()) == FORMATS[name]


@pytest.mark.parametrize("name", FORMATS)
def test_pixels(name: str) -> None:
    wanted = FORMATS[name]
    sent = values(wanted, name)
    found = canvas(1, 1, wanted).decode(b"".join(wire(value, wanted) for value in sent))
    assert found.dtype == np.uint8
    assert rows(found[np.newaxis]) == [[colour(value, wanted) for value in sent]]


def test_every_value_of_565_is_what_the_formula_says() -> None:
    found = canvas(1, 1, RGB565).decode(struct.pack("<65536H", *range(65536)))
    for channel, (shift, maximum) in enumerate(((11, 31), (5, 63), (0, 31))):
        value = np.arange(65536) >> shift & maximum
        assert (found[:, channel] == (value * 255 + maximum // 2) // maximum).all()


def test_the_usual_layout_is_copied_and_opaque() -> None:
    wire_pixels = bytes(range(12))
    found = canvas(1, 1, RGBA).decode(wire_pixels)
    assert found.tolist() == [[0, 1, 2, 255], [4, 5, 6, 255], [8, 9, 10, 255]]
    found[:] = 7  # not a view of the bytes


def test_no_pixels() -> None:
    for wanted in FORMATS.values():
        made = canvas(1, 1, wanted)
        for decode in (made.decode, made.decode_cpixels, made.decode_tpixels):
            assert decode(b"").shape == (0, 4)


CPIXELS = {
    # RFC 6143, Section 7.7.5: "the least significant or the most significant 3 bytes".
    "RGBA": (b"\x01\x02\x03", (1, 2, 3)),
    "RGBA, big endian": (b"\x01\x02\x03", (1, 2, 3)),  # 0x01020300, its upper three
    "BGRA": (b"\x03\x02\x01", (1, 2, 3)),
    "BGRA, big endian": (b"\x01\x02\x03", (1, 2, 3)),  # 0x00010203, its lower three
    "ABGR": (b"\x03\x02\x01", (1, 2, 3)),  # 0x01020300, its upper three
    "ABGR, big endian": (b"\x03\x02\x01", (1, 2, 3)),  # 0x00030201, its lower three
    # Depth 32, and channels at both ends: the whole pixel.
    "RGBA, depth 32": (b"\x01\x02\x03\xff", (1, 2, 3)),
    "channels apart": (b"\x01\x02\xff\x03", (1, 2, 3)),
    # Red 1 of 31, green 0, blue 31: 0x00081f00, in its first three bytes either way.
    "the middle of 32": (b"\x00\x1f\x08", (8, 0, 255)),
    "the middle of 32, big endian": (b"\x00\x08\x1f", (8, 0, 255)),
    "332": (b"\xe3", (255, 0, 255)),
}


@pytest.mark.parametrize("name", CPIXELS)
def test_cpixels(name: str) -> None:
    sent, shown = CPIXELS[name]
    found = canvas(1, 1, FORMATS[name]).decode_cpixels(sent * 2)
    assert found.tolist() == [[*shown, 255]] * 2


@pytest.mark.parametrize("name", ["RGBA", "BGRA", "ABGR", "RGBA, big endian"])
def test_tpixels_are_red_green_blue_in_any_layout(name: str) -> None:
    made = canvas(1, 1, FORMATS[name])
    assert made.decode_tpixels(b"\x01\x02\x03").tolist() == [[1, 2, 3, 255]]
    assert made.tpixel_channels(b"\x01\x02\x03").tolist() == [[1, 2, 3]]


def test_tpixels_of_depth_32_are_pixels() -> None:
    made = canvas(1, 1, FORMATS["RGBA, depth 32"])
    assert made.decode_tpixels(b"\x01\x02\x03\x04").tolist() == [[1, 2, 3, 255]]


def test_a_colour_beyond_the_map() -> None:
    with pytest.raises(Violation, match="colour 256 of 256") as caught:
        canvas(1, 1, FORMATS["a map, 16 bits"]).decode(b"\x01\x00")
    assert caught.value.rule == "colour-index"


def test_a_map_that_changes_is_for_what_comes() -> None:
    made = Canvas(2, 1, MAPPED)
    assert made.decode(b"\x05").tolist() == [[0, 0, 0, 255]]
    made.colour_map[5] = (9, 8, 7)
    assert made.decode(b"\x05").tolist() == [[9, 8, 7, 255]]


def test_the_pixel_format_changes() -> None:
    made = Canvas(1, 1, RGBA)
    made.pixel_format = RGB565
    assert made.pixel_format == RGB565
    assert made.decode(b"\x00\xf8").tolist() == [[255, 0, 0, 255]]


def test_a_new_canvas_is_black_and_has_no_cursor() -> None:
    made = Canvas(3, 2, RGBA)
    assert made.pixels.shape == (2, 3, 4)
    assert rows(made.pixels) == [[(0, 0, 0, 255)] * 3] * 2
    assert made.cursor is None


@pytest.mark.parametrize("size", [(2, 4), (5, 1), (5, 4), (1, 1), (3, 2)])
def test_resized_keeps_what_both_have(size: tuple[int, int]) -> None:
    made = canvas(3, 2)
    width, height = size
    made.resize(width, height)
    assert rows(made.pixels) == [
        [GROUND if x < 3 and y < 2 else (0, 0, 0, 255) for x in range(width)] for y in range(height)
    ]
