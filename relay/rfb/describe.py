"""Messages and rectangles in words, for people who look at a recording.

Payload is not shown: clipboards hold passwords. Names come with control characters removed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from relay.rfb import encodings, pixel_format
from relay.rfb.errors import Direction

_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from
_i32 = struct.Struct(">i").unpack_from
_area = struct.Struct(">HHHH").unpack_from
_point = struct.Struct(">HH").unpack_from
_extended_key = struct.Struct(">HII").unpack_from

Describe = Callable[[bytes, int], str]
"""What a message at a position says; its head is there."""

_SIGNALS = {
    encodings.LAST_RECT: "LastRect",
    encodings.GII: "gii",
    encodings.XVP: "xvp",
    encodings.FENCE: "Fence",
    encodings.CONTINUOUS_UPDATES: "ContinuousUpdates",
    encodings.EXTENDED_CLIPBOARD: "Extended Clipboard",
}
_LEVELS = ("quality", "fine quality", "compression", "subsampling")

_CLIPBOARD_ACTIONS = {24: "caps", 25: "request", 26: "peek", 27: "notify", 28: "provide"}


def encoding_name(number: int) -> str:
    """The name of an encoding, or its number where it has none here."""
    if number in encodings.REGISTRY:
        return encodings.REGISTRY[number].name
    for name, levels in zip(_LEVELS, encodings.LEVELS, strict=True):
        if number in levels:
            return f"{name} {levels.index(number)}"
    return _SIGNALS.get(number, str(number))


def format_of_pixels(wanted: pixel_format.PixelFormat) -> str:
    """PIXEL_FORMAT (RFC 6143, Section 7.4)."""
    text = f"{wanted.bits_per_pixel} bits per pixel, depth {wanted.depth}"
    if not wanted.true_colour:
        return f"{text}, colour map"
    order = "big" if wanted.big_endian else "little"
    channels = (
        ("red", wanted.red_max, wanted.red_shift),
        ("green", wanted.green_max, wanted.green_shift),
        ("blue", wanted.blue_max, wanted.blue_shift),
    )
    return f"{text}, {order} endian, " + ", ".join(f"{c} {m}<<{s}" for c, m, s in channels)


def rectangle(data: bytes, pos: int) -> tuple[str, str]:
    """Name and details of the rectangle whose header begins at `data[pos]`. Pseudo-encodings use
    the place and the size for anything."""
    return encoding_name(_i32(data, pos + 8)[0]), _area_of(data, pos)


def message(direction: Direction, data: bytes, pos: int) -> tuple[str, str]:
    """Name and details of the message whose head begins at `data[pos]`."""
    number = data[pos]
    row = _MESSAGES[direction].get(number)
    return (row[0], row[1](data, pos)) if row else (f"message {number}", "")


def message_name(direction: Direction, number: int) -> str:
    """The name of a message type."""
    row = _MESSAGES[direction].get(number)
    return row[0] if row else f"message {number}"


def _area_of(data: bytes, pos: int) -> str:
    x, y, w, h = _area(data, pos)
    return f"{w}x{h} at {x},{y}"


def _number_of(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _nothing(_data: bytes, _pos: int) -> str:
    return ""


def _set_pixel_format(data: bytes, pos: int) -> str:
    return format_of_pixels(pixel_format.parse(data, pos + 4))


def _set_encodings(data: bytes, pos: int) -> str:
    count = _u16(data, pos + 2)[0]
    return ", ".join(map(encoding_name, struct.unpack_from(f">{count}i", data, pos + 4)))


def _update_request(data: bytes, pos: int) -> str:
    return f"{'incremental' if data[pos + 1] else 'full'}, {_area_of(data, pos + 2)}"


def _down(pressed: int) -> str:
    return "down" if pressed else "up"


def _key(data: bytes, pos: int) -> str:
    return f"{_down(data[pos + 1])}, keysym 0x{_u32(data, pos + 4)[0]:x}"


def _pointer(data: bytes, pos: int) -> str:
    x, y = _point(data, pos + 2)
    return f"at {x},{y}, buttons 0x{data[pos + 1]:02x}"


def _cut_text(data: bytes, pos: int) -> str:
    length = _i32(data, pos + 4)[0]
    if length >= 0:
        return _number_of(length, "byte")
    flags = _u32(data, pos + 8)[0]
    names = [name for bit, name in _CLIPBOARD_ACTIONS.items() if flags & 1 << bit]
    return f"extended, {-length} bytes: {', '.join(names)}"


def _enable(data: bytes, pos: int) -> str:
    return f"{'on' if data[pos + 1] else 'off'}, {_area_of(data, pos + 2)}"


def _fence(data: bytes, pos: int) -> str:
    return f"flags 0x{_u32(data, pos + 4)[0]:08x}, {_number_of(data[pos + 8], 'byte')}"


def _set_desktop_size(data: bytes, pos: int) -> str:
    width, height = _point(data, pos + 2)
    return f"{width}x{height}, {_number_of(data[pos + 6], 'screen')}"


def _qemu(data: bytes, pos: int) -> str:
    if data[pos + 1]:
        return f"audio, {_audio(data, pos)}"
    pressed, keysym, keycode = _extended_key(data, pos + 2)
    return f"key {_down(pressed)}, keysym 0x{keysym:x}, keycode 0x{keycode:x}"


def _audio(data: bytes, pos: int) -> str:
    return f"operation {_u16(data, pos + 2)[0]}"


def _xvp(data: bytes, pos: int) -> str:
    return f"code {data[pos + 3]}"


def _gii(data: bytes, pos: int) -> str:
    return f"submessage {data[pos + 1] & 0x7F}"


def _update(data: bytes, pos: int) -> str:
    count = _u16(data, pos + 2)[0]
    if count == 0xFFFF:
        return "rectangles until LastRect"
    return _number_of(count, "rectangle")


def _colour_map(data: bytes, pos: int) -> str:
    first, count = _point(data, pos + 2)
    return f"{count} entries from {first}"


_MESSAGES: dict[Direction, dict[int, tuple[str, Describe]]] = {
    Direction.UP: {
        0: ("SetPixelFormat", _set_pixel_format),
        2: ("SetEncodings", _set_encodings),
        3: ("FramebufferUpdateRequest", _update_request),
        4: ("KeyEvent", _key),
        5: ("PointerEvent", _pointer),
        6: ("ClientCutText", _cut_text),
        150: ("EnableContinuousUpdates", _enable),
        248: ("ClientFence", _fence),
        250: ("xvp", _xvp),
        251: ("SetDesktopSize", _set_desktop_size),
        253: ("gii", _gii),
        255: ("QEMU message", _qemu),
    },
    Direction.DOWN: {
        0: ("FramebufferUpdate", _update),
        1: ("SetColourMapEntries", _colour_map),
        2: ("Bell", _nothing),
        3: ("ServerCutText", _cut_text),
        150: ("EndOfContinuousUpdates", _nothing),
        248: ("ServerFence", _fence),
        250: ("xvp", _xvp),
        253: ("gii", _gii),
        255: ("QEMU audio", _audio),
    },
}
