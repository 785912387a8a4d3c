"""Tight and TightPNG: payloads written out from the community specification, images by Pillow, and
each rule broken."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from relay.rfb.errors import Violation
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.pixels import DECODERS, Array, Canvas
from tests.labs.jpeg import EOI, SCAN, SOI, frame_header
from tests.labs.painting import (
    FORMATS,
    GROUND,
    MAPPED,
    RGB565,
    RGBA,
    canvas,
    paint,
    picture,
    refused,
    rows,
    run,
)
from tests.labs.rfb_messages import compact

# TPIXELs of three bytes.
RED, GREEN, BLUE, WHITE = b"\xff\0\0", b"\0\xff\0", b"\0\0\xff", b"\xff\xff\xff"
TIGHT, PNG = 7, -260


def sized(data: bytes) -> bytes:
    return compact(len(data)) + data


def test_the_length_of_the_specifications_example() -> None:
    assert compact(10000) == b"\x90\x4e"


def test_fill() -> None:
    on = canvas(4, 3)
    paint(on, TIGHT, (1, 1, 2, 2), b"\x80" + BLUE)
    assert rows(on.pixels) == picture("....", ".BB.", ".BB.")


def test_fill_in_other_layouts() -> None:
    assert paint(canvas(2, 1, RGB565), TIGHT, (0, 0, 2, 1), b"\x80\x00\xf8") == picture("RR")
    # The three bytes are red, green, blue whatever the layout.
    on = canvas(2, 1, FORMATS["BGRA, big endian"])
    assert paint(on, TIGHT, (0, 0, 2, 1), b"\x80" + RED) == picture("RR")


def test_copy_below_12_bytes_is_not_deflated() -> None:
    payload = b"\x00" + RED + GREEN + BLUE
    assert paint(canvas(3, 1), TIGHT, (0, 0, 3, 1), payload) == picture("RGB")


@pytest.mark.parametrize("head", [b"\x00", b"\x40\x00"], ids=["no filter", "filter 0"])
def test_copy_deflated(head: bytes) -> None:
    payload = head + sized(zlib.compress(RED + GREEN + BLUE + WHITE))
    assert paint(canvas(2, 2), TIGHT, (0, 0, 2, 2), payload) == picture("RG", "BW")


def test_palette_of_two_has_a_bit_a_pixel() -> None:
    payload = b"\x40\x01\x01" + RED + BLUE + b"\x40\x80\xff\x00"
    assert paint(canvas(9, 2), TIGHT, (0, 0, 9, 2), payload) == picture("RBRRRRRRB", "BBBBBBBBR")


def test_palette_of_three_has_a_byte_a_pixel() -> None:
    payload = b"\x40\x01\x02" + RED + BLUE + GREEN + b"\x02\x01\x00\x02"
    assert paint(canvas(2, 2), TIGHT, (0, 0, 2, 2), payload) == picture("GB", "RG")


def test_palette_of_256() -> None:
    colours = bytes(value for i in range(256) for value in (i, 0, 0))
    payload = b"\x40\x01\xff" + colours + sized(zlib.compress(bytes(range(256))))
    on = canvas(16, 16)
    paint(on, TIGHT, (0, 0, 16, 16), payload)
    assert on.pixels[..., 0].ravel().tolist() == [*range(256)]


def test_gradient_by_hand() -> None:
    # First row: 10, then 10 + 5. Second: 10 + 2; then 12 + 15 - 10 + 1.
    grey = [10, 5, 2, 1]
    payload = b"\x40\x02" + sized(zlib.compress(bytes(v for v in grey for _ in range(3))))
    values = [[(v, v, v, 255) for v in row] for row in ((10, 15), (12, 18))]
    assert paint(canvas(2, 2), TIGHT, (0, 0, 2, 2), payload) == values


def test_gradient_predicts_no_less_than_nothing_and_no_more_than_the_maximum() -> None:
    # Below 200 stands 0, and its right neighbour is 0: predicted -200, so 0, and 7 is sent.
    # Below 0 and 255 stands 255: predicted 510, so 255, and 1 is sent, which wraps to 0.
    for sent, shown in (
        ([200, 256 - 200, 256 - 200, 7], [200, 0, 0, 7]),
        ([0, 255, 255, 1], [0, 255, 255, 0]),
    ):
        payload = b"\x40\x02" + sized(zlib.compress(bytes(v for v in sent for _ in range(3))))
        found = paint(canvas(2, 2), TIGHT, (0, 0, 2, 2), payload)
        assert [pixel[0] for row in found for pixel in row] == shown


def test_four_streams_and_their_reset() -> None:
    on = canvas(4, 1)
    line = RED + GREEN + BLUE + WHITE
    packers = [zlib.compressobj() for _ in range(4)]

    def send(number: int, reset: int = 0) -> None:
        data = packers[number].compress(line) + packers[number].flush(zlib.Z_SYNC_FLUSH)
        paint(on, TIGHT, (0, 0, 4, 1), bytes((number << 4 | reset,)) + sized(data))

    for number in (0, 1, 2, 3, 2, 1, 0, 3):
        on.pixels[:] = GROUND
        send(number)
        assert rows(on.pixels) == picture("RGBW")
    # Streams 0 and 2 begin anew, whichever is used; the others go on.
    packers[0], packers[2] = zlib.compressobj(), zlib.compressobj()
    send(1, reset=0b0101)
    for number in range(4):
        send(number)
    # A fill resets them too.
    packers[3] = zlib.compressobj()
    paint(on, TIGHT, (0, 0, 1, 1), b"\x88" + RED)
    send(3)


def image(size: tuple[int, int], kind: str, mode: str = "RGB", **options: object) -> bytes:
    rng = random.Random(1)
    w, h = size
    made = Image.frombytes("RGB", size, bytes(rng.randrange(256) for _ in range(w * h * 3)))
    file = io.BytesIO()
    made.convert(mode).save(file, kind, **options)
    return file.getvalue()


def by_pillow(data: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("number", [TIGHT, PNG])
def test_jpeg(number: int, mode: str) -> None:
    data = image((20, 10), "JPEG", mode)
    on = canvas(22, 12)
    paint(on, number, (1, 1, 20, 10), b"\x90" + sized(data))
    assert (on.pixels[1:11, 1:21, :3] == by_pillow(data)).all()
    assert (on.pixels[..., 3] == 255).all()
    assert rows(on.pixels[:1]) == picture("." * 22)


@pytest.mark.parametrize("pixel_format", [RGB565, FORMATS["332"], MAPPED])
def test_images_have_their_own_pixels(pixel_format: PixelFormat) -> None:
    data = image((20, 10), "JPEG", progressive=True)
    on = canvas(20, 10, pixel_format)
    paint(on, TIGHT, (0, 0, 20, 10), b"\x90" + sized(data))
    assert (on.pixels[..., :3] == by_pillow(data)).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_png(mode: str) -> None:
    data = image((20, 10), "PNG", mode)
    on = canvas(20, 10)
    paint(on, PNG, (0, 0, 20, 10), b"\xa0" + sized(data))
    assert (on.pixels[..., :3] == by_pillow(data)).all()


def test_png_that_is_transparent_is_not_on_a_screen() -> None:
    data = image((20, 10), "PNG", "P", transparency=bytes(range(256)))
    on = canvas(20, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paint(on, PNG, (0, 0, 20, 10), b"\xa0" + sized(data))
    assert (on.pixels[..., 3] == 255).all()


def test_png_has_tights_filters_at_8_bits_per_pixel() -> None:
    on = canvas(2, 1, FORMATS["332"])
    assert paint(on, PNG, (0, 0, 2, 1), b"\x00\xe0\x03") == picture("RB")


def png_bomb() -> bytes:
    """A header of 60000x60000, and nothing behind."""
    head = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    crc = struct.pack(">I", zlib.crc32(chunk))
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc + struct.pack(">I", 0) + b"IDAT"
    )


TIGHT_REFUSED = {
    "a control of 10": ("tight-control", b"\xa0"),
    "a control of 14": ("tight-control", b"\xe0"),
    "filter 3": ("tight-filter", b"\x40\x03"),
    "too long": ("tight-length", b"\x00" + compact(12 + 1 + 4096 + 1)),
    "no deflated data": ("zlib-data", b"\x00\x04abcd"),
    "too few": ("inflated-length", b"\x00" + sized(zlib.compress(bytes(11)))),
    "too many": ("inflated-length", b"\x00" + sized(zlib.compress(bytes(13)))),
    "an index too high": ("colour-index", b"\x40\x01\x02" + RED * 3 + b"\0\0\0\x03"),
    "the second of one colour": ("colour-index", b"\x40\x01\x00" + RED + b"\x40\x00"),
    "an image too long": ("image-length", b"\x90" + compact(8 * 4 + 65_536 + 1)),
    "an image of another size": ("image-size", b"\x90" + sized(image((2, 3), "JPEG"))),
    "an image of no bytes": ("image-data", b"\x90\x00"),
    "a PNG for a JPEG": ("image-data", b"\x90" + sized(image((2, 2), "PNG"))),
    "a JPEG cut off": ("image-data", b"\x90" + sized(image((2, 2), "JPEG")[:-20])),
    "a JPEG with a head alone": ("image-data", b"\x90" + sized(SOI + frame_header(2, 2) + EOI)),
}


@pytest.mark.parametrize("name", TIGHT_REFUSED)
def test_tight_refused(name: str) -> None:
    rule, payload = TIGHT_REFUSED[name]
    refused(rule, TIGHT, (2, 2), payload)


@pytest.mark.parametrize("number", [TIGHT, PNG])
def test_only_one_colour_is_wider_than_the_specification_has_it(number: int) -> None:
    """TigerVNC's server fills any width, as in the framing (relay/rfb/encodings/tight.py)."""
    assert paint(canvas(2049, 1), number, (0, 0, 2049, 1), b"\x80abc")[0][2048] == (*b"abc", 255)
    for control in (b"\x90", b"\x00" if number == TIGHT else b"\xa0"):
        refused("tight-width", number, (2049, 1), control)


