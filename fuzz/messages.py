"""Messages of both sides other than updates, mostly legal (RFC 6143, Sections 7.5 and 7.6;
community specification)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from fuzz.data import Data
from fuzz.rectangles import BODIES, PIXEL_FORMATS, framed, update
from relay.rfb.encodings import LEVELS, REGISTRY, SIGNALS
from relay.rfb.fences import OUR_FENCE

_ENCODINGS = (*REGISTRY, *SIGNALS, *BODIES, *(levels[0] for levels in LEVELS), *(9, 22, -305, -309))
_CAPS = 1 << 24
_ACTIONS = tuple(1 << bit for bit in range(25, 29))


def _cut_text(kind: int) -> Callable[[Data], bytes]:
    def message(data: Data) -> bytes:
        padding = data.take(3).ljust(3, b"\0")
        if data.one_in(2):
            text = data.fill(data.byte() % 80)
            return struct.pack(">B3sI", kind, padding, data.about(len(text))) + text
        formats = data.u16() & 0x0013
        if data.one_in(2):
            body = struct.pack(">I", _CAPS | formats | data.about(0))
            body += b"\0\0\x10\0" * min(data.about(formats.bit_count()), 20)
        else:
            action = data.pick(_ACTIONS)
            body = struct.pack(">I", (action | formats | data.about(0)) & 0xFFFFFFFF)
            if action == _ACTIONS[-1]:
                body += data.fill(data.byte() % 80)
        length = data.about(len(body)) & 0xFFFFFFFF
        return struct.pack(">B3sI", kind, padding, -length & 0xFFFFFFFF) + body

    return message


def _fence(data: Data) -> bytes:
    size = data.pick((0, 1, 8, 63, 64, 65, 255, 15))
    # How the relay's own begin.
    payload = (OUR_FENCE + b"F" + data.fill(4))[:size] if size == 15 else data.fill(size)
    flags = data.pick((0, 1, 1 << 31, 1 << 31 | 7, 0xFFFFFFFF))
    head = struct.pack(">B3sI", 248, data.take(3).ljust(3, b"\0"), flags)
    return head + bytes([data.about(len(payload)) & 0xFF]) + payload


def _colour_map(data: Data) -> bytes:
    count = data.byte() % 20
    first = data.about(data.byte()) & 0xFFFF
    head = struct.pack(">BBHH", 1, data.byte(), first, data.about(count) & 0xFFFF)
    return head + data.fill(6 * count)


def _small_update(data: Data) -> bytes:
    return update(data, (0, 1), PIXEL_FORMATS[0])


def _confirmation(data: Data) -> bytes:
    return update(data, (-223, -308, -258, -316, *framed("pseudo")), PIXEL_FORMATS[0])


def _any(data: Data) -> bytes:
    return OUR_FENCE if data.one_in(16) else data.take(data.byte() % 24)


def _xvp(codes: tuple[int, ...]) -> Callable[[Data], bytes]:
    return lambda data: bytes(
        [250, data.byte(), data.about(1) & 0xFF, data.about(data.pick(codes)) & 0xFF]
    )


def _gii(data: Data) -> bytes:
    kind = data.byte()
    body = data.fill(data.byte() % 80)
    length = data.about(len(body)) & 0xFFFF
    return bytes([253, kind]) + length.to_bytes(2, "big" if kind & 0x80 else "little") + body


def _audio_from_desktop(data: Data) -> bytes:
    operation = data.pick((2, 0, 1, 2))
    message = struct.pack(">BBH", 255, data.about(1) & 0xFF, data.about(operation) & 0xFFFF)
    if operation == 2:
        samples = data.fill(data.byte() % 64)
        message += struct.pack(">I", data.about(len(samples))) + samples
    return message


def _audio_from_viewer(data: Data) -> bytes:
    operation = data.pick((0, 1, 2))
    message = struct.pack(">BBH", 255, 1, data.about(operation) & 0xFFFF)
    if operation == 2:
        message += bytes([data.about(data.byte() % 6) & 0xFF, data.pick((1, 2, 1, 2, 3))])
        message += data.fill(4)
    return message


FROM_DESKTOP: tuple[Callable[[Data], bytes], ...] = (
    _small_update,
    _colour_map,
    lambda _: b"\x02",
    _cut_text(3),
    lambda _: b"\x96",
    _fence,
    _confirmation,
    _xvp((0, 1)),
    _gii,
    _audio_from_desktop,
    _any,
)


def _set_pixel_format(data: Data) -> bytes:
    wanted = data.take(16).ljust(16, b"\0") if data.one_in(4) else data.pick(PIXEL_FORMATS).pack()
    return b"\0" + data.take(3).ljust(3, b"\0") + wanted


def _set_encodings(data: Data) -> bytes:
    numbers = [
        data.u32() - (1 << 31) if data.one_in(8) else data.pick(_ENCODINGS)
        for _ in range(data.pick((0, 1, 2, 5, 12, 30, 70)))
    ]
    head = struct.pack(">BBH", 2, data.byte(), data.about(len(numbers)) & 0xFFFF)
    return head + struct.pack(f">{len(numbers)}i", *numbers)


def _area(kind: int) -> Callable[[Data], bytes]:
    return lambda data: struct.pack(
        ">BBHHHH", kind, data.byte() % 3, data.size(), data.size(), data.size(), data.size()
    )


def _pointer(data: Data) -> bytes:
    buttons = data.byte()
    message = struct.pack(">BBHH", 5, buttons, data.size(), data.size())
    return message + data.take(1) if buttons > 127 and not data.one_in(8) else message


def _set_desktop_size(data: Data) -> bytes:
    w, h = data.size() + 1 & 0xFFFF, data.size() + 1 & 0xFFFF
    screens = [
        struct.pack(">IHHHHI", number, 0, 0, data.about(w) & 0xFFFF, h, data.byte())
        for number in range(data.pick((0, 1, 1, 2, 16, 17)))
    ]
    head = struct.pack(
        ">BBHHBB", 251, data.byte(), w, h, data.about(len(screens)) & 0xFF, data.byte()
    )
    return head + b"".join(screens)


FROM_VIEWER: tuple[Callable[[Data], bytes], ...] = (
    _set_pixel_format,
    _set_encodings,
    _area(3),
    lambda data: bytes([4]) + data.take(7).ljust(7, b"\0"),
    _pointer,
    _cut_text(6),
    _area(150),
    _fence,
    _set_desktop_size,
    lambda data: bytes([255, data.about(0) & 0xFF]) + data.fill(10),
    _audio_from_viewer,
    _xvp((2, 3, 4)),
    _gii,
    _any,
)


def some(data: Data, kinds: tuple[Callable[[Data], bytes], ...]) -> bytes:
    """One to eight messages."""
    return b"".join([data.pick(kinds)(data) for _ in range(data.byte() % 8 + 1)])
