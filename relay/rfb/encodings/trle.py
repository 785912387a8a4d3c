"""TRLE (RFC 6143, Section 7.7.5): tiles of 16x16, each raw, of one colour, packed, or in runs."""

from __future__ import annotations

from collections.abc import Generator

from relay.rfb.encodings.base import Walker, Window
from relay.rfb.errors import Violation
from relay.rfb.state import State

_RAW, _SOLID, _PACKED_REUSED, _RUNS, _RUNS_REUSED = 0, 1, 127, 128, 129
_MAX_PACKED_COLOURS = 16


class TRLE(Walker):
    number = 15
    name = "TRLE"
    element_limit_bytes = 1 + 127 * 4  # a sub-encoding and its palette

    def walk(self, w: int, h: int, state: State) -> Generator[int, Window, int]:
        cpixel_bytes = state.cpixel_bytes
        # Colours of the last palette of this rectangle.
        colours = 0
        buf, pos, stop = yield 0
        for top in range(0, h, 16):
            tile_h = min(16, h - top)
            for left in range(0, w, 16):
                tile_w = min(16, w - left)
                while pos >= stop:
                    buf, pos, stop = yield pos
                kind = buf[pos]
                size = 1
                if kind in (_PACKED_REUSED, _RUNS_REUSED):
                    if not colours:
                        raise Violation("trle-palette", "no palette yet to be used again", pos)
                    if kind == _PACKED_REUSED and colours > _MAX_PACKED_COLOURS:
                        raise Violation("trle-palette", f"packed pixels of {colours} colours", pos)
                elif _MAX_PACKED_COLOURS < kind < _PACKED_REUSED:
                    raise Violation("trle-subencoding", f"sub-encoding {kind}", pos)
                else:
                    palette = kind & 127
                    size += palette * cpixel_bytes
                    if palette > 1:
                        colours = palette
                while stop - pos < size:
                    buf, pos, stop = yield pos
                pos += size
                pixels = tile_w * tile_h
                if kind == _RAW:
                    pos += pixels * cpixel_bytes
                elif kind == _SOLID:
                    pass
                elif kind < _RUNS:
                    bits = 1 if colours == 2 else 2 if colours <= 4 else 4
                    pos += (tile_w * bits + 7) // 8 * tile_h
                else:
                    colour_bytes = cpixel_bytes if kind == _RUNS else 1
                    while pixels:
                        while stop - pos < colour_bytes:
                            buf, pos, stop = yield pos
                        if kind != _RUNS:
                            index = buf[pos]
                            # Viewers look it up in the palette.
                            if index & 127 >= colours:
                                raise Violation(
                                    "trle-index", f"colour {index & 127} of {colours}", pos
                                )
                            if index < 128:
                                pos += 1
                                pixels -= 1
                                continue
                        size = colour_bytes + 1
                        while stop - pos < size:
                            buf, pos, stop = yield pos
                        run = buf[pos + colour_bytes] + 1
                        if run == 256:
                            # Another byte follows. It must be 0 for the run to fit a tile, so a
                            # run of more bytes need not be read to its end.
                            size += 1
                            while stop - pos < size:
                                buf, pos, stop = yield pos
                            run += buf[pos + size - 1]
                        if run > pixels:
                            raise Violation(
                                "trle-run", f"a run of {run} where {pixels} pixels are left", pos
                            )
                        pos += size
                        pixels -= run
        return pos
