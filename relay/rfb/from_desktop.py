"""Reads what the desktop sends after the handshake (RFC 6143, Section 7.6)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator

from relay.rfb import clipboard, encodings
from relay.rfb.encodings.base import Encoding, Walker, Window
from relay.rfb.errors import CloseCode, Direction, Violation
from relay.rfb.fences import FENCE_LIMIT_BYTES, FENCE_REQUEST, OUR_FENCE
from relay.rfb.flow import Flow
from relay.rfb.rate import Rate
from relay.rfb.reader import NEED, Reader, gii_length
from relay.rfb.state import State

_rectangle = struct.Struct(">HHHHi").unpack_from
_two = struct.Struct(">HH").unpack_from
_flags = struct.Struct(">I").unpack_from

TAIL_LIMIT_BYTES = 12 + max(e.element_limit_bytes for e in encodings.REGISTRY.values())
"""The longest beginning that is presented again: a rectangle's header and what its encoding must
see whole. A Hextile tile with 255 coloured sub-rectangles, 1,540 bytes, is as large as it gets;
of the messages a fence is, 73."""

_UPDATE_SLACK_BYTES = 1_048_576
"""What one update may have beyond four times its pixels: a small framebuffer in many rectangles,
each with its own overhead."""

CUTS_LIMIT = 16
"""Fences of one window that end a frame; TigerVNC sends two an update."""

AUDIO_LIMIT_BYTES = 1_048_576
"""One message of audio; TigerVNC's viewer takes no more."""

BELLS_PER_S = 10
"""A viewer plays a sound for each; the others are left out."""

PSEUDO_LIMIT_BYTES = 16_777_216
"""What one update may have in rectangles without pixels: three of the largest cursors."""

_AUDIO_DATA = 2


