"""Each limit of what the viewer says: what is at it passes, what is one beyond is refused or put
right. Shapes of messages are those of RFC 6143, Section 7.5, and of the community specification.
"""

from __future__ import annotations

import struct

import pytest

from relay.limits import Limits
from relay.rfb.conversation import Conversation
from relay.rfb.from_viewer import TAIL_LIMIT_BYTES
from relay.rfb.pixel_format import parse
from tests.labs.conversations import confirmed, everything
from tests.labs.peers import PIXEL_FORMAT, UPDATE_REQUEST
from tests.labs.rfb_messages import KEY, LEGAL_UP, SCREEN, colour_map, cut_text, fence, offers
from tests.labs.splits import TAILS, Feeder, check, check_refused, passes, refused

# Pixel formats (RFC 6143, Section 7.4).


def pixels(
    bpp: int, depth: int, true: int, maxima: tuple[int, ...], shifts: tuple[int, ...]
) -> bytes:
    return struct.pack(">BBBBHHHBBBxxx", bpp, depth, 0, true, *maxima, *shifts)


EIGHT, NONE = (255, 255, 255), (0, 0, 0)
LOW, HIGH = (16, 8, 0), (24, 16, 8)

# By what it is: the format, and the bytes of its pixels, CPIXELs and TPIXELs (RFC 6143, Sections
# 7.4 and 7.7.5; community specification, Tight Encoding).
FORMATS = {
    "usual": (pixels(32, 24, 1, EIGHT, LOW), (4, 3, 3)),
    "in the high bytes": (pixels(32, 24, 1, EIGHT, HIGH), (4, 3, 3)),
    "depth as bits per pixel": (pixels(32, 32, 1, EIGHT, LOW), (4, 4, 4)),
    "depth 25": (pixels(32, 25, 1, EIGHT, LOW), (4, 4, 4)),
    "across the bytes": (pixels(32, 24, 1, EIGHT, (24, 8, 0)), (4, 4, 3)),
    "a bit in the lowest byte": (pixels(32, 24, 1, (255, 255, 1), (24, 16, 0)), (4, 4, 4)),
    "10 bits a channel": (pixels(32, 30, 1, (1023, 1023, 1023), (20, 10, 0)), (4, 4, 4)),
    "6 bits a channel": (pixels(32, 24, 1, (63, 63, 63), (12, 6, 0)), (4, 3, 4)),
    "one channel of fewer": (pixels(32, 24, 1, (255, 255, 127), LOW), (4, 3, 4)),
    "to the last bit": (pixels(32, 3, 1, (1, 1, 1), (31, 30, 29)), (4, 3, 4)),
    "16 bits": (pixels(16, 16, 1, (31, 63, 31), (11, 5, 0)), (2, 2, 2)),
    # What libvncclient's rfbGetClient(2, 3, 1) asks for.
    "depth 6": (pixels(8, 6, 1, (7, 7, 3), (0, 3, 6)), (1, 1, 1)),
    "8 bits": (pixels(8, 8, 1, (7, 7, 3), (0, 3, 6)), (1, 1, 1)),
    "colour map": (pixels(8, 8, 0, NONE, NONE), (1, 1, 1)),
    "colour map of two": (pixels(8, 1, 0, NONE, NONE), (1, 1, 1)),
    # "These fields are only meaningful if true-color-flag is non-zero".
    "colour map, maxima": (pixels(8, 8, 0, (254, 255, 255), (9, 9, 9)), (1, 1, 1)),
    "wide colour map": (pixels(32, 24, 0, EIGHT, LOW), (4, 4, 4)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    wanted, sizes = FORMATS[name]
    made = passes(everything, "up", b"\0\0\0\0" + wanted)
    assert made.state.pixel_format.sizes == sizes


WRONG_FORMATS = {
    **{f"{bpp} bits per pixel": pixels(bpp, 1, 0, NONE, NONE) for bpp in (0, 7, 9, 15, 17, 24)},
    **{f"{bpp} bits per pixel": pixels(bpp, 1, 0, NONE, NONE) for bpp in (31, 33, 64)},
    "no depth": pixels(8, 0, 0, NONE, NONE),
    "depth 33": pixels(32, 33, 1, EIGHT, LOW),
    "depth 9": pixels(8, 9, 0, NONE, NONE),
    "no red": pixels(32, 24, 1, (0, 255, 255), LOW),
    "254": pixels(32, 24, 1, (255, 254, 255), LOW),
    "beyond the last bit": pixels(32, 24, 1, EIGHT, (25, 8, 0)),
    "channels overlap": pixels(32, 24, 1, EIGHT, (16, 9, 0)),
    "more bits than depth": pixels(32, 23, 1, EIGHT, LOW),
    "nine bits in eight": pixels(16, 8, 1, (7, 7, 7), (6, 3, 0)),
}


@pytest.mark.parametrize("name", WRONG_FORMATS)
def test_wrong_formats(name: str) -> None:
    wire = b"\0\0\0\0" + WRONG_FORMATS[name]
    assert refused(everything, "up", wire, 0, "SetPixelFormat") == "pixel-format"


def test_a_format_is_written_anew() -> None:
    odd = b"\0\xaa\xbb\xcc" + PIXEL_FORMAT[:2] + b"\x80\xff" + PIXEL_FORMAT[4:13] + b"pad"
    clean = b"\0\0\0\0" + PIXEL_FORMAT[:2] + b"\x01\x01" + PIXEL_FORMAT[4:]
    made = passes(everything, "up", odd, expected=clean)
    assert made.state.pixel_format == parse(clean, 4)


# Lists.


def test_a_list_of_1024() -> None:
    feeder = Feeder(everything().up, TAIL_LIMIT_BYTES)
    longest = 0
    for byte in offers(*[7] * 1024):
        feeder.feed(bytes([byte]))
        longest = max(longest, len(feeder.tail))
    assert not feeder.tail
    assert longest == TAIL_LIMIT_BYTES - 1
    assert refused(everything, "up", offers(*[7] * 1025), 0, "SetEncodings") == "encodings-count"


def test_a_list_has_its_padding_made_zero() -> None:
    passes(everything, "up", b"\x02\xaa\0\x01\0\0\0\x07", expected=offers(7))
    passes(everything, "up", offers())


def test_levels_are_kept() -> None:
    # Community specification: quality, compression, fine quality, subsampling.
    ends = (-23, -32, -247, -256, -412, -512, -763, -768)
    passes(everything, "up", offers(*ends))
    beyond = (-22, -33, -246, -257, -411, -513, -762, -769)
    assert passes(everything, "up", offers(*beyond), expected=offers(-257))


# Areas and positions.


@pytest.mark.parametrize(
    ("area", "cropped"),
    [
        ((0, 0, 640, 480), (0, 0, 640, 480)),
        ((639, 479, 1, 1), (639, 479, 1, 1)),
        ((640, 480, 0, 0), (640, 480, 0, 0)),
        ((600, 10, 41, 20), (600, 10, 40, 20)),
        ((10, 470, 20, 11), (10, 470, 20, 10)),
        ((650, 10, 5, 5), (640, 10, 0, 5)),
        ((10, 490, 5, 5), (10, 480, 5, 0)),
        ((65535, 65535, 65535, 65535), (640, 480, 0, 0)),
    ],
)
def test_areas_are_cropped(area: tuple[int, ...], cropped: tuple[int, ...]) -> None:
    for kind in (3, 150):
        wire = struct.pack(">BBHHHH", kind, 1, *area)
        passes(confirmed, "up", wire, expected=struct.pack(">BBHHHH", kind, 1, *cropped))


def test_a_flag_is_0_or_1() -> None:
    for flag, clean in ((0, 0), (1, 1), (2, 1), (255, 1)):
        for kind in (3, 150):
            rest = struct.pack(">HHHH", 0, 0, 640, 480)
            passes(
                confirmed, "up", bytes((kind, flag)) + rest, expected=bytes((kind, clean)) + rest
            )
        key = bytes((4, flag, 0xAA, 0xBB)) + KEY[4:]
        made = passes(confirmed, "up", key, expected=bytes((4, clean, 0, 0)) + KEY[4:])
        assert made.up.ledger.keys


@pytest.mark.parametrize(
    ("place", "clamped"),
    [
        ((639, 479), (639, 479)),
        ((640, 10), (639, 10)),
        ((10, 480), (10, 479)),
        ((700, 10), (639, 10)),
        ((10, 500), (10, 479)),
    ],
)
def test_pointers_are_clamped(place: tuple[int, int], clamped: tuple[int, int]) -> None:
    # 127 is seven buttons; only bit 7 announces a seventh byte.
    wire = struct.pack(">BBHH", 5, 127, *place)
    made = passes(confirmed, "up", wire, expected=struct.pack(">BBHH", 5, 127, *clamped))
    assert made.up.ledger.release(relative=False, keys=False) == struct.pack(
        ">BBHH", 5, 0, *clamped
    )


# Sizes.


def resize(width: int, height: int, *screens: bytes) -> bytes:
    return struct.pack(">BxHHBx", 251, width, height, len(screens)) + b"".join(screens)


def screen(number: int, x: int = 0, y: int = 0, w: int = 1, h: int = 1) -> bytes:
    return struct.pack(">IHHHHI", number, x, y, w, h, 0xFFFFFFFF)


@pytest.mark.parametrize(
    "size", [(16_384, 1), (1, 16_384), (16_384, 4_096), (4_096, 16_384), (1, 1)]
)
def test_sizes_that_may_be_asked_for(size: tuple[int, int]) -> None:
    passes(confirmed, "up", resize(*size, screen(0, 0, 0, *size)))


@pytest.mark.parametrize(
    "size", [(16_385, 1), (1, 16_385), (16_384, 4_097), (8_193, 8_192), (0, 1), (1, 0)]
)
def test_sizes_that_must_not(size: tuple[int, int]) -> None:
    wire = resize(*size, screen(0, 0, 0, 0, 0))
    assert refused(confirmed, "up", wire, 0, "SetDesktopSize") == "framebuffer-size"


def test_screens() -> None:
    passes(confirmed, "up", resize(800, 600, *(screen(n) for n in range(16))))
    passes(confirmed, "up", resize(800, 600, screen(1, 799, 599, 1, 1), screen(2, 800, 600, 0, 0)))
    padded = b"\xfb\xaa" + resize(800, 600, SCREEN)[2:7] + b"\xbb" + SCREEN
    passes(confirmed, "up", padded, expected=resize(800, 600, SCREEN))
    for screens in (
        [],
        [screen(n) for n in range(17)],
        [screen(1, 800, 0, 1, 1)],
        [screen(1, 0, 600, 1, 1)],
        [screen(1), screen(2), screen(1)],
    ):
        assert (
            refused(confirmed, "up", resize(800, 600, *screens), 0, "SetDesktopSize") == "screens"
        )


# Fences.


def test_fences_of_a_viewer() -> None:
    passes(confirmed, "up", fence(1 << 31, b""), fence(1 << 31, b"f" * 64))
    # TigerVNC's server skips one that is too long; two are no slip.
    long = fence(1 << 31, b"f" * 65)
    passes(confirmed, "up", long, LEGAL_UP["KeyEvent"], expected=LEGAL_UP["KeyEvent"])
    check_refused(confirmed, "up", long * 2, len(long), "ClientFence")
    padded = b"\xf8\xaa\xbb\xcc" + fence(1 << 31)[4:]
    passes(confirmed, "up", padded, expected=fence(1 << 31))
    # The desktop has asked once: one answer goes up.
    passes(confirmed, "up", fence(0), fence(0), expected=fence(0))


# What a message is for others.


def test_what_a_person_does_is_counted() -> None:
    by_itself = UPDATE_REQUEST + fence(1 << 31) + offers(7) + b"\0\0\0\0" + PIXEL_FORMAT
    made = check(confirmed, "up", by_itself)
    assert made.up.inputs == 0
    for name in ("KeyEvent", "PointerEvent", "PointerEvent, extended", "ClientCutText", "QEMU key"):
        made = check(confirmed, "up", LEGAL_UP[name])
        assert made.up.inputs == 1, name
    # Once, however long it takes.
    made = check(confirmed, "up", cut_text(6, 3000, b"p" * 3000) + KEY)
    assert made.up.inputs == 2


def test_an_observer_is_told_of_each_message() -> None:
    made = confirmed()
    told: list[tuple[str, int, int]] = []
    made.up.observer = lambda *element: told.append(element)
    before = made.up.offset
    feeder = Feeder(made.up, TAILS["up"])
    for byte in KEY + cut_text(6, 5, b"hello") + KEY:
        feeder.feed(bytes([byte]))
    assert told == [
        ("message", 4, before),
        ("message", 6, before + 8),
        ("message", 4, before + 21),
    ]


def test_bytes_that_are_moved_unseen_count() -> None:
    made = confirmed()
    before = made.up.offset
    head = bytearray(cut_text(6, 100, b"hello"))
    assert made.up.judge(head, 0, 13) == 13
    assert made.up.opaque == 95
    made.up.moved(90)
    made.up.moved(5)
    assert not made.up.under_way
    assert made.up.offset == before + 108
    assert made.up.judge(bytearray(KEY), 0, 8) == 8


def test_a_text_that_ends_with_the_window_leaves_nothing() -> None:
    made = confirmed()
    wire = bytearray(cut_text(6, 5, b"hello"))
    assert made.up.judge(wire, 0, len(wire)) == len(wire)
    assert not made.up.under_way


def test_discarding_ends_with_the_message() -> None:
    def make() -> Conversation:
        made = confirmed()
        made.state.bounds = Limits(clipboard_bytes=4)
        return made

    made = make()
    reader = made.up
    for piece, discarding in ((cut_text(6, 8, b""), True), (b"1234", True), (b"5678", False)):
        buf = bytearray(piece)
        assert reader.judge(buf, 0, len(buf)) == len(buf)
        assert reader.discarding is discarding
        assert reader.edits == [(0, len(buf), b"")]
    passes(make, "up", cut_text(6, 4, b"text"))


def test_a_move_is_not_taken_back_in_another_window() -> None:
    made = confirmed()
    made.flow.desktop_behind = True
    move = LEGAL_UP["PointerEvent"][:1] + b"\0" + LEGAL_UP["PointerEvent"][2:]
    buf = bytearray(move * 2)
    assert made.up.judge(buf, 0, 6) == 6
    assert made.up.judge(buf, 6, 12) == 12
    assert made.up.edits == []
    # In one window all but the last are one edit.
    buf = bytearray(KEY + move * 4)
    assert made.up.judge(buf, 0, 32) == 32
    assert made.up.edits == [(8, 26, b"")]


def test_a_colour_map_format_is_a_colour_map() -> None:
    made = passes(everything, "up", b"\0\0\0\0" + FORMATS["colour map"][0])
    feeder = Feeder(made.down, TAILS["down"])
    feeder.feed(colour_map(0, 2))
    assert feeder.forwarded == colour_map(0, 2)
