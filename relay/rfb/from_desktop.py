"""Reads what the desktop sends after the handshake (RFC 6143, Section 7.6)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator

from relay.rfb import clipboard, encodings
from relay.rfb.encodings.base import Encoding, Walker, Window
from relay.rfb.encodings.tight import Tight
from relay.rfb.errors import CloseCode, Direction, Violation
from relay.rfb.reader import NEED, Reader
from relay.rfb.state import State

_rectangle = struct.Struct(">HHHHi").unpack_from
_two = struct.Struct(">HH").unpack_from
_flags = struct.Struct(">I").unpack_from

FENCE_LIMIT_BYTES = 64
"""Payload of a fence (community specification, ServerFence)."""

TAIL_LIMIT_BYTES = 12 + 4 + Tight.head_limit_bytes
"""The longest head that is presented again: a rectangle's, with a cursor in Tight. A Hextile
tile with 255 coloured sub-rectangles of 6 bytes is as large as it gets otherwise, 1,540."""

_FENCE_REQUEST = 1 << 31
_FENCE_FLAGS = _FENCE_REQUEST | 0b111


class FromDesktop(Reader):
    """The down direction. See `Reader` for the contract."""

    direction = Direction.DOWN
    close_code = CloseCode.DESKTOP_FAULT

    __slots__ = ("_count", "_painted", "_rects", "_walk", "_walking")

    def __init__(self, state: State) -> None:
        super().__init__(state)
        # Rectangles left in the FramebufferUpdate being read, and how many it announced.
        self._rects = 0
        self._count = 0
        # Whether that update holds pixels: one without answers no request.
        self._painted = False
        # A rectangle that is read element by element, and its encoding.
        self._walk: Generator[int, Window, int] | None = None
        self._walking: Encoding | None = None

    def judge(self, buf: bytearray, pos: int, stop: int) -> int:
        """Approves as far as `buf[pos:stop]` allows; see `Reader`. Raises ProtocolError."""
        start = pos
        if self.edits:
            self.edits.clear()
        if self.opaque:
            pos = self._pass_opaque(pos, stop)
            if pos == stop and self.opaque:
                self.offset += pos - start
                return pos
        # A walk can end exactly where its opaque bytes do, so it may have to be resumed without
        # a further byte; everything else waits for one.
        while pos < stop:
            if self._rects:
                reached = self._rectangles(buf, pos, stop, start)
            else:
                message = _MESSAGES.get(buf[pos])
                try:
                    if message is None:
                        raise Violation(f"message type {buf[pos]} was not negotiated")
                    reached = message[1](self, buf, pos, stop)
                except Violation as violation:
                    where = message[0] if message else "message type"
                    raise self._error(violation, self.offset + pos - start, where) from None
            if reached == NEED:
                break
            pos = reached
        self.offset += pos - start
        return pos

    def _rectangles(self, buf: bytearray, pos: int, stop: int, start: int) -> int:
        """Reads on in an update; returns how far, or NEED when it got nowhere."""
        state = self.state
        allowed = state.allowed
        width, height = state.width, state.height
        left = self._rects
        first = pos
        painted = self._painted
        encoding: Encoding | None = None
        try:
            if self._walk is not None:
                encoding = self._walking
                pos = self._resume(buf, pos, stop)
                left = self._rects
            # Locals and one straight line for rectangles of pixels: 0.6 us for one in Tight,
            # 1.0 with attributes and a call for each step.
            while left and stop - pos >= 12 and self._walk is None:
                x, y, w, h, number = _rectangle(buf, pos)
                encoding = allowed.get(number)
                if encoding is None:
                    if number == encodings.LAST_RECT and number in state.offered:
                        pos += 12
                        left = 0
                        break
                    raise Violation(f"encoding {number} was not offered")
                if encoding.pixels:
                    if x + w > width or y + h > height:
                        raise Violation(
                            f"{w}x{h} at {x},{y} outside the framebuffer of {width}x{height}"
                        )
                    painted = True
                    if encoding.walks:
                        self._rects = left
                        self._begin(encoding, w, h)
                        pos = self._resume(buf, pos + 12, stop)
                        left = self._rects
                        continue
                    size = encoding.measure(buf, pos + 12, stop, w, h, state)
                    if size < 0:
                        break
                else:
                    size = encoding.measure(buf, pos + 12, stop, w, h, state)
                    if size < 0:
                        break
                    encoding.applied(x, y, w, h, state)
                    width, height = state.width, state.height
                pos += 12 + size
                left -= 1
        except Violation as violation:
            name = f" > {encoding.name}" if encoding else ""
            where = f"FramebufferUpdate > rectangle {self._count - left}{name}"
            at = pos if violation.at is None else violation.at
            raise self._error(violation, self.offset + at - start, where) from None
        self._rects = left
        self._painted = painted
        if not left:
            self._update_ends()
        if pos == first:
            return NEED
        return self._body(first, pos, stop)

    def _begin(self, encoding: Encoding, w: int, h: int) -> None:
        assert isinstance(encoding, Walker)
        self._walk = encoding.walk(w, h, self.state)
        self._walking = encoding
        next(self._walk)

    def _resume(self, buf: bytearray, pos: int, stop: int) -> int:
        """Lets the walk read on; a walk that ends has read its rectangle."""
        assert self._walk is not None
        try:
            return self._walk.send((buf, pos, stop))
        except StopIteration as done:
            self._walk = None
            self._rects -= 1
            end: int = done.value
            return end

    def _update_ends(self) -> None:
        # TigerVNC sends cursors and sizes on its own schedule, in updates of their own.
        if self._painted and self.state.requests:
            self.state.requests -= 1

    def _framebuffer_update(self, buf: bytearray, pos: int, stop: int) -> int:
        if stop - pos < 4:
            return NEED
        buf[pos + 1] = 0
        # 65535 is no special number: with LastRect any update may end early, without it none.
        self._rects = self._count = _two(buf, pos)[1]
        self._painted = False
        return pos + 4

    def _set_colour_map_entries(self, buf: bytearray, pos: int, stop: int) -> int:
        if stop - pos < 6:
            return NEED
        first, count = _two(buf, pos + 2)
        if first + count > 65_536:
            raise Violation(f"{count} entries from {first}")
        end = pos + 6 + 6 * count
        if self.state.pixel_format.true_colour:
            # noVNC ends its session on any colour map; in true colour it means nothing anyway.
            return self._drop(pos, end, stop)
        if first + count > 1 << self.state.pixel_format.bits_per_pixel:
            raise Violation(f"{count} entries from {first}")
        buf[pos + 1] = 0
        return self._body(pos, end, stop)

    def _bell(self, buf: bytearray, pos: int, stop: int) -> int:
        return pos + 1

    def _server_cut_text(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        reached = self._cut_text(buf, pos, stop, state.clipboard_offered)
        if reached != NEED and clipboard.is_extended(buf, pos):
            # The first extended message of a desktop is its capabilities; from then on the
            # viewer may send them too.
            state.extended_clipboard = True
        return reached

    def _end_of_continuous_updates(self, buf: bytearray, pos: int, stop: int) -> int:
        if encodings.CONTINUOUS_UPDATES not in self.state.offered:
            raise Violation("continuous updates were not offered")
        self.state.continuous_updates = True
        return pos + 1

    def _fence(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        if encodings.FENCE not in state.offered:
            raise Violation("fences were not offered")
        if stop - pos < 9:
            return NEED
        length = buf[pos + 8]
        if length > FENCE_LIMIT_BYTES:
            raise Violation(f"a fence of {length} bytes")
        end = pos + 9 + length
        if stop < end:
            return NEED
        buf[pos + 1 : pos + 4] = b"\0\0\0"
        state.fences = True
        (flags,) = _flags(buf, pos + 4)
        if not flags & _FENCE_REQUEST:
            # noVNC ends its session on a fence that is no request. Only answers to what the
            # viewer asked go through.
            if not state.fence_replies_due:
                return self._drop(pos, end, stop)
            state.fence_replies_due -= 1
        return end


Check = Callable[[FromDesktop, bytearray, int, int], int]

_MESSAGES: dict[int, tuple[str, Check]] = {
    0: ("FramebufferUpdate", FromDesktop._framebuffer_update),
    1: ("SetColourMapEntries", FromDesktop._set_colour_map_entries),
    2: ("Bell", FromDesktop._bell),
    3: ("ServerCutText", FromDesktop._server_cut_text),
    150: ("EndOfContinuousUpdates", FromDesktop._end_of_continuous_updates),
    248: ("ServerFence", FromDesktop._fence),
}
