"""Each message and encoding at every split, and each rule broken.

Bytes are written out from RFC 6143 and the community specification (rfbproto).
"""

from __future__ import annotations

import struct
import zlib

import pytest

from relay.limits import Limits
from relay.rfb import encodings
from relay.rfb.conversation import Conversation
from tests.labs.conversations import confirmed, conversation, everything
from tests.labs.peers import INIT, PIXEL_FORMAT, UPDATE_REQUEST
from tests.labs.rfb_messages import LEGAL_UP, PIXEL, SCREEN, cut_text, fence, rect, update
from tests.labs.splits import check, check_refused, rectangle

ZLIB = zlib.compress(b"\x11\x22\x33" * 700)
LENGTH = struct.pack(">I", len(ZLIB))
COMPACT = bytes([len(ZLIB) & 127])  # fewer than 128 bytes
JPEG = b"\xff\xd8" + b"j" * 198  # 200 bytes: compact length c8 01

LEGAL_DOWN = {
    "Raw": update(rect(0, 0, 3, 2, 0, PIXEL * 6)),
    "Raw, nothing": update(rect(640, 480, 0, 0, 0)),
    "CopyRect": update(rect(10, 10, 30, 20, 1, b"\x00\x05\x00\x06")),
    "RRE": update(
        rect(
            0, 0, 16, 16, 2, b"\0\0\0\x02" + PIXEL + (PIXEL + struct.pack(">HHHH", 8, 8, 8, 8)) * 2
        )
    ),
    "Hextile": update(
        rect(
            0,
            0,
            20,
            16,
            5,
            b"\x1e"
            + PIXEL
            + PIXEL
            + b"\x02"
            + (PIXEL + b"\x00\xff") * 2  # coloured
            + b"\x0c"
            + PIXEL
            + b"\x01"
            + b"\x30\x0f",  # one foreground sub-rectangle, 4 wide
        )
    ),
    "Hextile raw tile": update(rect(0, 0, 4, 4, 5, b"\x01" + PIXEL * 16)),
    "zlib": update(rect(0, 0, 25, 28, 6, LENGTH + ZLIB)),
    "ZRLE": update(rect(0, 0, 25, 28, 16, LENGTH + ZLIB)),
    "Tight fill": update(rect(0, 0, 500, 400, 7, b"\x80\x11\x22\x33")),
    "Tight JPEG": update(rect(0, 0, 64, 64, 7, b"\x90\xc8\x01" + JPEG)),
    "Tight copy": update(rect(0, 0, 25, 28, 7, b"\x00" + COMPACT + ZLIB)),
    "Tight tiny, no length": update(rect(0, 0, 1, 3, 7, b"\x00" + b"\x11\x22\x33" * 3)),
    "Tight two colours": update(rect(0, 0, 9, 2, 7, b"\x40\x01\x01" + b"abcdef" + b"\xff\x80" * 2)),
    "Tight palette": update(rect(0, 0, 25, 28, 7, b"\x50\x01\x02" + b"abcdefghi" + COMPACT + ZLIB)),
    "Tight gradient": update(rect(0, 0, 25, 28, 7, b"\x60\x02" + COMPACT + ZLIB)),
    "Tight, two-byte form of a short length": update(
        rect(0, 0, 25, 28, 7, b"\x00" + bytes([len(ZLIB) | 128, 0]) + ZLIB)
    ),
    "TightPNG": update(rect(0, 0, 64, 64, -260, b"\xa0\x08" + b"\x89PNG\r\n\x1a\n")),
    "Cursor": update(rect(1, 2, 9, 2, -239, PIXEL * 18 + b"\xff\x80" * 2)),
    "Cursor 0x0": update(rect(0, 0, 0, 0, -239)),
    "VMware cursor": update(rect(0, 0, 2, 2, 0x574D5664, b"\0\0" + PIXEL * 8)),
    "VMware cursor, alpha": update(rect(0, 0, 2, 2, 0x574D5664, b"\x01\0" + PIXEL * 4)),
    "CursorWithAlpha": update(rect(0, 0, 2, 2, -314, b"\0\0\0\0" + PIXEL * 4)),
    "DesktopSize, then beyond the old": update(
        rect(0, 0, 800, 600, -223), rect(700, 500, 2, 1, 0, PIXEL * 2)
    ),
    "ExtendedDesktopSize": update(
        rect(0, 0, 800, 600, -308, b"\x01\0\0\0" + struct.pack(">IHHHHI", 1, 0, 0, 800, 600, 0)),
        rect(799, 599, 1, 1, 0, PIXEL),
    ),
    "DesktopName": update(rect(0, 0, 0, 0, -307, b"\0\0\0\x04n\xe4me")),
    "LED": update(rect(0, 0, 0, 0, -261, b"\x04"), rect(0, 0, 0, 0, 0x574D5668, b"\0\0\0\x01")),
    "LastRect": update(rect(0, 0, 1, 1, 0, PIXEL), rect(0, 0, 0, 0, -224), count=65535) + b"\x02",
    "empty update": update() + b"\x02",
    "ServerCutText": cut_text(3, 5, b"hello") + b"\x02",
    "extended clipboard": cut_text(3, -8, struct.pack(">II", 1 << 24 | 1, 100)) + b"\x02",
    "EndOfContinuousUpdates": b"\x96\x02",
    "ServerFence": fence(1 << 31 | 1, b"f" * 64) + b"\x02",
    "xvp": b"\xfa\0\x01\x01" + b"\xfa\0\x01\0" + b"\x02",
    "gii": b"\xfd\x81\0\x04\0\x01\0\x01" + b"\xfd\x01\x04\0\x01\0\x01\0" + b"\x02",
}


