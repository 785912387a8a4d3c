"""Encoders of small pictures, pixel by pixel and from the specification alone: the other side of
relay/rfb/pixels, for tests.

A picture is rows of pixel values. An encoder takes at random what the specification leaves to it.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import chain, groupby

from relay.rfb.pixel_format import PixelFormat
from tests.labs.painting import channels, wire

Picture = list[list[int]]


class Encoders:
    """Those of one connection, which has its zlib streams."""

    def __init__(self, pixel_format: PixelFormat, rng: random.Random) -> None:
        self.format = pixel_format
        self.rng = rng
        self.streams = {name: zlib.compressobj() for name in ("zlib", "zrle", 0, 1, 2, 3)}
        self.by_number: dict[int, Callable[[Picture], bytes]] = {
            0: self.raw,
            2: lambda picture: self.rre(picture, ">4H"),
            4: lambda picture: self.rre(picture, ">4B"),
            5: self.hextile,
            6: self.zlib,
            7: self.tight,
            15: self.trle,
            16: self.zrle,
        }

    # Pixels

    def pixel(self, value: int) -> bytes:
        return wire(value, self.format)

    def cpixel(self, value: int) -> bytes:
        f = self.format
        used = f.red_max << f.red_shift | f.green_max << f.green_shift | f.blue_max << f.blue_shift
        sent = self.pixel(value)
        if not f.true_colour or f.bits_per_pixel != 32 or f.depth > 24:
            return sent
        low, high = used <= 0xFFFFFF, used & 0xFF == 0
        if low and high:
            return sent[:3]
        if low:
            return sent[1:] if f.big_endian else sent[:3]
        if high:
            return sent[:3] if f.big_endian else sent[1:]
        return sent

    def tpixel(self, value: int) -> bytes:
        f = self.format
        eights = f.true_colour and f.red_max == f.green_max == f.blue_max == 255
        if eights and f.bits_per_pixel == 32 and f.depth == 24:
            return bytes(channels(value, f))
        return self.pixel(value)

    def deflate(self, stream: str | int, data: bytes) -> bytes:
        packer = self.streams[stream]
        return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)

    # Encodings

    def raw(self, picture: Picture) -> bytes:
        return b"".join(self.pixel(value) for row in picture for value in row)

    def zlib(self, picture: Picture) -> bytes:
        data = self.deflate("zlib", self.raw(picture))
        return struct.pack(">I", len(data)) + data

    def rre(self, picture: Picture, area: str) -> bytes:
        background = picture[0][0]
        parts = [
            self.pixel(value) + struct.pack(area, x, y, length, 1)
            for y, row in enumerate(picture)
            for x, length, value in runs(row)
            if value != background
        ]
        return struct.pack(">I", len(parts)) + self.pixel(background) + b"".join(parts)

    def hextile(self, picture: Picture) -> bytes:
        sent = b""
        background: int | None = None
        foreground: int | None = None
        for tile in tiles(picture, 16):
            parts = [(x, y, n, v) for y, row in enumerate(tile) for x, n, v in runs(row)]
            if self.rng.random() < 0.2 or len(parts) > 255:
                sent += b"\x01" + self.raw(tile)
                # They "may not be carried over if the previous tile was raw".
                background = foreground = None
                continue
            mask, head = 0, b""
            if background != tile[0][0] or self.rng.random() < 0.3:
                background = tile[0][0]
                mask, head = 2, self.pixel(background)
            parts = [part for part in parts if part[3] != background]
            colours = {part[3] for part in parts}
            coloured = len(colours) > 1 or (bool(parts) and self.rng.random() < 0.3)
            if coloured:
                mask |= 16
                foreground = None
            elif parts and colours != {foreground}:
                foreground = parts[0][3]
                mask |= 4
                head += self.pixel(foreground)
            body = b""
            if parts:
                mask |= 8
                body = bytes((len(parts),))
                for x, y, length, value in parts:
                    body += self.pixel(value) if coloured else b""
                    body += bytes((x << 4 | y, length - 1 << 4))
            sent += bytes((mask,)) + head + body
        return sent

    def tight(self, picture: Picture) -> bytes:
        f = self.format
        stream = self.rng.randrange(4)
        reset = 0
        for number in range(4):
            if self.rng.random() < 0.1:
                reset |= 1 << number
                self.streams[number] = zlib.compressobj()
        values = [value for row in picture for value in row]
        colours = list(dict.fromkeys(values))
        if len(colours) == 1 and self.rng.random() < 0.7:
            return bytes((0x80 | reset,)) + self.tpixel(colours[0])
        kinds = ["copy", "copy, said so"]
        kinds += ["palette"] if 2 <= len(colours) <= 256 else []
        kinds += ["gradient"] if f.true_colour and f.bits_per_pixel > 8 else []
        kind = self.rng.choice(kinds)
        head = b""
        data = b"".join(map(self.tpixel, values))
        if kind == "copy, said so":
            head = b"\x00"
        elif kind == "palette":
            head = bytes((1, len(colours) - 1)) + b"".join(map(self.tpixel, colours))
            indices = [[colours.index(value) for value in row] for row in picture]
            data = packed(indices, 1) if len(colours) == 2 else bytes(chain.from_iterable(indices))
        elif kind == "gradient":
            head = b"\x02"
            data = b"".join(map(self.tpixel, self.differences(picture)))
        control = bytes((stream << 4 | reset | (0x40 if head else 0),))
        if len(data) < 12:
            return control + head + data
        data = self.deflate(stream, data)
        size = len(data)
        length = bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))
        assert size < 1 << 14
        return control + head + length + data

    def differences(self, picture: Picture) -> Iterator[int]:
        """The gradient filter, as pixels."""
        f = self.format
        maxima = (f.red_max, f.green_max, f.blue_max)
        shifts = (f.red_shift, f.green_shift, f.blue_shift)
        parts = [[channels(value, f) for value in row] for row in picture]

        def at(y: int, x: int, c: int) -> int:
            return parts[y][x][c] if y >= 0 and x >= 0 else 0

        for y, row in enumerate(picture):
            for x in range(len(row)):
                pixel = 0
                for c, (maximum, shift) in enumerate(zip(maxima, shifts, strict=True)):
                    expected = at(y, x - 1, c) + at(y - 1, x, c) - at(y - 1, x - 1, c)
                    expected = min(max(expected, 0), maximum)
                    pixel |= (at(y, x, c) - expected & maximum) << shift
                yield pixel

    def trle(self, picture: Picture) -> bytes:
        return self.tiles(picture, 16, reuse=True)

    def zrle(self, picture: Picture) -> bytes:
        data = self.deflate("zrle", self.tiles(picture, 64, reuse=False))
        return struct.pack(">I", len(data)) + data

    def tiles(self, picture: Picture, side: int, *, reuse: bool) -> bytes:
        sent = b""
        last: list[int] = []
        for tile in tiles(picture, side):
            values = [value for row in tile for value in row]
            colours = list(dict.fromkeys(values))
            kinds = ["raw", "runs"]
            kinds += ["solid"] * 4 if len(colours) == 1 else []
            kinds += ["packed"] * 2 if 2 <= len(colours) <= 16 else []
            kinds += ["palette runs"] * 2 if 2 <= len(colours) <= 127 else []
            if reuse and set(colours) <= set(last):
                kinds += ["packed again"] * 4 if len(last) <= 16 else []
                kinds += ["palette runs again"] * 4
            kind = self.rng.choice(kinds)
            if kind in ("packed", "palette runs"):
                last = colours
                head = bytes((len(last) + (128 if kind == "palette runs" else 0),))
                head += b"".join(map(self.cpixel, last))
            else:
                head = bytes(
                    (
                        {
                            "raw": 0,
                            "solid": 1,
                            "packed again": 127,
                            "runs": 128,
                            "palette runs again": 129,
                        }[kind],
                    )
                )
            if kind == "raw":
                body = b"".join(map(self.cpixel, values))
            elif kind == "solid":
                body = self.cpixel(values[0])
            elif kind == "runs":
                body = b"".join(self.cpixel(v) + run_length(n) for _, n, v in runs(values))
            elif kind.startswith("packed"):
                bits = 1 if len(last) == 2 else 2 if len(last) <= 4 else 4
                body = packed([[last.index(value) for value in row] for row in tile], bits)
            else:
                body = b""
                for _, length, value in runs(values):
                    index = last.index(value)
                    if length == 1 and self.rng.random() < 0.8:
                        body += bytes((index,))
                    else:
                        body += bytes((index | 128,)) + run_length(length)
            sent += head + body
        return sent


def tiles(picture: Picture, side: int) -> Iterator[Picture]:
    for top in range(0, len(picture), side):
        for left in range(0, len(picture[0]), side):
            yield [row[left : left + side] for row in picture[top : top + side]]


def runs(row: list[int]) -> Iterator[tuple[int, int, int]]:
    """Where one begins, its length and its value."""
    at = 0
    for value, group in groupby(row):
        length = len(list(group))
        yield at, length, value
        at += length


def run_length(length: int) -> bytes:
    return b"\xff" * ((length - 1) // 255) + bytes(((length - 1) % 255,))


def packed(indices: Picture, bits: int) -> bytes:
    sent = b""
    for row in indices:
        text = "".join(f"{index:0{bits}b}" for index in row)
        text += "0" * (-len(text) % 8)
        sent += int(text, 2).to_bytes(len(text) // 8, "big")
    return sent
