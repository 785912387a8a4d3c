"""Reads what the viewer sends after the handshake (RFC 6143, Section 7.5)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from relay.rfb import encodings, pixel_format
from relay.rfb.errors import CloseCode, Direction, Violation
from relay.rfb.from_desktop import FENCE_LIMIT_BYTES
from relay.rfb.reader import NEED, Reader
from relay.rfb.state import State

_count = struct.Struct(">H").unpack_from
_area = struct.Struct(">HHHH")
_point = struct.Struct(">HH")
_wide_point = struct.Struct(">HHB").unpack_from
_flags = struct.Struct(">I").unpack_from
_screen = struct.Struct(">IHHHHI").unpack_from

TAIL_LIMIT_BYTES = 4 + 4 * 1024
"""The longest message that is read as a whole: SetEncodings with as many entries as the default
limit allows."""

_FENCE_REQUEST = 1 << 31
_MAX_SCREENS = 16


class FromViewer(Reader):
    """The up direction. See `Reader` for the contract.

    Every message but the body of a cut text is approved whole, so that it can be written in one
    send: TigerVNC up to 1.16.2 loses step when a SetDesktopSize arrives in pieces.

    `inputs` counts what a person does: keys, pointer, clipboard. Update requests and fences
    come by themselves.
    """

    direction = Direction.UP
    close_code = CloseCode.POLICY

    __slots__ = ("inputs",)

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.inputs = 0

    def judge(self, buf: bytearray, pos: int, stop: int) -> int:
        """Approves as far as `buf[pos:stop]` allows; see `Reader`. Raises ProtocolError."""
        start = pos
        if self.edits:
            self.edits.clear()
        if self.opaque:
            pos = self._pass_opaque(pos, stop)
        while pos < stop:
            message = _MESSAGES.get(buf[pos])
            try:
                if message is None:
                    raise Violation(f"message type {buf[pos]} is not let through")
                _, head, check = message
                if stop - pos < head:
                    break
                reached = check(self, buf, pos, stop)
            except Violation as violation:
                where = message[0] if message else "message type"
                raise self._error(violation, self.offset + pos - start, where) from None
            if reached == NEED:
                break
            pos = reached
        self.offset += pos - start
        return pos

    def _set_pixel_format(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        try:
            wanted = pixel_format.parse(buf, pos + 4)
        except ValueError as error:
            raise Violation(str(error)) from None
        same_sizes = (
            wanted.bytes_per_pixel == state.bytes_per_pixel
            and wanted.cpixel_bytes == state.cpixel_bytes
            and wanted.tpixel_bytes == state.tpixel_bytes
        )
        # RFC 6143, Section 7.5.1: not while an update request is outstanding, for nobody could
        # tell in which format the answer is.
        if not same_sizes and (state.requests or state.updates_continuous):
            raise Violation("a new pixel size while an update is due")
        state.set_pixel_format(wanted)
        buf[pos + 1 : pos + 4] = b"\0\0\0"
        buf[pos + 4 : pos + 20] = wanted.pack()
        return pos + 20

    def _set_encodings(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        count: int = _count(buf, pos + 2)[0]
        if count > state.bounds.encodings_count:
            raise Violation(f"{count} encodings")
        end = pos + 4 + 4 * count
        if stop < end:
            return NEED
        kept = [
            number for number in struct.unpack_from(f">{count}i", buf, pos + 4) if _known(number)
        ]
        for number in kept:
            # An old list may still be in use by the desktop, so offers only ever add up.
            state.offered.add(number)
            encoding = encodings.REGISTRY.get(number)
            if encoding is not None:
                state.allowed[number] = encoding
        state.jpeg_offered = state.jpeg_offered or any(map(_is_quality, kept))
        state.clipboard_offered = encodings.EXTENDED_CLIPBOARD in state.offered
        buf[pos + 1] = 0
        if len(kept) != count:
            message = struct.pack(f">BxH{len(kept)}i", 2, len(kept), *kept)
            self.edits.append((pos, end, message))
        return end

    def _crop(self, buf: bytearray, at: int) -> None:
        """An area beyond the framebuffer is cropped, never refused: viewers send stale sizes
        right after a resize (community specification, FramebufferUpdateRequest)."""
        x, y, w, h = _area.unpack_from(buf, at)
        state = self.state
        if x + w > state.width or y + h > state.height:
            x, y = min(x, state.width), min(y, state.height)
            _area.pack_into(buf, at, x, y, min(w, state.width - x), min(h, state.height - y))

    def _framebuffer_update_request(self, buf: bytearray, pos: int, stop: int) -> int:
        if buf[pos + 1] > 1:
            buf[pos + 1] = 1
        self._crop(buf, pos + 2)
        self.state.requests += 1
        return pos + 10

    def _key_event(self, buf: bytearray, pos: int, stop: int) -> int:
        if buf[pos + 1] > 1:
            buf[pos + 1] = 1
        buf[pos + 2 : pos + 4] = b"\0\0"
        self.inputs += 1
        return pos + 8

    def _pointer_event(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        size = 6
        # Bit 7 is the eighth button, until extended buttons make it announce a seventh byte.
        if buf[pos + 1] > 127 and state.extended_buttons:
            size = 7
            if stop - pos < 7:
                return NEED
        x, y = _point.unpack_from(buf, pos + 2)
        if x >= state.width or y >= state.height:
            _point.pack_into(buf, pos + 2, min(x, state.width - 1), min(y, state.height - 1))
        self.inputs += 1
        return pos + size

    def _client_cut_text(self, buf: bytearray, pos: int, stop: int) -> int:
        self.inputs += 1
        return self._cut_text(buf, pos, stop, self.state.extended_clipboard)

    def _enable_continuous_updates(self, buf: bytearray, pos: int, stop: int) -> int:
        if not self.state.continuous_updates:
            raise Violation("the desktop has not said that it can do continuous updates")
        if buf[pos + 1] > 1:
            buf[pos + 1] = 1
        self.state.updates_continuous = bool(buf[pos + 1])
        self._crop(buf, pos + 2)
        return pos + 10

    def _fence(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        if not state.fences:
            raise Violation("the desktop has not said that it can do fences")
        length = buf[pos + 8]
        if length > FENCE_LIMIT_BYTES:
            raise Violation(f"a fence of {length} bytes")
        if stop - pos < 9 + length:
            return NEED
        buf[pos + 1 : pos + 4] = b"\0\0\0"
        (flags,) = _flags(buf, pos + 4)
        if flags & _FENCE_REQUEST:
            state.fence_replies_due += 1
        return pos + 9 + length

    def _set_desktop_size(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        if not state.extended_desktop_size:
            raise Violation("the desktop has not said that it can be resized")
        width, height = _point.unpack_from(buf, pos + 2)
        screens = buf[pos + 6]
        bounds = state.bounds
        if (
            not 0 < width <= bounds.framebuffer_side_px
            or not 0 < height <= bounds.framebuffer_side_px
            or width * height > bounds.framebuffer_px
        ):
            raise Violation(f"a framebuffer of {width}x{height}")
        if not 1 <= screens <= _MAX_SCREENS:
            raise Violation(f"{screens} screens")
        end = pos + 8 + 16 * screens
        if stop < end:
            return NEED
        seen = set()
        for at in range(pos + 8, end, 16):
            number, x, y, w, h, _flags_of_screen = _screen(buf, at)
            if x + w > width or y + h > height or number in seen:
                raise Violation(f"screen {number} outside {width}x{height}, or twice")
            seen.add(number)
        buf[pos + 1] = buf[pos + 7] = 0
        return end

    def _qemu(self, buf: bytearray, pos: int, stop: int) -> int:
        if buf[pos + 1] != 0:
            raise Violation(f"QEMU submessage {buf[pos + 1]} is not let through")
        if not self.state.extended_keys:
            raise Violation("the desktop has not said that it takes extended keys")
        if stop - pos < 12:
            return NEED
        self.inputs += 1
        return pos + 12


def _known(number: int) -> bool:
    return (
        number in encodings.REGISTRY
        or number in encodings.SIGNALS
        or any(number in levels for levels in encodings.LEVELS)
    )


def _is_quality(number: int) -> bool:
    return number in encodings.QUALITY_LEVELS or number in encodings.FINE_QUALITY_LEVELS


Check = Callable[[FromViewer, bytearray, int, int], int]

# By type: the message's name, the bytes its check needs at least, the check.
_MESSAGES: dict[int, tuple[str, int, Check]] = {
    0: ("SetPixelFormat", 20, FromViewer._set_pixel_format),
    2: ("SetEncodings", 4, FromViewer._set_encodings),
    3: ("FramebufferUpdateRequest", 10, FromViewer._framebuffer_update_request),
    4: ("KeyEvent", 8, FromViewer._key_event),
    5: ("PointerEvent", 6, FromViewer._pointer_event),
    6: ("ClientCutText", 8, FromViewer._client_cut_text),
    150: ("EnableContinuousUpdates", 10, FromViewer._enable_continuous_updates),
    248: ("ClientFence", 9, FromViewer._fence),
    251: ("SetDesktopSize", 8, FromViewer._set_desktop_size),
    255: ("QEMU message", 2, FromViewer._qemu),
}