def test_a_jpeg_of_endless_scans() -> None:
    """A few bytes each, and a pass over the whole image."""
    for scans, said in ((64, "a broken image"), (65, "more than 64 scans")):
        data = SOI + frame_header(2, 2, 0xC2) + SCAN * scans + EOI
        assert refused("image-data", TIGHT, (2, 2), b"\x90" + sized(data)).startswith(said)


def test_the_longest_that_makes_sense() -> None:
    # 300 bytes are due, which deflate may have made a few more: an eighth and 4 KiB.
    longest = 300 + 37 + 4096
    refused("tight-length", TIGHT, (10, 10), b"\x00" + compact(longest + 1))
    refused("zlib-data", TIGHT, (10, 10), b"\x00" + sized(bytes(longest)))


def with_a_profile_cut_off(png: bytes) -> bytes:
    """A colour profile's chunk of a name alone, behind the pixels, where Pillow reads on."""
    chunk = b"iCCPname\0"
    return (
        png[:-12] + struct.pack(">I", 5) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[-12:]
    )


@pytest.mark.parametrize(
    ("rule", "payload"),
    [
        ("tight-control", b"\x00"),
        ("tight-control", b"\x50"),
        ("tight-control", b"\xb0"),
        ("image-size", b"\xa0" + sized(png_bomb())),
        ("image-data", b"\xa0" + sized(image((2, 2), "JPEG"))),
        ("image-data", b"\xa0" + sized(image((2, 2), "PNG")[:-30])),
        ("image-data", b"\xa0" + sized(with_a_profile_cut_off(image((2, 2), "PNG")))),
    ],
)
def test_png_refused(rule: str, payload: bytes) -> None:
    refused(rule, PNG, (2, 2), payload)


@pytest.mark.parametrize("pixel_format", [FORMATS["332"], MAPPED, FORMATS["a map, 16 bits"]])
def test_a_gradient_needs_channels(pixel_format: PixelFormat) -> None:
    refused("tight-gradient", TIGHT, (2, 2), b"\x40\x02", pixel_format)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_broken_images_are_refused_whatever_breaks_in_them(kind: str) -> None:
    """No other error gets out than Violation."""
    rng = random.Random(kind)
    good = image((8, 8), kind)
    rules: Counter[str] = Counter()
    for _ in range(400):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        control = b"\x90" if kind == "JPEG" else b"\xa0"
        try:
            run(DECODERS[PNG](Canvas(8, 8, RGBA), 0, 0, 8, 8), control + sized(bytes(data)))
        except Violation as violation:
            rules[violation.rule] += 1
    assert set(rules) <= {"image-data", "image-size"}
    assert 50 < rules.total() < 400
