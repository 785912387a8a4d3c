"""What a desktop may put into an update: a payload for every encoding, mostly legal.

Written from RFC 6143, Section 7.7, the community specification (rfbproto), UltraVNC's viewer and
libvncclient, not from the parsers. Whatever the relay frames must be here
(tests/fuzz/test_targets.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from fuzz.data import Data
from relay.rfb.encodings import REGISTRY
from relay.rfb.pixel_format import PixelFormat

Body = Callable[[Data, int, int, PixelFormat], bytes]

BODY_LIMIT_BYTES = 6000
"""A longer one is cut there; what follows is then taken for its rest."""


def _pixels(data: Data, count: int) -> bytes:
    return data.fill(min(count, BODY_LIMIT_BYTES))


def _raw(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    return _pixels(data, w * h * pixel.bytes_per_pixel)


def _copyrect(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    return struct.pack(">HH", data.byte() % 16, data.size())


def _inside(data: Data, side: int) -> tuple[int, int]:
    """A position and an extent, mostly inside `side`."""
    at = data.byte() % side if side else 0
    return at, data.about(data.byte() % (side - at + 1)) & 0xFFFF


def _rre(layout: str) -> Body:
    area = struct.Struct(layout)
    top = 0xFF if layout == ">BBBB" else 0xFFFF

    def body(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
        count = min(data.byte() % 6, w * h)
        parts = [struct.pack(">I", data.about(count)), data.fill(pixel.bytes_per_pixel)]
        for _ in range(count):
            (x, sw), (y, sh) = _inside(data, w), _inside(data, h)
            parts.append(data.fill(pixel.bytes_per_pixel))
            parts.append(area.pack(x & top, y & top, sw & top, sh & top))
        return b"".join(parts)

    return body


def _hextile(data: Data, w: int, h: int, pixel: PixelFormat, deflated: int = 0) -> bytes:
    parts = []
    size = pixel.bytes_per_pixel
    for top in range(0, min(h, 64), 16):
        for left in range(0, min(w, 64), 16):
            tile_w, tile_h = min(16, w - left), min(16, h - top)
            mask = data.about(data.byte() % 32) & 0xFF
            if deflated and data.one_in(3):
                mask = mask & 30 | data.pick((32, 64, 96))
                length = data.byte()
                parts.append(bytes([mask]) + struct.pack(">H", data.about(length) & 0xFFFF))
                parts.append(data.fill(length))
                continue
            parts.append(bytes([mask]))
            if mask & 1:
                parts.append(data.fill(tile_w * tile_h * size))
                continue
            parts.append(data.fill(size * ((mask >> 1 & 1) + (mask >> 2 & 1))))
            if mask & 8:
                count = data.pick((0, 1, 2, 3, 255))
                parts.append(bytes([count]))
                for _ in range(count):
                    parts.append(data.fill(size if mask & 16 else 0))
                    x, y = data.byte() % tile_w, data.byte() % tile_h
                    far = data.about(data.byte() % (tile_w - x) << 4 | data.byte() % (tile_h - y))
                    parts.append(bytes([x << 4 | y, far & 0xFF]))
    return b"".join(parts)


def _zlibhex(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    return _hextile(data, w, h, pixel, 1)


def _trle(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    parts = []
    size = pixel.cpixel_bytes
    colours = 0
    for top in range(0, min(h, 64), 16):
        for left in range(0, min(w, 64), 16):
            tile_w, tile_h = min(16, w - left), min(16, h - top)
            kind = data.about(data.pick((0, 1, 2, 3, 5, 16, 127, 128, 129, 130, 140, 255))) & 0xFF
            parts.append(bytes([kind]))
            palette = kind & 127 if kind not in (127, 129) else 0
            parts.append(data.fill(palette * size))
            colours = palette if palette > 1 else colours
            if kind == 0:
                parts.append(data.fill(tile_w * tile_h * size))
            elif 1 < kind < 128:
                bits = 1 if colours == 2 else 2 if colours <= 4 else 4
                parts.append(data.fill((tile_w * bits + 7) // 8 * tile_h))
            elif kind > 127:
                parts.append(_runs(data, tile_w * tile_h, size if kind == 128 else 1, colours))
    return b"".join(parts)


def _runs(data: Data, pixels: int, size: int, colours: int) -> bytes:
    """Runs of colours, or (`size` 1) of palette indices, that cover so many pixels."""
    parts = []
    while pixels > 0:
        indexed = size == 1 and colours
        run = min(data.pick((1, 2, 17, 64, 255, 256)), pixels) if data.left() else pixels
        if indexed:
            index = data.about(data.byte() % colours) & 0x7F
            parts.append(bytes([index | 0x80 if run > 1 else index]))
        else:
            parts.append(data.fill(size))
        if run > 1 or not indexed:
            parts.append(b"\xff" * ((run - 1) // 255) + bytes([data.about((run - 1) % 255) & 0xFF]))
        pixels -= run
    return b"".join(parts)


def _prefixed(layout: str) -> Body:
    head = struct.Struct(layout)

    def body(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
        length = data.byte()
        return head.pack(data.about(length), *[0] * (head.size // 4 - 1)) + data.fill(length)

    return body


def _compact(data: Data, length: int) -> bytes:
    length = data.about(length) & 0x3FFFFF
    if length < 128 and not data.one_in(5):
        return bytes([length])
    if length < 1 << 14 and not data.one_in(5):
        return bytes([length & 127 | 128, length >> 7])
    return bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14])


def _image(data: Data, magic: bytes) -> bytes:
    length = data.byte()
    return _compact(data, length) + (magic + data.fill(length))[:length]


def _tight(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    control = data.byte()
    head = bytes([control])
    size = pixel.tpixel_bytes
    kind = control >> 4
    if kind == 8:
        return head + data.fill(size)
    if kind == 9:
        return head + _image(data, b"\xff\xd8")
    if kind == 10:
        return head + _image(data, b"\x89P")
    due = w * h * size
    if kind & 4:
        filtering = data.about(data.byte() % 3) & 0xFF
        head += bytes([filtering])
        if filtering == 1:
            colours = data.pick((2, 3, 16, 256, 1))
            head += bytes([colours - 1]) + data.fill(colours * size)
            due = (w + 7) // 8 * h if colours <= 2 else w * h
    if due < 12:
        return head + data.fill(due)
    length = data.byte()
    return head + _compact(data, length) + data.fill(length)


def _tight_png(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    control = data.pick((0x80, 0x90, 0xA0, 0xAF, 0x00, 0xB0))
    if control >> 4 == 8:
        return bytes([control]) + data.fill(pixel.tpixel_bytes)
    return bytes([control]) + _image(data, b"\xff\xd8" if control == 0x90 else b"\x89P")


def _jpeg(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    parts = [b"\xff\xd8"]
    for _ in range(data.byte() % 5):
        marker = data.pick((0xDB, 0xC4, 0xC0, 0xC2, 0xDD, 0xE0, 0xFE, 0xD0, 0x01, 0xDA))
        if marker in (0xD0, 0x01):
            parts.append(bytes([0xFF, marker]))
            continue
        body = data.fill(data.byte() % 24)
        if marker in (0xC0, 0xC2):
            body = struct.pack(">BHH", 8, data.about(h) & 0xFFFF, data.about(w) & 0xFFFF) + body
        parts.append(struct.pack(">BBH", 0xFF, marker, data.about(len(body) + 2) & 0xFFFF) + body)
        if marker == 0xDA:
            parts.append(
                data.fill(data.byte() % 9) + data.pick((b"", b"\xff\0", b"\xff\xd3", b"\xff"))
            )
    return b"".join((*parts, b"\xff\xd9"))


def _cursor(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    return _pixels(data, w * h * pixel.bytes_per_pixel + (w + 7) // 8 * h)


def _xcursor(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    return _pixels(data, 6 + 2 * ((w + 7) // 8) * h if w * h else 0)


def _vmware_cursor(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    kind = data.pick((0, 1, 0, 1, 0, 1, 2))
    each = 4 if kind else 2 * pixel.bytes_per_pixel
    return bytes([kind, data.byte()]) + _pixels(data, w * h * each)


_ALPHA = PixelFormat(32, 32, False, True, 255, 255, 255, 16, 8, 0)


def _alpha_cursor(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    number = data.pick((0, 7, 16, 0, 7, 16, 5, -314, 1))
    return struct.pack(">i", number) + BODIES[number](data, w, h, _ALPHA)


def _screens(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    count = data.pick((0, 1, 2, 16, 17, 255, 1, 1))
    head = bytes([count]) + data.take(3).ljust(3, b"\0")
    return head + struct.pack(">IHHHHI", data.byte(), 0, 0, w, h, 0) * min(count, 20)


def _name(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    length = data.byte() % 48
    return struct.pack(">I", data.about(length)) + data.fill(length)


def _display_mode(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    return data.pick(PIXEL_FORMATS).pack()[:13] + data.take(3).ljust(3, b"\0")


def _fixed(count: int) -> Body:
    return lambda data, w, h, pixel: data.fill(count)


def _of_width(data: Data, w: int, h: int, pixel: PixelFormat) -> bytes:
    return _pixels(data, w)


PIXEL_FORMATS = (
    PixelFormat(32, 24, False, True, 255, 255, 255, 16, 8, 0),
    PixelFormat(32, 32, True, True, 255, 255, 255, 24, 16, 8),
    PixelFormat(16, 16, False, True, 31, 63, 31, 11, 5, 0),
    PixelFormat(8, 8, False, True, 7, 7, 3, 0, 3, 6),
    PixelFormat(8, 8, False, False, 0, 0, 0, 0, 0, 0),
    PixelFormat(32, 30, False, True, 1023, 1023, 1023, 20, 10, 0),
)

GROUPS: dict[str, dict[int, Body]] = {
    "plain": {0: _raw, 1: _copyrect, 2: _rre(">HHHH"), 4: _rre(">BBBB")},
    "tiles": {5: _hextile, 8: _zlibhex, 15: _trle},
    "zlib": dict.fromkeys((6, 9, 10, 16, 17, -65527), _prefixed(">I")),
    "tight": {7: _tight, -260: _tight_png, 21: _jpeg, 50: _prefixed(">II")},
    "pseudo": {
        -239: _cursor,
        -240: _xcursor,
        0x574D5664: _vmware_cursor,
        -314: _alpha_cursor,
        -308: _screens,
        -307: _name,
        0x574D5669: _display_mode,
        **dict.fromkeys((-223, -232, -257, -258, -259, -316, -131072, 0x574D5666), _fixed(0)),
        -261: _fixed(1),
        **dict.fromkeys((0x574D5665, 0x574D566A), _fixed(2)),
        0x574D5668: _fixed(4),
        0x574D5667: _fixed(10),
        **dict.fromkeys((-131069, -131070, -131071), _of_width),
    },
}
"""The targets' encodings by number, more than are framed."""

BODIES: dict[int, Body] = {n: body for group in GROUPS.values() for n, body in group.items()}

LAST_RECT = -224


def framed(group: str) -> tuple[int, ...]:
    """The encodings of a group that the relay frames."""
    return tuple(number for number in GROUPS[group] if number in REGISTRY)


def update(data: Data, numbers: Sequence[int], pixel: PixelFormat) -> bytes:
    """A FramebufferUpdate (RFC 6143, Section 7.6.1) of a few rectangles."""
    count = data.byte() % 4
    parts = []
    for _ in range(count):
        number = data.pick(numbers)
        choice = data.byte()
        if choice < 8:
            number = data.pick((LAST_RECT, 0, data.u32() - (1 << 31), *BODIES))
        w, h = data.size(), data.size()
        if number == -131071 and choice < 250:
            w = 64
        parts.append(struct.pack(">HHHHi", data.byte() % 8, data.byte() % 8, w, h, number))
        body = BODIES.get(number)
        parts.append(body(data, w, h, pixel) if body else data.take(choice))
    announced = 0xFFFF if data.one_in(16) else data.about(count) & 0xFFFF
    return struct.pack(">BBH", 0, data.byte(), announced) + b"".join(parts)
