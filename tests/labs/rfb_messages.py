"""Messages of both directions, and what they are made of: rectangles, pixels, pixel formats. All
written out from RFC 6143 and the community specification (rfbproto).

Sizes are in pixels; where none is given, they are those of `peers.INIT`, 640x480 at 32 bits.
"""

from __future__ import annotations

import struct

from relay.rfb import encodings
from relay.rfb.fences import OUR_FENCE
from tests.labs.peers import PIXEL_FORMAT

# Pixels, and their formats (RFC 6143, Section 7.4).

PIXEL = b"\x11\x22\x33\0"

BGR233 = bytes.fromhex("08080001000700070003 000306 000000".replace(" ", ""))
COLOUR_MAP_8 = bytes.fromhex("08080000000000000000 000000 000000".replace(" ", ""))
COLOUR_MAP_32 = b"\x20\x18" + COLOUR_MAP_8[2:]
RGB565 = bytes.fromhex("10100001 001f003f001f 0b0500 000000".replace(" ", ""))

# What the desktop says (RFC 6143, Section 7.6).


def rect(x: int, y: int, w: int, h: int, number: int, body: bytes = b"") -> bytes:
    return struct.pack(">HHHHi", x, y, w, h, number) + body


def begun(rectangles: bytes, count: int) -> bytes:
    """A FramebufferUpdate as far as it has come."""
    return struct.pack(">BxH", 0, count) + rectangles


def update(*rectangles: bytes, count: int | None = None) -> bytes:
    """FramebufferUpdate (Section 7.6.1)."""
    return begun(b"".join(rectangles), len(rectangles) if count is None else count)


def raw(bytes_per_pixel: int = 4) -> bytes:
    """An update of one Raw rectangle of 3x1."""
    return update(rect(0, 0, 3, 1, 0, b"p" * (3 * bytes_per_pixel)))


def copyrect() -> bytes:
    """An update of one CopyRect rectangle of 3x1."""
    return update(rect(0, 0, 3, 1, 1, bytes(4)))


CURSOR_ONLY = update(rect(0, 0, 0, 0, -239))
LAST_RECT = update(rect(0, 0, 0, 0, -224), count=9)
END = b"\x96"
"""EndOfContinuousUpdates."""


def colour_map(first: int, count: int) -> bytes:
    """SetColourMapEntries (Section 7.6.2)."""
    return struct.pack(">BxHH", 1, first, count) + b"rrggbb" * count


# What either side says.


def fence(flags: int, payload: bytes = b"x") -> bytes:
    return struct.pack(">BxxxIB", 248, flags, len(payload)) + payload


def answer(purpose: bytes, number: int, flags: int = 0) -> bytes:
    """The desktop's answer to a fence of the relay's."""
    return fence(flags, OUR_FENCE + purpose + struct.pack(">I", number))


def cut_text(kind: int, length: int, body: bytes) -> bytes:
    """ServerCutText is of `kind` 3, ClientCutText of 6."""
    return struct.pack(">Bxxxi", kind, length) + body


# What the viewer says (RFC 6143, Section 7.5).

SET_SMALL = b"\0\0\0\0" + BGR233
SET_LARGE = b"\0\0\0\0" + PIXEL_FORMAT
SET_16 = b"\0\0\0\0" + RGB565


def offers(*numbers: int) -> bytes:
    """SetEncodings."""
    return struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers)


def request(x: int = 0, y: int = 0, w: int = 640, h: int = 480, incremental: int = 1) -> bytes:
    """FramebufferUpdateRequest."""
    return struct.pack(">BBHHHH", 3, incremental, x, y, w, h)


def enable(on: int, w: int = 640, h: int = 480) -> bytes:
    """EnableContinuousUpdates."""
    return struct.pack(">BBHHHH", 150, on, 0, 0, w, h)


KEY = bytes.fromhex("0401000000000061")
SCREEN = struct.pack(">IHHHHI", 1, 0, 0, 800, 600, 0)

LEGAL_UP = {
    "SetPixelFormat": SET_LARGE,
    "FramebufferUpdateRequest": bytes.fromhex("03000000000002800 1e0".replace(" ", "")),
    "KeyEvent": KEY,
    "PointerEvent": bytes.fromhex("0501000a0014"),
    "PointerEvent, extended": bytes.fromhex("0580000a001401"),
    "ClientCutText": cut_text(6, 5, b"hello"),
    "extended clipboard": cut_text(6, -4, struct.pack(">I", 1 << 25 | 1)),
    "EnableContinuousUpdates": bytes.fromhex("960100000000028001e0"),
    "ClientFence": fence(0),
    "SetDesktopSize": struct.pack(">BxHHBx", 251, 800, 600, 1) + SCREEN,
    "QEMU key": struct.pack(">BBHII", 255, 0, 1, 0x61, 0x1E),
}
"""By name: what a viewer may say once every extension has been confirmed."""

EVERYTHING = (*encodings.REGISTRY, *encodings.SIGNALS, -26)
"""All that a viewer can offer."""

# Parts of payloads.


def u32(length: int) -> bytes:
    return struct.pack(">I", length)


def compact(length: int) -> bytes:
    """The community specification's table, Tight Encoding: 7, 7 and 8 bits, the least significant
    first."""
    if length < 1 << 7:
        return bytes((length,))
    if length < 1 << 14:
        return bytes((length & 127 | 128, length >> 7))
    return bytes((length & 127 | 128, length >> 7 & 127 | 128, length >> 14))
