"""Hextile (RFC 6143, Section 7.7.4): tiles of 16x16, each raw or made of sub-rectangles."""

from __future__ import annotations

from collections.abc import Generator

from relay.rfb.encodings.base import Walker, Window
from relay.rfb.errors import Violation
from relay.rfb.state import State

_RAW, _BACKGROUND, _FOREGROUND, _SUBRECTS, _COLOURED = 1, 2, 4, 8, 16


class Hextile(Walker):
    number = 5
    name = "Hextile"
    # Mask, background, foreground, count and 255 coloured sub-rectangles.
    element_limit_bytes = 1 + 4 + 4 + 1 + 255 * (4 + 2)
    # The masks of a tile that is a length and deflated bytes.
    deflated: frozenset[int] = frozenset()

    def walk(self, w: int, h: int, state: State) -> Generator[int, Window, int]:
        bytes_per_pixel = state.bytes_per_pixel
        # Bytes of a tile's head by its mask: mask, background, foreground, count.
        heads = [
            1
            + (bytes_per_pixel if mask & _BACKGROUND else 0)
            + (bytes_per_pixel if mask & _FOREGROUND else 0)
            + (1 if mask & _SUBRECTS else 0)
            for mask in range(32)
        ]
        buf, pos, stop = yield 0
        for top in range(0, h, 16):
            tile_h = min(16, h - top)
            for left in range(0, w, 16):
                tile_w = min(16, w - left)
                while pos >= stop:
                    buf, pos, stop = yield pos
                mask = buf[pos]
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
                    continue
                if mask & _RAW:
                    # With the raw bit the others mean nothing; noVNC breaks on them, so they go.
                    buf[pos] = _RAW
                    pos += 1 + tile_w * tile_h * bytes_per_pixel
                    continue
                # A whole tile is one element.
                size = heads[mask]
                if not mask & _SUBRECTS:
                    while stop - pos < size:
                        buf, pos, stop = yield pos
                    pos += size
                    continue
                while stop - pos < size:
                    buf, pos, stop = yield pos
                colour = bytes_per_pixel if mask & _COLOURED else 0
                step = colour + 2
                size += buf[pos + size - 1] * step
                while stop - pos < size:
                    buf, pos, stop = yield pos
                for at in range(pos + heads[mask] + colour, pos + size, step):
                    where, extent = buf[at], buf[at + 1]
                    if (where >> 4) + (extent >> 4) >= tile_w or (where & 15) + (
                        extent & 15
                    ) >= tile_h:
                        raise Violation(
                            "hextile-subrectangle",
                            f"sub-rectangle outside a tile of {tile_w}x{tile_h}",
                            pos,
                        )
                pos += size
        return pos
