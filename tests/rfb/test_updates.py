"""One update as a whole (RFC 6143, Section 7.6.1): how much it may have, and who is told of it."""

from __future__ import annotations

import struct

import pytest

from relay.rfb import from_desktop
from relay.rfb.conversation import Conversation
from relay.rfb.errors import ProtocolError
from tests.labs.conversations import everything, sized
from tests.labs.jpeg import IMAGE, image_of
from tests.labs.peers import BELL
from tests.labs.rfb_messages import PIXEL, cut_text, rect, u32, update
from tests.labs.splits import TAILS, Feeder, passes

# Four times the pixels and 1 MiB: what one update of a framebuffer of one pixel may have.
ROOM = 4 * 4 + 1_048_576
# The most that one rectangle of a pixel may have as H.264: its head, and its length's limit.
WIDEST = 8 + 2 * 4 + 65_536


def h264(size: int) -> tuple[bytes, int]:
    """The head of a rectangle whose payload has `size` bytes, and how many are behind it."""
    return rect(0, 0, 1, 1, 50, struct.pack(">II", size - 8, 0)), size - 8


def image(size: int) -> tuple[bytes, int]:
    """A JPEG image, which is walked through, whole."""
    return rect(0, 0, 1, 1, 21, image_of(size)), 0


Rectangles = list[tuple[bytes, int]]

FILLED, REST = [h264(WIDEST)] * 15, ROOM - 15 * WIDEST
FULL: dict[str, tuple[Rectangles, Rectangles]] = {
    # What fits, and the same with a byte more.
    "by its head": ([*FILLED, h264(REST)], [*FILLED, h264(REST + 1)]),
    "walked through": ([*FILLED, image(REST)], [*FILLED, image(REST + 1)]),
    "in turns": (
        [image(30_000), *FILLED, image(5_000), h264(REST - 35_000)],
        [image(30_000), *FILLED, image(5_000), h264(REST - 34_999)],
    ),
    "walked last": (
        [h264(30_000), image(1_000), *FILLED, image(REST - 31_000)],
        [h264(30_000), image(1_000), *FILLED, image(REST - 30_999)],
    ),
}


def send(made: Conversation, rectangles: Rectangles, piece_bytes: int) -> None:
    """An update in pieces, its opaque bytes unseen."""
    feeder = Feeder(made.down, TAILS["down"])
    feeder.feed(struct.pack(">BxH", 0, len(rectangles)))
    for head, opaque in rectangles:
        for at in range(0, len(head), piece_bytes):
            feeder.feed(head[at : at + piece_bytes])
        made.down.moved(opaque)
    assert not feeder.tail
    feeder.feed(BELL)


@pytest.mark.parametrize("piece_bytes", [7, 1000, 1 << 20])
@pytest.mark.parametrize("name", FULL)
def test_an_update_is_bounded(name: str, piece_bytes: int) -> None:
    fits, over = FULL[name]
    made = sized(1, 1)
    for _ in range(3):
        send(made, fits, piece_bytes)
    with pytest.raises(ProtocolError) as caught:
        send(made, over, piece_bytes)
    assert caught.value.rule == "update-length"


def test_a_larger_framebuffer_has_more_room() -> None:
    resized = [(rect(0, 0, 640, 480, -223), 0)]
    made = sized(1, 1)
    send(made, [*FILLED, *resized, *FILLED], 1 << 20)
    send(made, [*FILLED, *FILLED], 1 << 20)
    # What an update had at its beginning is not taken back when the framebuffer shrinks in it.
    shrunk = [(rect(0, 0, 1, 1, -223), 0)]
    send(made, [*FILLED, *shrunk, *FILLED], 1 << 20)
    with pytest.raises(ProtocolError):
        send(made, [*FILLED, *FILLED], 1 << 20)


def test_all_in_one_piece() -> None:
    images = b"".join(image(size)[0] for size in (*[20_000] * 52, ROOM - 52 * 20_000))
    Feeder(sized(1, 1).down, TAILS["down"]).feed(update(images, count=53) + BELL)
    with pytest.raises(ProtocolError):
        Feeder(sized(1, 1).down, TAILS["down"]).feed(
            update(images, rect(0, 0, 1, 1, 0, PIXEL), count=54)
        )


@pytest.mark.parametrize("piece_bytes", [1, 1 << 20])
def test_an_observer_is_told_of_each_element(piece_bytes: int) -> None:
    made = everything()
    told: list[tuple[str, int, int]] = []
    made.down.observer = lambda *element: told.append(element)
    wire = (
        BELL
        + update(rect(0, 0, 2, 1, 0, PIXEL * 2), rect(0, 0, 16, 8, 21, IMAGE))
        + cut_text(3, 5, b"hello")
        + update(rect(0, 0, 5, 5, -239, b"c" * 105), rect(0, 0, 0, 0, -224), count=9)
        + BELL
    )
    feeder = Feeder(made.down, TAILS["down"])
    for at in range(0, len(wire), piece_bytes):
        feeder.feed(wire[at : at + piece_bytes])
    image_at = 1 + 4 + 20
    text_at = image_at + 12 + len(IMAGE)
    assert told == [
        ("message", 2, 0),
        ("message", 0, 1),
        ("rectangle", 0, 5),
        ("rectangle", 21, image_at),
        ("message", 3, text_at),
        ("message", 0, text_at + 13),
        ("rectangle", -239, text_at + 17),
        ("rectangle", -224, text_at + 17 + 117),
        ("message", 2, text_at + 17 + 129),
    ]
    assert made.down.messages == 5
    assert made.down.offset == len(wire)


def test_a_message_is_under_way_until_its_end() -> None:
    reader = everything().down
    feeder = Feeder(reader, TAILS["down"])
    pixel = rect(0, 0, 1, 1, 0, PIXEL)
    under_way = []
    for byte in update(pixel, pixel) + cut_text(3, 5, b"hello") + BELL:
        feeder.feed(bytes([byte]))
        under_way.append(reader.under_way)
    # An update from its head on, a text from the end of its head to its last byte.
    assert under_way == [False] * 3 + [True] * 32 + [False] * 8 + [True] * 5 + [False] * 2


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
        passes(lambda: sized(16, 16, 5, -314), "down", update(*order))
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
