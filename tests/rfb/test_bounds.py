"""Each limit of what the desktop says: what is at it passes, what is one beyond is refused.

Rectangles are 3x5 where nothing else is said, at 32 bits per pixel and depth 24: 60 bytes of
pixels, 45 of CPIXELs and TPIXELs. Shapes of messages are those of RFC 6143 and of the community
specification; the limits are docs/protocol.md's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from relay.limits import Limits
from relay.rfb import encodings, from_desktop
from relay.rfb.conversation import Conversation
from relay.rfb.errors import ProtocolError
from relay.rfb.handshake import ServerInit
from relay.rfb.pixel_format import parse
from tests.labs.peers import PIXEL_FORMAT
from tests.labs.splits import TAILS, Feeder, Make, check, check_refused, chunkings, conversation
from tests.rfb.test_encodings import EOI, SCAN, SOI, segment
from tests.rfb.test_rules import EVERYTHING, PIXEL, cut_text, everything, fence, rect, update

BELL = b"\x02"
BGR233 = bytes.fromhex("08080001000700070003 000306 000000".replace(" ", ""))
COLOUR_MAP_8 = bytes.fromhex("08080000000000000000 000000 000000".replace(" ", ""))
COLOUR_MAP_32 = b"\x20\x18" + COLOUR_MAP_8[2:]


def in_format(wanted: bytes) -> Conversation:
    made = everything()
    message = bytearray(b"\0\0\0\0" + wanted)
    assert made.up.judge(message, 0, 20) == 20
    return made


def sized(width: int, height: int, *offers: int) -> Conversation:
    """Of another size than 640x480."""
    made = Conversation(
        ServerInit(width, height, parse(PIXEL_FORMAT), b""), Limits(), let_through=EVERYTHING
    )
    numbers = offers or EVERYTHING
    wire = bytearray(struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers))
    assert made.up.judge(wire, 0, len(wire)) == len(wire)
    return made


def passes(make: Make, *messages: bytes, expected: bytes | None = None) -> Conversation:
    """As `check`, and it is so many messages: a length that is read wrong would swallow some."""
    made = check(make, "down", b"".join(messages) + BELL, expected and expected + BELL)
    before = make().down.messages
    assert made.down.messages == before + len(messages) + 1
    return made


def passes_head(make: Make, wire: bytes, opaque: int) -> None:
    """`wire` ends with the head of a payload of which `opaque` bytes are still to come."""
    for cuts in chunkings(len(wire)):
        feeder = Feeder(make().down, TAILS["down"])
        for first, behind in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            feeder.feed(wire[first:behind])
        assert not feeder.tail
        assert feeder.reader.opaque == opaque


def refused(make: Make, wire: bytes, offset: int, where: str) -> str:
    """The word of the rule that refuses it, however it is cut."""
    check_refused(make, "down", wire, offset, where)
    with pytest.raises(ProtocolError) as caught:
        Feeder(make().down, TAILS["down"]).feed(wire)
    return caught.value.rule


def rectangle(name: str, index: int = 0) -> str:
    return f"FramebufferUpdate > rectangle {index} > {name}"


# Lengths that a payload announces.

Head = Callable[[int], bytes]


def u32(length: int) -> bytes:
    return struct.pack(">I", length)


def compact(length: int) -> bytes:
    """Community specification, Tight Encoding: seven bits, seven bits, eight bits."""
    if length < 128:
        return bytes((length,))
    if length < 16_384:
        return bytes((length & 127 | 128, length >> 7))
    return bytes((length & 127 | 128, length >> 7 & 127 | 128, length >> 14))


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
    passes_head(everything, update(rect(*place, number, head(limit))), opaque)
    wire = update(rect(*place, number, head(limit + 1)))
    assert refused(everything, wire, 4, rectangle(name)) == rule


def test_zrle_counts_tiles() -> None:
    # 65x65: four tiles of 64x64.
    limit = 2 * 65 * 65 * 3 + 4 * 64 + 4096
    passes_head(everything, update(rect(0, 0, 65, 65, 16, zrle(limit))), limit - 1)
    wire = update(rect(0, 0, 65, 65, 16, u32(limit + 1)))
    assert refused(everything, wire, 4, rectangle("ZRLE")) == "zrle-length"


def test_zrle_may_begin_in_a_cursor() -> None:
    # Whether the stream is the same depends on the desktop.
    cursor = rect(0, 0, 3, 5, -314, b"\0\0\0\x10" + u32(2) + b"\x79\x9c")
    passes(everything, update(cursor, rect(0, 0, 3, 5, 16, u32(2) + b"\x9c\x9c")))
    plain = rect(0, 0, 1, 1, -314, b"\0\0\0\0rgba")
    wire = update(plain, rect(0, 0, 3, 5, 16, u32(2) + b"\x9c\x9c"))
    assert refused(everything, wire, 24, "FramebufferUpdate > rectangle 1 > ZRLE")


@pytest.mark.parametrize("number", [16, 17])
def test_zrle_begins_a_zlib_stream(number: int) -> None:
    def tile(body: bytes) -> bytes:
        return rect(0, 0, 3, 5, number, u32(len(body)) + body)

    name = rectangle({16: "ZRLE", 17: "ZYWRLE"}[number])
    assert refused(everything, update(tile(b"\x79\x9c")), 4, name) == "zrle-header"
    # An empty one begins nothing; behind the first, the stream goes on.
    passes(everything, update(tile(b""), tile(b"\x78"), tile(b"\x9c"), tile(b"")))
    assert refused(everything, update(tile(b""), tile(b"\x9c")), 20, name.replace("0", "1"))


IMAGES = {"Tight": (7, 0x90, b"\xff\xd8"), "TightPNG": (-260, 0xA0, b"\x89P")}


@pytest.mark.parametrize("name", IMAGES)
def test_images_in_tight(name: str) -> None:
    number, control, magic = IMAGES[name]

    def image(length: int, begins: bytes = magic) -> bytes:
        return rect(0, 0, 3, 5, number, bytes((control,)) + compact(length) + begins)

    limit = 2 * 60 + 65_536
    passes_head(everything, update(image(limit)), limit - 2)
    for length in (4, 5, 127, 128, 16_383, 16_384):
        body = b"i" * (length - 2)
        passes(everything, update(image(length) + body))
    where = rectangle(name)
    assert refused(everything, update(image(limit + 1) + b"xx"), 4, where) == "image-length"
    assert refused(everything, update(image(3) + b"xx"), 4, where) == "image-length"
    for wrong in (magic[:1] + b"?", b"?" + magic[1:]):
        assert refused(everything, update(image(100, wrong) + b"xx"), 4, where) == "image-magic"


def jpeg(size: int) -> bytes:
    """An image of so many bytes, most of them in a segment and in a scan."""
    rest = size - len(SOI + SCAN + EOI) - 4
    return SOI + segment(0xE0, b"\0" * (rest // 2)) + SCAN + b"d" * (rest - rest // 2) + EOI


def test_a_jpeg_image_is_bounded_to_the_byte() -> None:
    limit = 2 * 60 + 65_536
    passes(everything, update(rect(0, 0, 3, 5, 21, jpeg(limit))))
    wire = update(rect(0, 0, 3, 5, 21, jpeg(limit + 1)))
    end = 16 + limit + 1 - len(EOI)
    assert refused(everything, wire, end, rectangle("JPEG")) == "jpeg-length"


def test_a_deflated_tile_of_zlibhex() -> None:
    # Twice the largest tile, 1,540 bytes, and 1 KiB.
    limit = 2 * 1540 + 1024
    tile = b"\x40" + struct.pack(">H", limit)
    passes_head(everything, update(rect(0, 0, 3, 5, 8, tile)), limit)
    wire = update(rect(0, 0, 3, 5, 8, b"\x40" + struct.pack(">H", limit + 1)))
    assert refused(everything, wire, 16, rectangle("zlibhex")) == "zlibhex-length"


def test_a_cut_text_at_the_limit() -> None:
    def make() -> Conversation:
        return conversation(*EVERYTHING, limits=Limits(clipboard_bytes=16))

    caps = struct.pack(">IIII", 1 << 24 | 7, 1, 1, 1)
    for body, length in ((b"t" * 16, 16), (caps, -16)):
        passes(make, cut_text(3, length, body))
    check(make, "down", cut_text(3, 17, b"t" * 17) + BELL, BELL)
    # The flags of the extended form do not count.
    passes(make, cut_text(3, -20, caps + b"more"))
    check(make, "down", cut_text(3, -21, caps + b"more!") + BELL, BELL)
    passes(everything, cut_text(3, 0, b""))
    passes_head(everything, cut_text(3, 262_144, b""), 262_144)
    within = Feeder(everything().down, TAILS["down"])
    within.feed(cut_text(3, 262_144, b""))
    assert not within.reader.discarding
    for length in (262_145, 0x7F000000):
        over = Feeder(everything().down, TAILS["down"])
        over.feed(cut_text(3, length, b""))
        assert over.reader.discarding
        assert over.reader.opaque == length
        assert not over.forwarded


@pytest.mark.parametrize(
    ("flags", "length", "rule"),
    [
        # Three formats have a size each; more than that is let pass.
        (1 << 24 | 7, 15, "clipboard-caps"),
        (1 << 24 | 7, 16, ""),
        (1 << 24 | 7, 17, ""),
        (1 << 24 | 1 << 27 | 0xFFFF, 68, ""),
        # Request, peek and notify are flags alone; provide has data behind them.
        (1 << 25 | 1, 4, ""),
        (1 << 26, 4, ""),
        (1 << 27 | 1, 4, ""),
        (1 << 25 | 1, 5, "clipboard-length"),
        (1 << 26, 8, "clipboard-length"),
        (1 << 27 | 1, 5, "clipboard-length"),
        (1 << 28 | 1, 4, ""),
        (1 << 28 | 1, 5, ""),
        (1, 4, "clipboard-action"),
        (1 << 25 | 1 << 28, 4, "clipboard-action"),
        *((1 << 25 | 1 << bit, 4, "clipboard-flags") for bit in (16, 23, 29, 30, 31)),
    ],
)
def test_flags_of_the_extended_clipboard(flags: int, length: int, rule: str) -> None:
    wire = cut_text(3, -length, struct.pack(">I", flags) + b"d" * (length - 4))
    if rule:
        assert refused(everything, wire, 0, "ServerCutText") == rule
    else:
        passes(everything, wire)


def test_a_cursor_with_alpha_has_pixels_of_four_bytes() -> None:
    passes(everything, update(rect(0, 0, 3, 5, -314, b"\0\0\0\x07" + b"\x80" + b"rgba")))
    passes(everything, update(rect(0, 0, 1, 1, -314, b"\0\0\0\0" + b"rgba")))
    limit = 2 * 60 + 64 + 4096
    for length in (limit, limit + 1):
        wire = update(rect(0, 0, 3, 5, -314, b"\0\0\0\x10" + u32(length)))
        if length == limit:
            passes_head(everything, wire, limit)
        else:
            assert refused(everything, wire, 4, rectangle("CursorWithAlpha")) == "zrle-length"


# Sizes and positions.


@pytest.mark.parametrize(
    ("x", "y", "legal"), [(610, 460, True), (611, 460, False), (610, 461, False)]
)
def test_places(x: int, y: int, legal: bool) -> None:
    copy = update(rect(0, 0, 30, 20, 1, struct.pack(">HH", x, y)))
    paint = update(rect(x, y, 30, 20, 16, u32(0)))
    if legal:
        passes(everything, copy, paint)
    else:
        assert refused(everything, copy, 4, rectangle("CopyRect")) == "copyrect-source"
        assert refused(everything, paint, 4, rectangle("ZRLE")) == "rectangle-outside"


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
                passes(everything, wire)
            else:
                assert refused(everything, wire, 4, rectangle(name)) == "framebuffer-size"
        for size in ((16_384, 4097), (8_193, 8_192), (0, 5), (5, 0)):
            wire = update(rect(0, 0, *size, number, body))
            assert refused(everything, wire, 4, rectangle(name)) == "framebuffer-size"


def test_a_new_size_counts_in_each_direction() -> None:
    passes(everything, update(rect(0, 0, 700, 480, -223), rect(699, 0, 1, 1, 0, PIXEL)))
    passes(everything, update(rect(0, 0, 640, 500, -223), rect(0, 499, 1, 1, 0, PIXEL)))


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
    made = passes(everything, update(rect(reason, status, 800, 600, -308, b"\0\0\0\0")))
    assert (made.state.width, made.state.height) == size


def test_screens() -> None:
    passes(everything, update(rect(0, 0, 640, 480, -308, b"\x10\0\0\0" + b"s" * 256)))
    padded = rect(0, 0, 640, 480, -308, b"\x01abc" + b"s" * 16)
    clean = rect(0, 0, 640, 480, -308, b"\x01\0\0\0" + b"s" * 16)
    passes(everything, update(padded), expected=update(clean))


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
    passes_head(everything, update(rect(0, 0, 1024, 1, number, head)), opaque[name])
    for size in ((1025, 1), (1, 1025)):
        wire = update(rect(0, 0, *size, number, head))
        assert refused(everything, wire, 4, rectangle(name)) == "cursor-size"


def test_the_rows_of_a_mask_fill_whole_bytes() -> None:
    for w, row in ((1, 1), (8, 1), (9, 2), (16, 2), (17, 3)):
        passes(everything, update(rect(0, 0, w, 3, -239, PIXEL * w * 3 + b"m" * row * 3)))
        passes(everything, update(rect(0, 0, w, 3, -240, b"RGBrgb" + b"m" * row * 6)))
    for w, h in ((5, 0), (0, 5)):
        passes(everything, update(rect(0, 0, w, h, -240)), update(rect(0, 0, w, h, -239)))
    padded = rect(0, 0, 1, 1, 0x574D5664, b"\x01\xaa" + PIXEL)
    clean = rect(0, 0, 1, 1, 0x574D5664, b"\x01\0" + PIXEL)
    passes(everything, update(padded), expected=update(clean))


# Fences, colour maps, empty messages.


def test_hextile_inside_a_cursor() -> None:
    # 20x17: a tile in sub-rectangles, a raw one of four bytes a pixel, two of a background.
    tiles = b"\x18\x01rgba\x00\xff" + b"\x01" + b"r" * 256 + b"\x02rgba" + b"\x00"
    cursor = rect(9, 9, 20, 17, -314, b"\0\0\0\x05" + tiles)
    passes(everything, update(cursor, rect(0, 0, 1, 1, 0, PIXEL)), update(cursor))
    # Pixels of the framebuffer are of one byte meanwhile.
    passes(lambda: in_format(BGR233), update(cursor, rect(0, 0, 1, 1, 0, b"p")))
    where = rectangle("CursorWithAlpha")
    wrong = update(rect(0, 0, 20, 17, -314, b"\0\0\0\x05" + b"\x20" + tiles[1:]))
    assert refused(everything, wrong, 20, where) == "hextile-mask"
    wide = update(rect(0, 0, 1025, 1, -314, b"\0\0\0\x05" + tiles))
    assert refused(everything, wide, 4, where) == "cursor-size"
    alone = update(rect(0, 0, 20, 17, -314, b"\0\0\0\x05" + tiles))
    assert refused(lambda: conversation(-314), alone, 4, where) == "encoding-not-offered"
    # Raw need not be offered.
    passes(lambda: conversation(-314), update(rect(0, 0, 1, 1, -314, b"\0\0\0\0rgba")))


def test_only_capabilities_agree_to_the_extended_form() -> None:
    for flags, agreed in ((1 << 27 | 1, False), (1 << 24, True), (1 << 24 | 1 << 27, True)):
        made = everything()
        said = bytearray(cut_text(3, -4, struct.pack(">I", flags)))
        assert made.down.judge(said, 0, len(said)) == len(said)
        assert made.state.extended_clipboard is agreed


def test_an_update_is_bounded_whatever_it_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_desktop, "_UPDATE_SLACK_BYTES", 100)
    raw = rect(0, 0, 16, 16, 0, bytes(1024))
    tile = b"\x18\x0e" + (PIXEL + b"\0\0") * 14  # 86 bytes
    hextile = rect(0, 0, 16, 16, 5, tile)
    cursor = rect(0, 0, 16, 16, -314, b"\0\0\0\x05" + tile)
    for order in (
        (raw, raw, hextile, raw, raw),
        (hextile, *[raw] * 4),
        (*[raw] * 4, hextile),
        (*[raw] * 4, cursor),
    ):
        # 4,182 bytes of 4,196.
        passes(lambda: sized(16, 16, 5, -314), update(*order))
        longer = update(*order, rect(0, 0, 1, 3, 0, PIXEL * 3), rect(0, 0, 1, 1, 0, PIXEL))
        with pytest.raises(ProtocolError) as caught:
            Feeder(sized(16, 16, 5, -314).down, TAILS["down"]).feed(longer)
        assert caught.value.rule == "update-length"


def test_an_update_that_makes_the_framebuffer_smaller() -> None:
    # It may have begun with as much as the larger one permits.
    feeder = Feeder(everything().down, TAILS["down"])
    feeder.feed(struct.pack(">BxH", 0, 400) + rect(0, 0, 1, 1, -223))
    for _ in range(300):
        feeder.feed(rect(0, 0, 1, 1, 6, u32(4100)))
        feeder.reader.moved(4100)


def test_cursors_in_one_update_are_bounded() -> None:
    # 1024x1024 at four bytes, and a mask: 4,325,376 bytes; three of them are within 16 MiB.
    cursor = rect(0, 0, 1024, 1024, -239)
    feeder = Feeder(everything().down, TAILS["down"])
    feeder.feed(struct.pack(">BxH", 0, 9))
    for _ in range(3):
        feeder.feed(cursor)
        feeder.reader.moved(feeder.reader.opaque)
    rest = (1 << 24) - 3 * 4_325_376
    feeder.feed(rect(0, 0, 0, 0, -307, u32(2)) + b"ab")
    feeder.feed(rect(0, 0, 927, 1024, 0x574D5664, b"\x01\0"))
    feeder.reader.moved(feeder.reader.opaque)
    left = rest - 6 - (2 + 927 * 1024 * 4)
    assert 4 < left < 4096
    feeder.feed(rect(0, 0, 0, 0, -307, u32(left - 4)) + bytes(left - 4))
    feeder.feed(rect(0, 0, 0, 0, -239))
    with pytest.raises(ProtocolError) as caught:
        feeder.feed(rect(0, 0, 0, 0, -261, b"\0"))
    assert caught.value.rule == "update-length"
    # The next update has as much.
    feeder = Feeder(everything().down, TAILS["down"])
    for _ in range(5):
        feeder.feed(struct.pack(">BxH", 0, 1) + cursor)
        feeder.reader.moved(feeder.reader.opaque)


def test_a_fence_may_be_empty() -> None:
    check(everything, "down", fence(1 << 31, b""))
    check(everything, "down", update())
    padded = b"\xf8\xaa\xbb\xcc" + fence(1 << 31)[4:]
    check(everything, "down", padded, fence(1 << 31))


def test_an_answer_is_due_once() -> None:
    def asked() -> Conversation:
        made = everything()
        for wire in (fence(1 << 31), fence(0)):
            said = bytearray(wire)
            assert made.down.judge(said, 0, len(said)) == len(said)
        request = bytearray(fence(1 << 31))
        assert made.up.judge(request, 0, len(request)) == len(request)
        return made

    check(asked, "down", fence(0) + fence(0, b"y") + BELL, fence(0) + BELL)


def colour_map(first: int, count: int) -> bytes:
    """RFC 6143, Section 7.6.2."""
    return struct.pack(">BxHH", 1, first, count) + b"rrggbb" * count


def test_colour_maps() -> None:
    def eight() -> Conversation:
        return in_format(COLOUR_MAP_8)

    passes(eight, colour_map(0, 256), colour_map(255, 1), colour_map(256, 0))
    padded = b"\x01\xaa" + colour_map(0, 2)[2:]
    passes(eight, padded, expected=colour_map(0, 2))
    where = "SetColourMapEntries"
    assert refused(eight, colour_map(255, 2), 0, where) == "colour-map"
    # In true colour they are swallowed, if they make sense.
    check(everything, "down", colour_map(65_535, 1) + BELL, BELL)
    assert refused(everything, colour_map(65_535, 2), 0, where) == "colour-map"
    passes(lambda: in_format(COLOUR_MAP_32), colour_map(65_535, 1))


@pytest.mark.parametrize("number", sorted(encodings.SIGNALS - {encodings.LAST_RECT}))
def test_a_signal_is_no_rectangle(number: int) -> None:
    wire = update(rect(0, 0, 0, 0, number), count=2)
    rule = refused(everything, wire, 4, "FramebufferUpdate > rectangle 0")
    assert rule == "encoding-not-offered"


def test_a_plain_text_confirms_nothing() -> None:
    made = check(everything, "down", cut_text(3, 5, b"hello"))
    assert not made.state.extended_clipboard


def test_evidence_is_the_first_32_bytes() -> None:
    for wire, start in ((b"\x63" * 40, 0), (b"\x02" + b"\x63" * 5, 1)):
        buf = bytearray(wire + b"behind")
        with pytest.raises(ProtocolError) as caught:
            everything().down.judge(buf, 0, len(wire))
        assert caught.value.evidence == wire[start : start + 32]
