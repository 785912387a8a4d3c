"""Tight and TightPNG (community specification, Tight Encoding and Tight PNG Encoding).

A control byte, for basic compression a filter and perhaps a palette, then a compact length.
The whole head is at most 1 + 1 + 1 + 256 * 4 + 3 bytes, and the rest is opaque.
"""

from __future__ import annotations

from relay.rfb.encodings.base import NEED, Prefixed
from relay.rfb.errors import Violation
from relay.rfb.state import State

_FILL, _JPEG, _PNG = 8, 9, 10
_COPY, _PALETTE, _GRADIENT = 0, 1, 2

MAX_WIDTH_PX = 2048
"""The specification's limit; wider ones overflowed a gradient row in viewers."""

UNCOMPRESSED_BELOW_BYTES = 12
"""Shorter data is sent as it is, with no length."""


class Tight(Prefixed):
    number = 7
    name = "Tight"
    png = False
    element_limit_bytes = 1 + 1 + 1 + 256 * 4 + 3

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        if pos >= stop:
            return NEED
        # Bits 0 to 3 reset zlib streams.
        control = buf[pos] >> 4
        # TigerVNC fills any width: a background is one rectangle.
        if w > MAX_WIDTH_PX and control != _FILL:
            raise Violation("tight-width", f"{w} pixels wide, more than {MAX_WIDTH_PX}")
        if control < _FILL:
            return self._basic(buf, pos, stop, w, h, state)
        if control == _FILL:
            return 1 + state.tpixel_bytes
        if control == _JPEG:
            # At 8 bits per pixel it should not be, but libvncserver looks at the format of its
            # screen, not at the viewer's; TigerVNC's viewer shows it.
            if not state.jpeg_offered:
                raise Violation("tight-jpeg", "JPEG without a quality level offered")
            first, second = 0xFF, 0xD8
        elif control == _PNG and self.png:
            first, second = 0x89, 0x50
        else:
            raise Violation("tight-control", f"compression control {control}")
        # Not in a function of its own: 19.5 us for an update of 16, 20.4 with one.
        # Six bytes hold every such head. A payload shorter than that, of 4 to 5 bytes, is presented
        # again until it is whole, which is all it waits for anyway.
        if stop - pos < 6:
            return NEED
        length = buf[pos + 1]
        at = pos + 2
        if length > 127:
            byte = buf[at]
            length = length & 127 | (byte & 127) << 7
            at += 1
            if byte > 127:
                length |= buf[at] << 14
                at += 1
        # It has its own pixels, whatever the viewer's format.
        limit = 8 * w * h + 65_536
        if not 4 <= length <= limit:
            text = f"an image of {length} bytes, at most {limit} make sense"
            raise Violation("image-length", text)
        if buf[at] != first or buf[at + 1] != second:
            raise Violation("image-magic", "an image that does not begin as one")
        return at - pos + length

    def _basic(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        at = pos + 1
        kind = _COPY
        if buf[pos] & 0x40:
            if at >= stop:
                return NEED
            kind = buf[at]
            at += 1
        if kind == _COPY:
            size = w * h * state.tpixel_bytes
        elif kind == _PALETTE:
            if at >= stop:
                return NEED
            colours = buf[at] + 1
            # The specification says 2 to 256; TigerVNC's decoder takes 1 as well.
            at += 1 + colours * state.tpixel_bytes
            size = (w + 7) // 8 * h if colours <= 2 else w * h
        elif kind == _GRADIENT:
            if state.bytes_per_pixel == 1:
                raise Violation("tight-gradient", "gradient filter at 8 bits per pixel")
            size = w * h * state.tpixel_bytes
        else:
            raise Violation("tight-filter", f"filter {kind}")
        if size < UNCOMPRESSED_BELOW_BYTES:
            return at - pos + size
        return _with_compact_length(buf, pos, at, stop, size + size // 8 + 4096)


def _with_compact_length(buf: bytearray, start: int, at: int, stop: int, limit: int) -> int:
    """Payload size from `start` where a compact length stands at `at`, or NEED."""
    if at >= stop:
        return NEED
    length = buf[at]
    at += 1
    if length > 127:
        if at >= stop:
            return NEED
        byte = buf[at]
        length = length & 127 | (byte & 127) << 7
        at += 1
        if byte > 127:
            if at >= stop:
                return NEED
            length |= buf[at] << 14
            at += 1
    if length > limit:
        raise Violation("tight-length", f"{length} bytes, at most {limit} make sense")
    return at - start + length


class TightPNG(Tight):
    """As Tight, with PNG in the place of basic compression."""

    number = -260
    name = "TightPNG"
    png = True
    element_limit_bytes = 1 + 1 + 1 + 256 + 3

    def _basic(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        # QEMU and libvncserver have no PNG at 8 bits per pixel.
        if state.bytes_per_pixel == 1:
            return super()._basic(buf, pos, stop, w, h, state)
        raise Violation("tight-control", "basic compression inside TightPNG")
