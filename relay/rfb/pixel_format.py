"""PIXEL_FORMAT (RFC 6143, Section 7.4) and the pixel sizes that follow from it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_LAYOUT = struct.Struct(">BBBBHHHBBBxxx")
SIZE = _LAYOUT.size


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How a pixel is laid out. Fields and order as in RFC 6143, Section 7.4."""

    bits_per_pixel: int
    depth: int
    big_endian: bool
    true_colour: bool
    red_max: int
    green_max: int
    blue_max: int
    red_shift: int
    green_shift: int
    blue_shift: int

    @property
    def bytes_per_pixel(self) -> int:
        return self.bits_per_pixel // 8

    @property
    def cpixel_bytes(self) -> int:
        """Bytes of a CPIXEL (RFC 6143, Section 7.7.5), as ZRLE and TRLE use it."""
        if self.true_colour and self.bits_per_pixel == 32 and self.depth <= 24:
            mask = (
                self.red_max << self.red_shift
                | self.green_max << self.green_shift
                | self.blue_max << self.blue_shift
            )
            if mask <= 0xFFFFFF or not mask & 0xFF:
                return 3
        return self.bytes_per_pixel

    @property
    def tpixel_bytes(self) -> int:
        """Bytes of a TPIXEL, as Tight uses it (community specification, Tight Encoding)."""
        if (
            self.true_colour
            and self.depth == 24
            and self.red_max == self.green_max == self.blue_max == 255
        ):
            return 3
        return self.bytes_per_pixel

    @property
    def sizes(self) -> tuple[int, int, int]:
        """What framing depends on: bytes of a pixel, of a CPIXEL and of a TPIXEL."""
        return self.bytes_per_pixel, self.cpixel_bytes, self.tpixel_bytes

    def pack(self) -> bytes:
        """The 16 bytes on the wire, padding zero."""
        return _LAYOUT.pack(
            self.bits_per_pixel,
            self.depth,
            self.big_endian,
            self.true_colour,
            self.red_max,
            self.green_max,
            self.blue_max,
            self.red_shift,
            self.green_shift,
            self.blue_shift,
        )


def parse(data: bytes | bytearray | memoryview, offset: int = 0) -> PixelFormat:
    """Reads and checks 16 bytes at `offset`. Raises ValueError naming the broken rule.

    Depth equal to bits per pixel is legal and common (QEMU sends 32/32). Any flag but zero
    is true: x11vnc sends 255.
    """
    bpp, depth, big, true, rmax, gmax, bmax, rshift, gshift, bshift = _LAYOUT.unpack_from(
        data, offset
    )
    if bpp not in (8, 16, 32):
        raise ValueError(f"{bpp} bits per pixel, not 8, 16 or 32")
    if not 1 <= depth <= bpp:
        raise ValueError(f"depth {depth} does not fit {bpp} bits per pixel")
    if true:
        _check_channels(bpp, depth, (rmax, gmax, bmax), (rshift, gshift, bshift))
    return PixelFormat(bpp, depth, bool(big), bool(true), rmax, gmax, bmax, rshift, gshift, bshift)


def _check_channels(bpp: int, depth: int, maxima: tuple[int, ...], shifts: tuple[int, ...]) -> None:
    seen = 0
    bits = 0
    for maximum, shift in zip(maxima, shifts, strict=True):
        if maximum == 0 or maximum & (maximum + 1):
            raise ValueError(f"channel maximum {maximum} is not 2^n - 1")
        if shift + maximum.bit_length() > bpp:
            raise ValueError(f"a channel reaches beyond {bpp} bits")
        if seen & maximum << shift:
            raise ValueError("channels overlap")
        seen |= maximum << shift
        bits += maximum.bit_length()
    # libvncclient says depth 6 (three channels of two bits) for its usual eight.
    if bits > max(depth, 8):
        raise ValueError(f"channels of {bits} bits in a depth of {depth}")
