"""A viewer that reads RFB on its own, and knows whether it keeps step.

It shares nothing with `relay.rfb`. What it reads it checks by the size of a pixel: deflated
pixels inflate to exactly as many bytes as the rectangle has in the format that is believed to
hold, and tiles end where they should. Paints nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from tests.labs.peers import Frames, client_frame

# By bits per pixel: PIXEL_FORMAT (RFC 6143, Section 7.4), little endian true colour of depth 24
# (8-8-8), 16 (5-6-5) and 8 (3-3-2).
FORMATS = {
    32: bytes.fromhex("20180001 00ff00ff00ff 100800 000000".replace(" ", "")),
    16: bytes.fromhex("10100001 001f003f001f 0b0500 000000".replace(" ", "")),
    8: bytes.fromhex("08080001 000700070003 000306 000000".replace(" ", "")),
}
COMPACT = {32: 3, 16: 2, 8: 1}
"""Bytes of a CPIXEL (RFC 6143, Section 7.7.5) and of a TPIXEL (community specification)."""

RAW, COPYRECT, RRE, HEXTILE, ZLIB, TIGHT, ZRLE = 0, 1, 2, 5, 6, 7, 16
DESKTOP_SIZE, LAST_RECT, CURSOR, NAME, EXTENDED_SIZE = -223, -224, -239, -307, -308
FENCE, CONTINUOUS = -312, -313

_REQUEST = 1 << 31


def set_pixel_format(bits: int) -> bytes:
    return b"\0\0\0\0" + FORMATS[bits]


def set_encodings(*numbers: int) -> bytes:
    return struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers)


class OutOfStep(Exception):
    """What was read cannot be what a desktop sent in the format that is believed to hold."""


def need(condition: bool, what: object) -> None:
    if not condition:
        raise OutOfStep(what)


@dataclass
class Update:
    """One FramebufferUpdate: its encodings, and the pixels it covers."""

    encodings: list[int]
    area_px: int = 0


class Viewer:
    """`bits` and `offered` hold for the next update; `expected` may replace `bits` when one
    begins. `on_end` is called at each EndOfContinuousUpdates."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._frames = Frames(stream)
        self._data = bytearray()
        self._at = 0
        self.width = self.height = 0
        self.bits = 32
        self.offered: frozenset[int] = frozenset()
        self.expected: Callable[[], int] = lambda: self.bits
        self.on_end: Callable[[], None] = lambda: None
        self.ends = 0
        self.fences = 0
        self._inflate: dict[str, zlib._Decompress] = {}

    async def send(self, *messages: bytes) -> None:
        await self._stream.send_all(client_frame(b"".join(messages)))

    async def _take(self, count: int) -> bytes:
        while len(self._data) - self._at < count:
            opcode, payload = await self._frames.next()
            if opcode == 9:
                await self._stream.send_all(client_frame(payload, 10))
            elif opcode == 8:
                raise EOFError(f"closed: {struct.unpack('>H', payload[:2])[0]} {payload[2:]!r}")
            else:
                del self._data[: self._at]
                self._at = 0
                self._data += payload
        taken = bytes(self._data[self._at : self._at + count])
        self._at += count
        return taken

    async def _numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(">" + layout, await self._take(struct.calcsize(">" + layout)))

    async def greet(self) -> None:
        """RFC 6143, Sections 7.1 to 7.3. Asks for a format, since the desktop's may be any."""
        need(await self._take(12) == b"RFB 003.008\n", "version")
        await self.send(b"RFB 003.008\n")
        need(await self._take(2) == b"\1\1", "security types")
        await self.send(b"\1")
        need(await self._take(4) == b"\0\0\0\0", "security result")
        await self.send(b"\1")
        self.width, self.height = await self._numbers("HH")
        await self._take(16)
        await self._take((await self._numbers("I"))[0])
        await self.send(set_pixel_format(self.bits))

    def request(self, incremental: int) -> bytes:
        return struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height)

    def enable(self, on: int) -> bytes:
        return struct.pack(">BBHHHH", 150, on, 0, 0, self.width, self.height)

    async def update(self) -> Update:
        """Reads on to the end of the next update."""
        while True:
            (kind,) = await self._take(1)
            if kind == 0:
                return await self._update()
            if kind == 1:
                await self._take(6 * (await self._numbers("xHH"))[1])
            elif kind == 3:
                await self._take(abs((await self._numbers("xxxi"))[0]))
            elif kind == 150:
                self.ends += 1
                self.on_end()
            elif kind == 248:
                flags, length = await self._numbers("xxxIB")
                payload = await self._take(length)
                need(flags >= _REQUEST and length <= 64, "fence")
                self.fences += 1
                answer = struct.pack(">BxxxIB", 248, flags & 7, length)
                await self.send(answer + payload)
            else:
                need(kind == 2, f"message type {kind}")

    async def _update(self) -> Update:
        (count,) = await self._numbers("xH")
        self.bits = self.expected()
        update = Update([])
        for _ in range(count):
            x, y, w, h, number = await self._numbers("HHHHi")
            need(number == RAW or number in self.offered, f"encoding {number} was not offered")
            update.encodings.append(number)
            if number == LAST_RECT:
                break
            if number >= 0:
                need(x + w <= self.width and y + h <= self.height, f"{w}x{h} at {x},{y}")
                update.area_px += w * h
            await _RECTANGLES[number](self, w, h)
        return update

    async def _raw(self, w: int, h: int) -> None:
        await self._take(w * h * self.bits // 8)

    async def _copyrect(self, w: int, h: int) -> None:
        x, y = await self._numbers("HH")
        need(x + w <= self.width and y + h <= self.height, "source of a copy")

    async def _rre(self, w: int, h: int) -> None:
        (count,) = await self._numbers("I")
        need(count <= w * h, f"{count} sub-rectangles in {w}x{h}")
        step = self.bits // 8 + 8
        data = await self._take(self.bits // 8 + count * step)
        for at in range(2 * self.bits // 8, len(data), step):
            sx, sy, sw, sh = struct.unpack_from(">HHHH", data, at)
            need(sx + sw <= w and sy + sh <= h, "sub-rectangle outside")

    async def _hextile(self, w: int, h: int) -> None:
        pixel = self.bits // 8
        for top in range(0, h, 16):
            for left in range(0, w, 16):
                tile_w, tile_h = min(16, w - left), min(16, h - top)
                (mask,) = await self._take(1)
                need(mask < 32, f"tile mask {mask}")
                if mask & 1:
                    await self._take(tile_w * tile_h * pixel)
                    continue
                await self._take(pixel * ((mask >> 1 & 1) + (mask >> 2 & 1)))
                if mask & 8:
                    step = 2 + (pixel if mask & 16 else 0)
                    (count,) = await self._take(1)
                    data = await self._take(count * step)
                    for at in range(step - 2, len(data), step):
                        need(
                            (data[at] >> 4) + (data[at + 1] >> 4) < tile_w
                            and (data[at] & 15) + (data[at + 1] & 15) < tile_h,
                            "sub-rectangle outside its tile",
                        )

    def _inflated(self, stream: str, data: bytes) -> bytes:
        inflate = self._inflate.setdefault(stream, zlib.decompressobj())
        try:
            return inflate.decompress(data)
        except zlib.error as error:
            raise OutOfStep(f"{stream}: {error}") from None

    async def _zlib(self, w: int, h: int) -> None:
        data = self._inflated("zlib", await self._take((await self._numbers("I"))[0]))
        need(len(data) == w * h * self.bits // 8, f"zlib: {len(data)} bytes for {w}x{h}")

    async def _zrle(self, w: int, h: int) -> None:
        data = self._inflated("ZRLE", await self._take((await self._numbers("I"))[0]))
        at = 0
        try:
            for top in range(0, h, 64):
                for left in range(0, w, 64):
                    pixels = min(64, w - left), min(64, h - top)
                    at = _zrle_tile(data, at, *pixels, COMPACT[self.bits])
        except IndexError:
            raise OutOfStep(f"ZRLE: {len(data)} bytes are too few for {w}x{h}") from None
        need(at == len(data), f"ZRLE: {len(data)} bytes for {w}x{h}, which needs {at}")

    async def _tight(self, w: int, h: int) -> None:
        (control,) = await self._take(1)
        for number in range(4):
            if control >> number & 1:
                self._inflate.pop(f"Tight {number}", None)
        pixel = COMPACT[self.bits]
        if control >> 4 == 8:
            await self._take(pixel)
            return
        if control >> 4 == 9:
            need(self.bits > 8, "JPEG at 8 bits per pixel")
            data = await self._take(await self._compact_length())
            need(data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9"), "JPEG")
            return
        need(control < 0x80, f"Tight control {control:#x}")
        kind = (await self._take(1))[0] if control & 0x40 else 0
        size = w * h * pixel
        if kind == 1:
            colours = (await self._take(1))[0] + 1
            await self._take(colours * pixel)
            size = (w + 7) // 8 * h if colours <= 2 else w * h
        need(kind < 3, f"Tight filter {kind}")
        if size < 12:
            await self._take(size)
            return
        data = await self._take(await self._compact_length())
        data = self._inflated(f"Tight {control >> 4 & 3}", data)
        need(len(data) == size, f"Tight: {len(data)} bytes for {w}x{h}, which needs {size}")

    async def _compact_length(self) -> int:
        length = 0
        for shift in (0, 7, 14):
            (byte,) = await self._take(1)
            length |= (byte & (0x7F if shift < 14 else 0xFF)) << shift
            if byte < 0x80:
                break
        return length

    async def _cursor(self, w: int, h: int) -> None:
        need(w <= 256 and h <= 256, f"a cursor of {w}x{h}")
        await self._take(w * h * self.bits // 8 + (w + 7) // 8 * h)

    async def _name(self, w: int, h: int) -> None:
        await self._take((await self._numbers("I"))[0])

    async def _desktop_size(self, w: int, h: int) -> None:
        need((w, h) == (self.width, self.height), f"a new size of {w}x{h}")

    async def _extended_size(self, w: int, h: int) -> None:
        await self._desktop_size(w, h)
        await self._take(16 * (await self._numbers("Bxxx"))[0])


def _zrle_tile(data: bytes, at: int, w: int, h: int, pixel: int) -> int:
    """Where the tile at `at` ends. Raises IndexError where there is none."""
    kind = data[at]
    at += 1
    if kind == 0:
        return at + w * h * pixel
    if kind < 128:
        need(kind <= 16, f"ZRLE tile type {kind}")
        at += kind * pixel
        bits = (0, 1, 2, 4)[(kind > 1) + (kind > 2) + (kind > 4)]
        return at + (w * bits + 7) // 8 * h
    need(kind != 129, "ZRLE tile type 129")
    # Run lengths: 128 is plain, from 130 on with a palette in which bit 7 announces a run.
    at += (kind - 128) * pixel
    left = w * h
    while left > 0:
        run = kind == 128 or data[at] > 127
        at += pixel if kind == 128 else 1
        left -= 1
        if run:
            while data[at] == 255:
                left -= 255
                at += 1
            left -= data[at]
            at += 1
    need(left == 0, "a ZRLE run beyond its tile")
    return at


_RECTANGLES: dict[int, Callable[[Viewer, int, int], Awaitable[None]]] = {
    RAW: Viewer._raw,
    COPYRECT: Viewer._copyrect,
    RRE: Viewer._rre,
    HEXTILE: Viewer._hextile,
    ZLIB: Viewer._zlib,
    TIGHT: Viewer._tight,
    ZRLE: Viewer._zrle,
    CURSOR: Viewer._cursor,
    NAME: Viewer._name,
    DESKTOP_SIZE: Viewer._desktop_size,
    EXTENDED_SIZE: Viewer._extended_size,
}
