"""Cursors: Cursor (RFC 6143, Section 7.8.1), XCursor, the VMware cursor and CursorWithAlpha
(community specification). x and y are the hot spot; 0x0 is a hidden cursor."""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import cast

from relay.rfb.encodings.base import NEED, Encoding, Fixed, Prefixed, Walker, Window
from relay.rfb.encodings.hextile import Hextile
from relay.rfb.encodings.raw import Raw
from relay.rfb.encodings.tight import Tight
from relay.rfb.encodings.zrle import ZRLE
from relay.rfb.errors import Violation
from relay.rfb.state import State

_inner_number = struct.Struct(">i").unpack_from


def _check_side(w: int, h: int, state: State) -> None:
    # Width times height wrapped in viewers (CVE-2019-15690), so both are bounded first.
    if max(w, h) > state.bounds.cursor_side_px:
        raise Violation("cursor-size", f"a cursor of {w}x{h}")


class Cursor(Fixed):
    number = -239
    name = "Cursor"
    pixels = False
    in_pixel_format = True

    def size(self, w: int, h: int, state: State) -> int:
        _check_side(w, h, state)
        return w * h * state.bytes_per_pixel + (w + 7) // 8 * h


class XCursor(Fixed):
    """Two colours and two bitmaps, whatever the pixel format."""

    number = -240
    name = "XCursor"
    pixels = False

    def size(self, w: int, h: int, state: State) -> int:
        _check_side(w, h, state)
        return 6 + 2 * ((w + 7) // 8) * h if w and h else 0


class PointerPosition(Fixed):
    """Where the pointer is: x and y, no payload (TightVNC, libvncserver)."""

    number = -232
    name = "pointer position"
    pixels = False

    def size(self, w: int, h: int, state: State) -> int:
        return 0


class VMwareCursor(Prefixed):
    """A type byte, padding, then masks in the pixel format (type 0) or RGBA (type 1)."""

    number = 0x574D5664
    name = "VMware cursor"
    pixels = False
    in_pixel_format = True
    element_limit_bytes = 2

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        _check_side(w, h, state)
        if stop - pos < 2:
            return NEED
        kind = buf[pos]
        if kind > 1:
            raise Violation("cursor-type", f"cursor type {kind}")
        buf[pos + 1] = 0
        return 2 + (w * h * 4 if kind else 2 * w * h * state.bytes_per_pixel)


class _AlphaState:
    """The fixed format inside CursorWithAlpha: 32 bits per pixel, depth 32."""

    bytes_per_pixel = 4
    cpixel_bytes = 4
    tpixel_bytes = 4
    jpeg_offered = False
    # Whether its stream is that of the framebuffer's rectangles depends on the desktop.
    zrle_begun = True


_ALPHA = cast(State, _AlphaState)


class CursorWithAlpha(Prefixed):
    """An encoding number, then that encoding's payload in a fixed 32-bit format."""

    number = -314
    name = "CursorWithAlpha"
    pixels = False
    element_limit_bytes = 4 + Tight.element_limit_bytes

    # Only real encodings may stand inside, and never one that copies from the framebuffer.
    _inner: dict[int, Encoding] = {  # noqa: RUF012
        e.number: e for e in (Raw(), Hextile(), Tight(), ZRLE())
    }

    def measure(self, buf: bytearray, pos: int, stop: int, w: int, h: int, state: State) -> int:
        _check_side(w, h, state)
        if stop - pos < 4:
            return NEED
        (number,) = _inner_number(buf, pos)
        inner = self._inner.get(number)
        if inner is None:
            raise Violation("cursor-encoding", f"encoding {number} inside a cursor")
        if number not in state.offered and number != Raw.number:
            raise Violation("encoding-not-offered", f"encoding {number} was not offered")
        if number == ZRLE.number:
            state.zrle_begun = True
        if inner.walks:
            return 4
        size = inner.measure(buf, pos + 4, stop, w, h, _ALPHA)
        return NEED if size == NEED else 4 + size

    def behind(
        self, buf: bytearray, pos: int, w: int, h: int
    ) -> Generator[int, Window, int] | None:
        inner = self._inner[_inner_number(buf, pos)[0]]
        return inner.walk(w, h, _ALPHA) if isinstance(inner, Walker) else None
