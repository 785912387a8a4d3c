"""JPEG (community specification, JPEG Encoding): an image without a length in front of it.

It ends with its EOI marker (ITU-T T.81, Annex B). Tables that it leaves out are those of an
image before it, so DQT and DHT may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Generator

from relay.rfb.encodings.base import Walker, Window
from relay.rfb.errors import Violation
from relay.rfb.state import State

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA

_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers that no length follows: TEM, RST0 to RST7, SOI."""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start of frame, whatever the process: SOF0 to SOF15 but DHT, JPG and DAC."""

_find_marker = re.compile(rb"\xff[^\x00\xd0-\xd7]").search
"""Inside a scan: stuffed bytes and restart markers are part of it."""


class JPEG(Walker):
    number = 21
    name = "JPEG"
    element_limit_bytes = 9  # a frame header as far as the size of the image

    def walk(self, w: int, h: int, state: State) -> Generator[int, Window, int]:
        left = 2 * w * h * 4 + 65_536
        marker = 0
        buf, pos, stop = yield 0
        while marker != _EOI:
            while stop - pos < 2:
                buf, pos, stop = yield pos
            first = not marker
            marker = buf[pos + 1]
            # Fill bytes, FF before a marker, are legal in a file, but TigerVNC and noVNC take the
            # second FF for a marker with a length.
            if buf[pos] != 0xFF or marker in (0x00, 0xFF) or (marker == _SOI) != first:
                raise Violation(
                    "jpeg-marker", f"0x{buf[pos]:02x}{marker:02x} where a marker is due", pos
                )
            size = 2
            if marker != _EOI and marker not in _BARE:
                while stop - pos < 4:
                    buf, pos, stop = yield pos
                size += buf[pos + 2] << 8 | buf[pos + 3]
                if size < (10 if marker in _FRAMES else 4):
                    raise Violation("jpeg-segment", f"a segment of {size} bytes", pos)
                if marker in _FRAMES:
                    while stop - pos < 9:
                        buf, pos, stop = yield pos
                    height = buf[pos + 5] << 8 | buf[pos + 6]
                    width = buf[pos + 7] << 8 | buf[pos + 8]
                    # A few hundred bytes inflate to gigabytes in a viewer otherwise. A height of 0
                    # would be told behind the scan (T.81, B.2.5).
                    if width > w or not 0 < height <= h:
                        raise Violation("jpeg-size", f"{width}x{height} in {w}x{h}", pos)
            left -= size
            if left < 0:
                raise _too_long(w, h, pos)
            pos += size
            in_scan = marker == _SOS
            while in_scan:
                while pos >= stop:
                    buf, pos, stop = yield pos
                found = _find_marker(buf, pos, stop)
                in_scan = found is None
                # A last byte of FF belongs to what follows it.
                end = found.start() if found else stop - (buf[stop - 1] == 0xFF)
                if left < end - pos:
                    raise _too_long(w, h, pos + left)
                left -= end - pos
                pos = end
                if in_scan:
                    buf, pos, stop = yield pos
        return pos


def _too_long(w: int, h: int, at: int) -> Violation:
    return Violation("jpeg-length", f"more bytes than make sense for {w}x{h}", at)