@pytest.mark.parametrize("name", LEGAL_DOWN)
def test_the_desktop_may_say(name: str) -> None:
    check(everything, "down", LEGAL_DOWN[name])


SWALLOWED = {
    # noVNC ends its session on any colour map, and on a fence that is no request.
    "colour map in true colour": struct.pack(">BxHH", 1, 0, 2) + b"c" * 12,
    "a fence nobody asked for": fence(0),
    # noVNC and TigerVNC's viewer skip it.
    "a fence of 65": fence(1 << 31, b"f" * 65),
    "cut text over the limit": cut_text(3, 300_000, b"x" * 300_000),
}


@pytest.mark.parametrize("name", SWALLOWED)
def test_swallowed_without_losing_step(name: str) -> None:
    check(everything, "down", b"\x02" + SWALLOWED[name] + b"\x02", b"\x02\x02")


@pytest.mark.parametrize("place", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)])
def test_a_name_that_has_a_place_is_no_name(place: tuple[int, int, int, int]) -> None:
    # Community specification, DesktopName: all four are 0. TigerVNC's viewer ignores such a one.
    bell, pixel = b"\x02", rect(0, 0, 1, 1, 0, PIXEL)
    name = rect(*place, -307, b"\0\0\0\x04evil")
    check(
        everything,
        "down",
        update(pixel, name, pixel) + bell,
        update(pixel, rect(0, 0, 0, 0, 0), pixel) + bell,
    )
    long = rect(*place, -307, b"\0\0\x0f\xff" + b"n" * 4095)
    made = check(everything, "down", update(long), update(rect(0, 0, 0, 0, 0)))
    assert not made.flow.in_update


def test_risky_encodings_are_not_let_through() -> None:
    # Ultra, Ultra2, UltraZip, and VMware's change of the display mode.
    risky = [9, 10, -65527, 0x574D5669]
    assert set(risky) == encodings.RISKY
    wire = struct.pack(">BxH5i", 2, 5, *risky[:2], 7, *risky[2:])
    check(lambda: Conversation(INIT, Limits()), "up", wire, struct.pack(">BxHi", 2, 1, 7))


def test_padding_becomes_zero() -> None:
    check(
        everything,
        "down",
        b"\0\xaa\0\0" + b"\x03\xaa\xbb\xcc\0\0\0\x01x",
        b"\0\0\0\0\x03\0\0\0\0\0\0\x01x",
    )