class FromDesktop(Reader):
    """The down direction. See `Reader` for the contract.

    `cuts` are the ends of fences in `buf`, in order, valid as `edits` are: a browser hands a
    WebSocket frame on when it is complete, so a fence should be its frame's last.
    """

    direction = Direction.DOWN
    close_code = CloseCode.DESKTOP_FAULT

    __slots__ = (
        "_bells",
        "_count",
        "_hidden",
        "_offers",
        "_painted",
        "_pseudo_room_bytes",
        "_rects",
        "_room_bytes",
        "_shown",
        "_walk",
        "_walked_bytes",
        "_walking",
        "cuts",
    )

    def __init__(self, state: State, flow: Flow, clock: Callable[[], float] | None) -> None:
        super().__init__(state, flow)
        self.cuts: list[int] = []
        self._offers = flow.offers
        self._bells = Rate(BELLS_PER_S, BELLS_PER_S, clock)
        # Rectangles left in the FramebufferUpdate being read, and how many it announced.
        self._rects = 0
        self._count = 0
        # Whether the message read last is an update with pixels: one without answers no request.
        # And whether they are kept from the viewer.
        self._painted = False
        self._hidden = False
        # Whether any came since that was asked, or are under way since.
        self._shown = False
        # Bytes of encoded pixels that it may still have, those of other rectangles, and those of
        # the walk under way.
        self._room_bytes = 0
        self._pseudo_room_bytes = 0
        self._walked_bytes = 0
        # A rectangle that is read element by element, and its encoding.
        self._walk: Generator[int, Window, int] | None = None
        self._walking: Encoding | None = None

    @property
    def under_way(self) -> bool:
        return self.opaque > 0 or self._rects > 0

    @property
    def walking(self) -> bool:
        """Whether a rectangle that is read element by element has not come to its end."""
        return self._walk is not None

    def has_shown(self) -> bool:
        """Whether pixels came since this was asked last."""
        under_way = self._painted and self.opaque > 0
        shown = self._shown or under_way
        self._shown = under_way
        return shown

    def judge(self, buf: bytearray, pos: int, stop: int) -> int:
        """Approves as far as `buf[pos:stop]` allows; see `Reader`. Raises ProtocolError."""
        start = pos
        if self.edits:
            self.edits.clear()
        if self.cuts:
            self.cuts.clear()
        if self.opaque:
            pos = self._pass_opaque(pos, stop)
        while pos < stop:
            if self._rects:
                reached = self._rectangles(buf, pos, stop, start)
            else:
                message = _MESSAGES.get(buf[pos])
                self._painted = False
                try:
                    if message is None:
                        raise Violation(
                            "message-type", f"message type {buf[pos]} was not negotiated"
                        )
                    reached = message[1](self, buf, pos, stop)
                except Violation as violation:
                    where = message[0] if message else "message type"
                    raise self._error(violation, where, buf, pos, start, stop) from None
                if reached != NEED:
                    self.messages += 1
                    if self.observer is not None:
                        self.observer("message", buf[pos], self.offset + pos - start)
            if reached == NEED:
                break
            pos = reached
        self.offset += pos - start
        return pos

    def _rectangles(self, buf: bytearray, pos: int, stop: int, start: int) -> int:
        """Reads on in an update; returns how far, or NEED when it got nowhere."""
        state = self.state
        offers = self._offers
        allowed = offers.allowed
        measures = offers.measures
        width, height = state.width, state.height
        left = self._rects
        room = self._room_bytes
        first = pos
        painted = self._painted
        encoding: Encoding | None = None
        number = -1
        observer = self.observer
        hidden = self._hidden
        paused = False
        try:
            if self._walk is not None:
                encoding = self._walking
                assert encoding is not None
                pos = self._resume(buf, pos, stop)
                if hidden and encoding.pixels:
                    pos = self._drop(first, pos, stop)
                left = self._rects
                room = self._room_bytes
                paused = self._walk is not None
            while left and stop - pos >= 12 and not paused:
                x, y, w, h, number = _rectangle(buf, pos)
                measure = measures.get(number)
                # Locals and one straight line for rectangles of pixels that one look measures:
                # 0.6 us for one in Tight, 1.0 with attributes and a call for each step.
                if measure is not None:
                    encoding = None
                    if x + w > width or y + h > height:
                        raise _outside(x, y, w, h, width, height)
                    painted = True
                    if hidden:
                        self.flow.hidden((x, y, w, h))
                    size = measure(buf, pos + 12, stop, w, h, state)
                    if size < 0:
                        break
                    room -= size
                    if room < 0:
                        raise self._too_long()
                    if observer is not None:
                        observer("rectangle", number, self.offset + pos - start)
                    if hidden:
                        pos = self._drop_rectangle(buf, pos, pos + 12 + size, stop)
                    else:
                        pos += 12 + size
                    left -= 1
                    continue
                encoding = allowed.get(number)
                if encoding is None:
                    if number == encodings.LAST_RECT and number in state.offered:
                        if observer is not None:
                            observer("rectangle", number, self.offset + pos - start)
                        pos += 12
                        left = 0
                        break
                    raise Violation("encoding-not-offered", f"encoding {number} was not offered")
                if encoding.pixels:
                    if x + w > width or y + h > height:
                        raise _outside(x, y, w, h, width, height)
                    painted = True
                    if hidden:
                        self.flow.hidden((x, y, w, h))
                    if observer is not None:
                        observer("rectangle", number, self.offset + pos - start)
                    assert isinstance(encoding, Walker)
                    self._rects = left
                    self._room_bytes = room
                    self._begin(encoding, encoding.walk(w, h, state))
                    begins = pos + 12
                    pos = self._resume(buf, begins, stop)
                    if hidden:
                        buf[begins - 12 : begins] = bytes(12)
                        pos = self._drop(begins, pos, stop)
                    left = self._rects
                    room = self._room_bytes
                    paused = self._walk is not None
                    continue
                size = encoding.measure(buf, pos + 12, stop, w, h, state)
                if size < 0:
                    break
                self._pseudo_room_bytes -= size
                if self._pseudo_room_bytes < 0:
                    raise Violation(
                        "update-length",
                        f"more than {PSEUDO_LIMIT_BYTES} bytes besides pixels in one update",
                    )
                dropped = encoding.applied(buf, pos + 12, x, y, w, h, state)
                dropped = dropped or (hidden and encoding.in_pixel_format)
                if state.width != width or state.height != height:
                    width, height = state.width, state.height
                    room = max(room, self._update_limit_bytes())
                if observer is not None:
                    observer("rectangle", number, self.offset + pos - start)
                walk = encoding.behind(buf, pos + 12, w, h)
                pos += 12 + size
                if walk is not None:
                    self._rects = left
                    self._room_bytes = room
                    self._begin(encoding, walk)
                    pos = self._resume(buf, pos, stop)
                    left = self._rects
                    room = self._room_bytes
                    paused = self._walk is not None
                    continue
                left -= 1
                if dropped:
                    pos = self._drop_rectangle(buf, pos - 12 - size, pos, stop)
            if not left:
                self.flow.update_ends(painted)
        except Violation as violation:
            encoding = encoding or allowed.get(number)
            name = f" > {encoding.name}" if encoding else ""
            where = f"FramebufferUpdate > rectangle {self._count - left}{name}"
            at = pos if violation.at is None else violation.at
            raise self._error(violation, where, buf, at, start, stop) from None
        self._rects = left
        self._room_bytes = room
        self._painted = painted
        if painted:
            self._shown = True
        if pos == first:
            return NEED
        return self._body(first, pos, stop)

    def _drop_rectangle(self, buf: bytearray, pos: int, end: int, stop: int) -> int:
        """An update has said how many rectangles it has, so in the place of one that is not for
        the viewer goes an empty one in Raw. As `_drop`."""
        buf[pos : pos + 12] = bytes(12)
        if end > pos + 12:
            return self._drop(pos + 12, end, stop)
        return end

    def _begin(self, encoding: Encoding, walk: Generator[int, Window, int]) -> None:
        self._walk = walk
        self._walking = encoding
        next(walk)

    def _resume(self, buf: bytearray, pos: int, stop: int) -> int:
        """Lets the walk read on; a walk that ends has read its rectangle."""
        assert self._walk is not None
        try:
            end: int = self._walk.send((buf, pos, stop))
        except StopIteration as done:
            self._walk = None
            self._rects -= 1
            end = done.value
        self._walked_bytes += end - pos
        if self._walk is None:
            self._room_bytes -= self._walked_bytes
            self._walked_bytes = 0
            if self._room_bytes < 0:
                # Where it began has long been forwarded, or not: that is up to the chunks.
                raise self._too_long(end)
        return end

    def _update_limit_bytes(self) -> int:
        """Encoded pixels that one update may have."""
        state = self.state
        return 4 * state.width * state.height * state.bytes_per_pixel + _UPDATE_SLACK_BYTES

    def _too_long(self, at: int | None = None) -> Violation:
        limit = self._update_limit_bytes()
        return Violation("update-length", f"more than {limit} bytes of pixels in one update", at)

    def _framebuffer_update(self, buf: bytearray, pos: int, stop: int) -> int:
        if stop - pos < 4:
            return NEED
        buf[pos + 1] = 0
        # 65535 is no special number: with LastRect any update may end early, without it none.
        self._rects = self._count = _two(buf, pos)[1]
        self._hidden = self.flow.update_begins()
        self._room_bytes = self._update_limit_bytes()
        self._pseudo_room_bytes = PSEUDO_LIMIT_BYTES
        if not self._count:
            self.flow.update_ends(False)
        return pos + 4

    def _set_colour_map_entries(self, buf: bytearray, pos: int, stop: int) -> int:
        if stop - pos < 6:
            return NEED
        first, count = _two(buf, pos + 2)
        if first + count > 65_536:
            raise Violation("colour-map", f"{count} entries from {first}")
        end = pos + 6 + 6 * count
        if self.state.pixel_format.true_colour:
            # noVNC ends its session on any colour map; in true colour it means nothing anyway.
            return self._drop(pos, end, stop)
        if first + count > 1 << self.state.pixel_format.bits_per_pixel:
            raise Violation("colour-map", f"{count} entries from {first}")
        buf[pos + 1] = 0
        return self._body(pos, end, stop)

    def _bell(self, buf: bytearray, pos: int, stop: int) -> int:
        if not self._bells.allows():
            return self._drop(pos, pos + 1, stop)
        return pos + 1

    def _server_cut_text(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        rights = state.rights
        reached = self._cut_text(
            buf,
            pos,
            stop,
            extended=encodings.EXTENDED_CLIPBOARD in state.offered,
            own=rights.clipboard_out,
            other=rights.clipboard_in,
        )
        if reached != NEED and clipboard.is_capabilities(buf, pos):
            # From now on the viewer may send extended messages too.
            state.extended_clipboard = True
        return reached

    def _end_of_continuous_updates(self, buf: bytearray, pos: int, stop: int) -> int:
        if encodings.CONTINUOUS_UPDATES not in self.state.offered:
            raise Violation("continuous-updates-not-offered", "continuous updates were not offered")
        if not self.flow.updates_end():
            return self._drop(pos, pos + 1, stop)
        return pos + 1

    def _xvp(self, buf: bytearray, pos: int, stop: int) -> int:
        if encodings.XVP not in self.state.offered:
            raise Violation("xvp-not-offered", "xvp was not offered")
        if stop - pos < 4:
            return NEED
        if buf[pos + 3] > 1:
            raise Violation("xvp-code", f"xvp code {buf[pos + 3]}")
        buf[pos + 1] = 0
        # 1 is XVP_INIT; 0 that something asked for failed.
        self.state.xvp = self.state.xvp or buf[pos + 3] == 1
        return pos + 4

    def _gii(self, buf: bytearray, pos: int, stop: int) -> int:
        if encodings.GII not in self.state.offered:
            raise Violation("gii-not-offered", "gii was not offered")
        if stop - pos < 4:
            return NEED
        self.state.gii = True
        return self._body(pos, pos + 4 + gii_length(buf, pos), stop)

    def _qemu(self, buf: bytearray, pos: int, stop: int) -> int:
        if stop - pos < 4:
            return NEED
        (operation,) = _two(buf, pos)[1:]
        if buf[pos + 1] != 1 or operation > _AUDIO_DATA:
            raise Violation("qemu-submessage", f"QEMU message {buf[pos + 1]}, {operation}")
        if not self.state.audio_enabled:
            raise Violation("audio-not-enabled", "audio that the viewer did not ask for")
        if operation != _AUDIO_DATA:
            return pos + 4
        if stop - pos < 8:
            return NEED
        (length,) = _flags(buf, pos + 4)
        if length > AUDIO_LIMIT_BYTES:
            raise Violation("audio-length", f"{length} bytes of audio")
        return self._body(pos, pos + 8 + int(length), stop)

    def _fence(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        if encodings.FENCE not in state.offered:
            raise Violation("fence-not-offered", "fences were not offered")
        if stop - pos < 9:
            return NEED
        length = buf[pos + 8]
        if length > FENCE_LIMIT_BYTES:
            return self._skip_long_fence(buf, pos, stop)
        end = pos + 9 + length
        if stop < end:
            return NEED
        buf[pos + 1 : pos + 4] = b"\0\0\0"
        state.fences = True
        (flags,) = _flags(buf, pos + 4)
        if not flags & FENCE_REQUEST:
            # noVNC ends its session on a fence that is no request. Only answers to what the
            # viewer asked go through.
            if buf.startswith(OUR_FENCE, pos + 9, end):
                self.flow.fence_answered(bytes(buf[pos + 9 : end]))
                return self._drop(pos, end, stop)
            if not state.fence_replies_due:
                return self._drop(pos, end, stop)
            state.fence_replies_due -= 1
        else:
            state.fence_answers_due += 1
            if len(self.cuts) < CUTS_LIMIT:
                self.cuts.append(end)
        return end


def _outside(x: int, y: int, w: int, h: int, width: int, height: int) -> Violation:
    return Violation(
        "rectangle-outside", f"{w}x{h} at {x},{y} outside the framebuffer of {width}x{height}"
    )


Check = Callable[[FromDesktop, bytearray, int, int], int]

_MESSAGES: dict[int, tuple[str, Check]] = {
    0: ("FramebufferUpdate", FromDesktop._framebuffer_update),
    1: ("SetColourMapEntries", FromDesktop._set_colour_map_entries),
    2: ("Bell", FromDesktop._bell),
    3: ("ServerCutText", FromDesktop._server_cut_text),
    150: ("EndOfContinuousUpdates", FromDesktop._end_of_continuous_updates),
    248: ("ServerFence", FromDesktop._fence),
    250: ("xvp", FromDesktop._xvp),
    253: ("gii", FromDesktop._gii),
    255: ("QEMU audio", FromDesktop._qemu),
}
