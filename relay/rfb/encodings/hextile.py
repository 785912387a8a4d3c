"""Hextile (RFC 6143, Section 7.7.4): tiles of 16x16, each raw or made of sub-rectangles."""

from __future__ import annotations

from collections.abc import Generator

from relay.rfb.encodings.base import Walker, Window
from relay.rfb.errors import Violation
from relay.rfb.state import State

_RAW, _BACKGROUND, _FOREGROUND, _SUBRECTS, _COLOURED = 1, 2, 4, 8, 16

_MAX_SUBRECTS = 255


def _lanes(pattern: int) -> dict[int, int]:
    """By the bytes of a sub-rectangle: an integer with `pattern` at the end of so many bytes, for
    as many sub-rectangles as a tile can have."""
    return {
        step: int.from_bytes(pattern.to_bytes(step, "big") * _MAX_SUBRECTS, "big")
        for step in (2, 3, 4, 6)
    }


_NIBBLES, _ONES, _OVER = _lanes(0x0F0F), _lanes(0x01), _lanes(0x30)


def _tables(bytes_per_pixel: int) -> tuple[list[int], list[int]]:
    """By a tile's mask: the bytes of its head (mask, background, foreground, count), 0 where the
    tile is no such; and those of a sub-rectangle, 0 where it has none."""
    heads = [
        1
        + (bytes_per_pixel if mask & _BACKGROUND else 0)
        + (bytes_per_pixel if mask & _FOREGROUND else 0)
        + (1 if mask & _SUBRECTS else 0)
        if mask < 32 and not mask & _RAW
        else 0
        for mask in range(256)
    ]
    steps = [
        2 + (bytes_per_pixel if mask & _COLOURED else 0) if mask & _SUBRECTS else 0
        for mask in range(256)
    ]
    return heads, steps


_TABLES = {bytes_per_pixel: _tables(bytes_per_pixel) for bytes_per_pixel in (1, 2, 4)}


class Hextile(Walker):
    number = 5
    name = "Hextile"
    # Mask, background, foreground, count and 255 coloured sub-rectangles.
    element_limit_bytes = 1 + 4 + 4 + 1 + _MAX_SUBRECTS * (4 + 2)
    # The masks of a tile that is a length and deflated bytes.
    deflated: frozenset[int] = frozenset()

    def walk(self, w: int, h: int, state: State) -> Generator[int, Window, int]:
        bytes_per_pixel = state.bytes_per_pixel
        heads, steps = _TABLES[bytes_per_pixel]
        buf, pos, stop = yield 0
        for top in range(0, h, 16):
            tile_h = min(16, h - top)
            for left in range(0, w, 16):
                while pos >= stop:
                    buf, pos, stop = yield pos
                mask = buf[pos]
                size = heads[mask]
                if not size:
                    if mask > 31:
                        if mask not in self.deflated:
                            raise Violation("hextile-mask", f"tile mask 0x{mask:02x}", pos)
                        while stop - pos < 3:
                            buf, pos, stop = yield pos
                        length = buf[pos + 1] << 8 | buf[pos + 2]
                        # Twice the largest tile, and room for flushes.
                        if length > 2 * self.element_limit_bytes + 1024:
                            raise Violation("zlibhex-length", f"a tile of {length} bytes", pos)
                        pos += 3 + length
                    else:
                        # With the raw bit the others mean nothing; noVNC breaks on them, so they
                        # go.
                        buf[pos] = _RAW
                        pos += 1 + min(16, w - left) * tile_h * bytes_per_pixel
                    continue
                # A whole tile is one element.
                while stop - pos < size:
                    buf, pos, stop = yield pos
                step = steps[mask]
                if step:
                    count = buf[pos + size - 1]
                    head = size
                    size += count * step
                    while stop - pos < size:
                        buf, pos, stop = yield pos
                    tile_w = w - left
                    if _outside(buf[pos + head : pos + size], step, count, tile_w, tile_h):
                        raise Violation(
                            "hextile-subrectangle",
                            f"sub-rectangle outside a tile of {min(16, tile_w)}x{tile_h}",
                            pos,
                        )
                pos += size
        return pos


def _outside(subrects: bytearray, step: int, count: int, width: int, height: int) -> bool:
    """Whether one of `count` sub-rectangles of `step` bytes reaches beyond a tile. Its last byte
    but one is x and y, its last is width and height less one."""
    # All at once, side by side in large integers: 0.8 us for twelve, where a loop takes 2.4. A sum
    # of two nibbles and what the tile lacks of 16 is 16 to 45 where it is too large.
    shift = 8 * step * (_MAX_SUBRECTS - count)
    nibbles = _NIBBLES[step] >> shift
    value = int.from_bytes(subrects, "big")
    across = value >> 4 & nibbles
    across += across >> 8
    down = value & nibbles
    down += down >> 8
    if width < 16:
        across += (_ONES[step] >> shift) * (16 - width)
    if height < 16:
        down += (_ONES[step] >> shift) * (16 - height)
    return (across | down) & _OVER[step] >> shift != 0