BROKEN_DOWN: dict[str, tuple[bytes, int, str]] = {
    "unknown message": (b"\x02\x63", 1, "message type"),
    "outside": (
        update(rect(0, 0, 1, 1, 0, PIXEL), rect(639, 0, 2, 1, 0, PIXEL * 2)),
        20,
        rectangle("Raw", 1),
    ),
    "not offered": (update(rect(0, 0, 1, 1, 20)), 4, "FramebufferUpdate > rectangle 0"),
    "copy from outside": (
        update(rect(0, 0, 30, 20, 1, struct.pack(">HH", 611, 0))),
        4,
        rectangle("CopyRect"),
    ),
    "RRE count": (update(rect(0, 0, 2, 2, 2, b"\0\0\0\x05" + PIXEL)), 16, rectangle("RRE")),
    "RRE outside": (
        update(
            rect(
                0, 0, 16, 16, 2, b"\0\0\0\x01" + PIXEL + PIXEL + struct.pack(">HHHH", 15, 15, 2, 1)
            )
        ),
        24,
        rectangle("RRE"),
    ),
    "Hextile outside": (update(rect(0, 0, 8, 8, 5, b"\x08\x01\xff\x00")), 16, rectangle("Hextile")),
    "Hextile mask": (update(rect(0, 0, 8, 8, 5, b"\x20")), 16, rectangle("Hextile")),
    "zlib length": (update(rect(0, 0, 1, 1, 6, b"\x00\x01\x00\x00")), 4, rectangle("zlib")),
    "ZRLE length": (update(rect(0, 0, 1, 1, 16, b"\xff\xff\xff\xff")), 4, rectangle("ZRLE")),
    "Tight control": (update(rect(0, 0, 1, 1, 7, b"\xb0")), 4, rectangle("Tight")),
    "Tight PNG in Tight": (update(rect(0, 0, 1, 1, 7, b"\xa0")), 4, rectangle("Tight")),
    "Tight filter": (update(rect(0, 0, 1, 1, 7, b"\x40\x03")), 4, rectangle("Tight")),
    "Tight length": (update(rect(0, 0, 8, 8, 7, b"\x00\xff\xff\xff")), 4, rectangle("Tight")),
    "no JPEG": (update(rect(0, 0, 64, 64, 7, b"\x90\x08notajpeg")), 4, rectangle("Tight")),
    "basic in TightPNG": (update(rect(0, 0, 8, 8, -260, b"\x00")), 4, rectangle("TightPNG")),
    "cursor size": (update(rect(0, 0, 1025, 1, -239)), 4, rectangle("Cursor")),
    "cursor type": (update(rect(0, 0, 1, 1, 0x574D5664, b"\x02\0")), 4, rectangle("VMware cursor")),
    "cursor in cursor": (
        update(rect(0, 0, 1, 1, -314, struct.pack(">i", -314))),
        4,
        rectangle("CursorWithAlpha"),
    ),
    "giant desktop": (update(rect(0, 0, 65535, 65535, -223)), 4, rectangle("DesktopSize")),
    "17 screens": (
        update(rect(0, 0, 640, 480, -308, b"\x11\0\0\0")),
        4,
        rectangle("ExtendedDesktopSize"),
    ),
    "long name": (update(rect(0, 0, 0, 0, -307, b"\0\0\x10\x01")), 4, rectangle("DesktopName")),
    "after a resize": (
        update(rect(0, 0, 100, 100, -223), rect(0, 0, 101, 1, 0)),
        16,
        rectangle("Raw", 1),
    ),
    "cut text of -2^31": (cut_text(3, -(2**31), b""), 0, "ServerCutText"),
    "cut text of -3": (cut_text(3, -3, b""), 0, "ServerCutText"),
    "two actions": (cut_text(3, -4, struct.pack(">I", 3 << 25)), 0, "ServerCutText"),
    "reserved flags": (cut_text(3, -4, struct.pack(">I", 1 << 25 | 1 << 16)), 0, "ServerCutText"),
    "short capabilities": (cut_text(3, -4, struct.pack(">I", 1 << 24 | 1)), 0, "ServerCutText"),
    "two fences of 65": (fence(1 << 31, b"f" * 65) * 2, 74, "ServerFence"),
    "colour map beyond": (struct.pack(">BxHH", 1, 65535, 2), 0, "SetColourMapEntries"),
}


@pytest.mark.parametrize("name", BROKEN_DOWN)
def test_the_desktop_must_not_say(name: str) -> None:
    wire, offset, where = BROKEN_DOWN[name]
    check_refused(everything, "down", wire, offset, where)


