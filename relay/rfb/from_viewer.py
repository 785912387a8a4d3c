"""Reads what the viewer sends after the handshake (RFC 6143, Section 7.5)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from relay.rfb import encodings, pixel_format
from relay.rfb.area import Area
from relay.rfb.errors import CloseCode, Direction, Violation
from relay.rfb.fences import FENCE_LIMIT_BYTES, FENCE_REQUEST, OUR_FENCE
from relay.rfb.flow import Flow
from relay.rfb.ledger import Ledger
from relay.rfb.rate import Rate
from relay.rfb.reader import NEED, Reader, gii_length
from relay.rfb.state import State

_count = struct.Struct(">H").unpack_from
_area = struct.Struct(">HHHH")
_point = struct.Struct(">HH")
_keysym = struct.Struct(">I").unpack_from
_extended_key = struct.Struct(">HII").unpack_from
_flags = struct.Struct(">I").unpack_from
_screen = struct.Struct(">IHHHHI").unpack_from

TAIL_LIMIT_BYTES = 4 + 4 * 1024
"""The longest message that is read as a whole: SetEncodings with as many entries as the default
limit allows."""

KEYS_PER_S = 2000
"""Presses of keys, and twice as many at once: a text that is pasted as keys passes. What presses
more is no person, and the others are left out."""

_NOWHERE = (-1, -1)
_MAX_SCREENS = 16
_AUDIO_ENABLE, _AUDIO_DISABLE, _AUDIO_FORMAT = 0, 1, 2


class FromViewer(Reader):
    """The up direction. See `Reader` for the contract.

    Every message but the body of a cut text is approved whole, so that it can be written in one
    send: TigerVNC up to 1.16.2 loses step when a SetDesktopSize arrives in pieces.

    `inputs` counts what a person does: keys, pointer, clipboard. Update requests and fences
    come by themselves. `ledger` has what the person holds down. `filler` is a byte with which
    opaque bytes may end where the viewer's are not to be had: space, or zero in what is no text.
    """

    direction = Direction.UP
    close_code = CloseCode.POLICY

    __slots__ = ("_keys", "_move", "filler", "inputs", "ledger")

    def __init__(self, state: State, flow: Flow, clock: Callable[[], float] | None) -> None:
        super().__init__(state, flow)
        self._keys = Rate(KEYS_PER_S, 2 * KEYS_PER_S, clock)
        # What a body under way may end with where its rest is not to be had.
        self.filler = b" "
        self.inputs = 0
        self.ledger = Ledger()
        # Where the last pure move is in the window, if the next message may replace it.
        self._move = _NOWHERE

    def judge(self, buf: bytearray, pos: int, stop: int) -> int:
        """Approves as far as `buf[pos:stop]` allows; see `Reader`. Raises ProtocolError; then
        `offset` and `edits` say what was approved before.
        """
        start = pos
        self._move = _NOWHERE
        if self.edits:
            self.edits.clear()
        if self.opaque:
            pos = self._pass_opaque(pos, stop)
        while pos < stop:
            message = _MESSAGES.get(buf[pos])
            try:
                if message is None:
                    raise Violation("message-type", f"message type {buf[pos]} is not let through")
                _, head, check = message
                if stop - pos < head:
                    break
                reached = check(self, buf, pos, stop)
            except Violation as violation:
                where = message[0] if message else "message type"
                error = self._error(violation, where, buf, pos, start, stop)
                # What came before it has passed, and counts.
                self.offset += pos - start
                raise error from None
            if reached == NEED:
                break
            self.messages += 1
            if self.observer is not None:
                self.observer("message", buf[pos], self.offset + pos - start)
            pos = reached
        self.offset += pos - start
        return pos

    def _set_pixel_format(self, buf: bytearray, pos: int, stop: int) -> int:
        try:
            wanted = pixel_format.parse(buf, pos + 4)
        except ValueError as error:
            raise Violation("pixel-format", str(error)) from None
        buf[pos + 1 : pos + 4] = b"\0\0\0"
        buf[pos + 4 : pos + 20] = wanted.pack()
        instead = self.flow.pixel_format(wanted)
        if instead is not None:
            self.edits.append((pos, pos + 20, instead))
        return pos + 20

    def _set_encodings(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        count: int = _count(buf, pos + 2)[0]
        if count > state.bounds.encodings_count:
            raise Violation("encodings-count", f"{count} encodings")
        end = pos + 4 + 4 * count
        if stop < end:
            return NEED
        listed = struct.unpack_from(f">{count}i", buf, pos + 4)
        kept = [number for number in listed if number in state.let_through or _is_level(number)]
        behind = self.flow.encodings(frozenset(kept))
        buf[pos + 1] = 0
        if len(kept) != count or behind:
            message = struct.pack(f">BxH{len(kept)}i", 2, len(kept), *kept)
            self.edits.append((pos, end, message + behind))
        return end

    def _crop(self, buf: bytearray, at: int) -> Area:
        """An area beyond the framebuffer is cropped, never refused: viewers send stale sizes
        right after a resize (community specification, FramebufferUpdateRequest)."""
        area = _area.unpack_from(buf, at)
        x, y, w, h = area
        state = self.state
        if x + w > state.width or y + h > state.height:
            area = state.crop(x, y, w, h)
            _area.pack_into(buf, at, *area)
        return area

    def _framebuffer_update_request(self, buf: bytearray, pos: int, stop: int) -> int:
        if buf[pos + 1] > 1:
            buf[pos + 1] = 1
        area = self._crop(buf, pos + 2)
        if not self.flow.request(buf[pos + 1], area):
            return self._drop(pos, pos + 10, stop)
        return pos + 10

    def _key_event(self, buf: bytearray, pos: int, stop: int) -> int:
        self.inputs += 1
        if not self.state.rights.keyboard:
            return self._drop(pos, pos + 8, stop)
        if buf[pos + 1] > 1:
            buf[pos + 1] = 1
        buf[pos + 2 : pos + 4] = b"\0\0"
        down = buf[pos + 1] != 0
        if down and not self._keys.allows():
            return self._drop(pos, pos + 8, stop)
        self._release(self.ledger.key(_keysym(buf, pos + 4)[0], down))
        return pos + 8

    def _release(self, messages: bytes) -> None:
        if messages:
            self.flow.releases += messages
            self.flow.wake = True

    def _pointer_event(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        end = pos + 6
        buttons = buf[pos + 1]
        # Bit 7 is the eighth button, until extended buttons make it announce a seventh byte.
        if (
            buttons > 127
            and state.extended_buttons
            and encodings.EXTENDED_MOUSE_BUTTONS in state.listed
        ):
            end = pos + 7
            if stop < end:
                return NEED
            buttons = buttons & 127 | buf[pos + 6] << 7
        self.inputs += 1
        if not state.rights.pointer:
            return self._drop(pos, end, stop)
        x, y = _point.unpack_from(buf, pos + 2)
        if state.pointer_relative:
            x, y = self.ledger.x, self.ledger.y
        elif x >= state.width or y >= state.height:
            x, y = min(x, state.width - 1), min(y, state.height - 1)
            _point.pack_into(buf, pos + 2, x, y)
        ledger = self.ledger
        if (
            self.flow.desktop_behind
            and buttons == ledger.buttons
            and not state.pointer_relative  # deltas add up
        ):
            # A move behind a move, with the same buttons: the desktop need not see the first.
            if self._move[1] == pos:
                self._forget(*self._move)
            self._move = pos, end
        ledger.pointer(buttons, x, y)
        return end

    def _forget(self, pos: int, end: int) -> None:
        """Takes back a message in front of the one being read."""
        if self.edits and self.edits[-1][1:] == (pos, b""):
            pos = self.edits.pop()[0]
        self.edits.append((pos, end, b""))

    def _client_cut_text(self, buf: bytearray, pos: int, stop: int) -> int:
        rights = self.state.rights
        reached = self._cut_text(
            buf,
            pos,
            stop,
            extended=self.state.extended_clipboard,
            own=rights.clipboard_in,
            other=rights.clipboard_out,
        )
        if reached != NEED:
            self.inputs += 1
            self.filler = b" "
        return reached

    def _enable_continuous_updates(self, buf: bytearray, pos: int, stop: int) -> int:
        if not self.state.continuous_updates:
            raise Violation(
                "continuous-updates-not-confirmed",
                "the desktop has not said that it can do continuous updates",
            )
        if buf[pos + 1] > 1:
            buf[pos + 1] = 1
        area = self._crop(buf, pos + 2)
        if not self.flow.enable(buf[pos + 1] != 0, area):
            return self._drop(pos, pos + 10, stop)
        return pos + 10

    def _fence(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        if not state.fences:
            raise Violation("fence-not-confirmed", "the desktop has not said that it can do fences")
        length = buf[pos + 8]
        if length > FENCE_LIMIT_BYTES:
            return self._skip_long_fence(buf, pos, stop)
        end = pos + 9 + length
        if stop < end:
            return NEED
        buf[pos + 1 : pos + 4] = b"\0\0\0"
        (flags,) = _flags(buf, pos + 4)
        if flags & FENCE_REQUEST:
            if buf.startswith(OUR_FENCE, pos + 9, end) and not self.flow.passive:
                raise Violation("fence-payload", "a fence that looks like the relay's own")
            state.fence_replies_due += 1
        elif state.fence_answers_due:
            state.fence_answers_due -= 1
        else:
            return self._drop(pos, end, stop)
        return end

    def _set_desktop_size(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        if not state.extended_desktop_size:
            raise Violation(
                "resize-not-confirmed", "the desktop has not said that it can be resized"
            )
        width, height = _point.unpack_from(buf, pos + 2)
        screens = buf[pos + 6]
        bounds = state.bounds
        if (
            not 0 < width <= bounds.framebuffer_side_px
            or not 0 < height <= bounds.framebuffer_side_px
            or width * height > bounds.framebuffer_px
        ):
            raise Violation("framebuffer-size", f"a framebuffer of {width}x{height}")
        if not 1 <= screens <= _MAX_SCREENS:
            raise Violation("screens", f"{screens} screens")
        end = pos + 8 + 16 * screens
        if stop < end:
            return NEED
        seen = set()
        for at in range(pos + 8, end, 16):
            number, x, y, w, h, _flags_of_screen = _screen(buf, at)
            if x + w > width or y + h > height or number in seen:
                raise Violation("screens", f"screen {number} outside {width}x{height}, or twice")
            seen.add(number)
        if not state.rights.resize:
            return self._drop(pos, end, stop)
        buf[pos + 1] = buf[pos + 7] = 0
        return end

    def _qemu(self, buf: bytearray, pos: int, stop: int) -> int:
        check = _QEMU.get(buf[pos + 1])
        if check is None:
            raise Violation("qemu-submessage", f"QEMU submessage {buf[pos + 1]} is not let through")
        return check(self, buf, pos, stop)

    def _qemu_key(self, buf: bytearray, pos: int, stop: int) -> int:
        if not self.state.extended_keys:
            raise Violation(
                "extended-keys-not-confirmed",
                "the desktop has not said that it takes extended keys",
            )
        if stop - pos < 12:
            return NEED
        self.inputs += 1
        if not self.state.rights.keyboard:
            return self._drop(pos, pos + 12, stop)
        down, keysym, keycode = _extended_key(buf, pos + 2)
        if down and not self._keys.allows():
            return self._drop(pos, pos + 12, stop)
        self._release(self.ledger.extended_key(keysym, keycode, down != 0))
        return pos + 12

    def _qemu_audio(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        if not state.audio:
            raise Violation("audio-not-confirmed", "the desktop has not said that it has audio")
        if stop - pos < 4:
            return NEED
        (operation,) = _count(buf, pos + 2)
        if operation == _AUDIO_ENABLE:
            state.audio_enabled = True
        elif operation == _AUDIO_FORMAT:
            if stop - pos < 10:
                return NEED
            if buf[pos + 4] > 5 or buf[pos + 5] not in (1, 2):
                raise Violation(
                    "audio-format", f"sample format {buf[pos + 4]} in {buf[pos + 5]} channels"
                )
            return pos + 10
        elif operation != _AUDIO_DISABLE:
            raise Violation("audio-operation", f"audio operation {operation}")
        return pos + 4

    def _xvp(self, buf: bytearray, pos: int, stop: int) -> int:
        if not self.state.xvp:
            raise Violation("xvp-not-confirmed", "the desktop has not said that it can do xvp")
        if buf[pos + 2] != 1 or buf[pos + 3] not in (2, 3, 4):
            raise Violation("xvp-code", f"xvp version {buf[pos + 2]}, code {buf[pos + 3]}")
        buf[pos + 1] = 0
        if not self.state.rights.power:
            return self._drop(pos, pos + 4, stop)
        return pos + 4

    def _gii(self, buf: bytearray, pos: int, stop: int) -> int:
        state = self.state
        if not state.gii:
            raise Violation("gii-not-confirmed", "the desktop has not said that it can do gii")
        end = pos + 4 + gii_length(buf, pos)
        self.inputs += 1
        # Its devices can be anything; what they hold down the relay does not know.
        if not (state.rights.keyboard and state.rights.pointer):
            return self._drop(pos, end, stop)
        self.filler = b"\0"
        return self._body(pos, end, stop)


def _is_level(number: int) -> bool:
    return any(number in levels for levels in encodings.LEVELS)


Check = Callable[[FromViewer, bytearray, int, int], int]

_QEMU: dict[int, Check] = {0: FromViewer._qemu_key, 1: FromViewer._qemu_audio}

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
    250: ("xvp", 4, FromViewer._xvp),
    251: ("SetDesktopSize", 8, FromViewer._set_desktop_size),
    253: ("gii", 4, FromViewer._gii),
    255: ("QEMU message", 2, FromViewer._qemu),
}