@pytest.mark.parametrize(
    ("wire", "where"),
    [
        (b"\x96", "EndOfContinuousUpdates"),
        (fence(1 << 31), "ServerFence"),
        (cut_text(3, -4, struct.pack(">I", 1 << 25)), "ServerCutText"),
        (update(rect(0, 0, 0, 0, -224), count=2), "FramebufferUpdate > rectangle 0"),
        (
            update(rect(0, 0, 8, 8, 7, b"\x90\x08" + JPEG)),
            rectangle("Tight"),
        ),
        (
            update(rect(0, 0, 2049, 1, 7, b"\x00\x09deflated!")),
            rectangle("Tight"),
        ),
    ],
    ids=["150", "fence", "clipboard", "LastRect", "JPEG", "wide"],
)
def test_nothing_that_was_not_offered(wire: bytes, where: str) -> None:
    def make() -> Conversation:
        made = conversation(7)
        made.state.width = 4096
        return made

    check_refused(make, "down", wire, 0 if wire[0] else 4, where)


@pytest.mark.parametrize("name", LEGAL_UP)
def test_the_viewer_may_say(name: str) -> None:
    # No update request behind them: one would wait for the other.
    check(confirmed, "up", LEGAL_UP[name] + LEGAL_UP["KeyEvent"])


EDITED_UP = {
    "offers are cut": (
        struct.pack(">BBHiiii", 2, 9, 4, 7, 20, 22, -224),
        struct.pack(">BxHii", 2, 2, 7, -224),
    ),
    "a request is cropped": (
        struct.pack(">BBHHHH", 3, 1, 600, 470, 100, 100),
        struct.pack(">BBHHHH", 3, 1, 600, 470, 40, 10),
    ),
    "a pointer is clamped": (
        struct.pack(">BBHH", 5, 0, 640, 65535),
        struct.pack(">BBHH", 5, 0, 639, 479),
    ),
    "padding": (bytes.fromhex("0407aabb00000061"), bytes.fromhex("0401000000000061")),
    "a paste over the limit is skipped": (
        cut_text(6, 300_000, b"p" * 300_000) + UPDATE_REQUEST,
        UPDATE_REQUEST,
    ),
}


@pytest.mark.parametrize("name", EDITED_UP)
def test_the_viewer_is_corrected(name: str) -> None:
    wire, expected = EDITED_UP[name]
    check(everything, "up", wire, expected)


def test_before_the_confirmation_bit_7_is_a_button() -> None:
    check(everything, "up", bytes.fromhex("0580000a0014") + UPDATE_REQUEST)


BROKEN_UP: dict[str, tuple[bytes, str]] = {
    "unknown message": (b"\x07", "message type"),
    "24 bits per pixel": (b"\0\0\0\0\x18" + PIXEL_FORMAT[1:], "SetPixelFormat"),
    "too many offers": (b"\x02\0\x04\x01", "SetEncodings"),
    "continuous updates": (bytes(LEGAL_UP["EnableContinuousUpdates"]), "EnableContinuousUpdates"),
    "fence": (fence(0), "ClientFence"),
    "resize": (LEGAL_UP["SetDesktopSize"], "SetDesktopSize"),
    "QEMU key": (LEGAL_UP["QEMU key"], "QEMU message"),
    "QEMU audio": (b"\xff\x01\0\0", "QEMU message"),
    "extended clipboard": (LEGAL_UP["extended clipboard"], "ClientCutText"),
}


@pytest.mark.parametrize("name", BROKEN_UP)
def test_the_viewer_must_not_say(name: str) -> None:
    wire, where = BROKEN_UP[name]
    check_refused(everything, "up", UPDATE_REQUEST + wire, 10, where)


@pytest.mark.parametrize(
    "wire",
    [
        struct.pack(">BxHHBx", 251, 800, 600, 0),
        struct.pack(">BxHHBx", 251, 0, 600, 1) + SCREEN,
        struct.pack(">BxHHBx", 251, 799, 600, 1) + SCREEN,
        struct.pack(">BxHHBx", 251, 800, 600, 2) + SCREEN * 2,
    ],
    ids=["no screen", "no width", "screen outside", "same screen twice"],
)
def test_a_resize_must_make_sense(wire: bytes) -> None:
    check_refused(confirmed, "up", wire, 0, "SetDesktopSize")


def test_a_smaller_clipboard_limit_counts() -> None:
    def make() -> Conversation:
        return conversation(limits=Limits(clipboard_bytes=4))

    check(make, "up", cut_text(6, 5, b"hello") + UPDATE_REQUEST, UPDATE_REQUEST)
