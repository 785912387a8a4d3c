"""What a desktop says, decoded: updates onto the canvas, clipboard, fences (RFC 6143, Section 7.6;
community specification). No I/O: whoever reads the stream feeds it, and sends `replies`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from relay.rfb import encodings
from relay.rfb.encodings.confirmations import ExtendedKeyEvent, ExtendedMouseButtons
from relay.rfb.encodings.cursor import PointerPosition
from relay.rfb.encodings.desktop_name import DesktopName
from relay.rfb.encodings.desktop_size import DesktopSize, ExtendedDesktopSize
from relay.rfb.encodings.led_state import LedState
from relay.rfb.encodings.vmware import VMwareCursorPosition
from relay.rfb.errors import Violation
from relay.rfb.fences import FENCE_LIMIT_BYTES, FENCE_REQUEST, fence
from relay.rfb.handshake import HandshakeBounds, check_size
from relay.rfb.pixels.canvas import PIECE_STEPS, Canvas, Steps
from relay.rfb.pixels.decoders import DECODERS

_FENCE_KEPT = 0x7

# Extended clipboard: the text format, and what the client may be sent (community specification,
# Extended Clipboard Pseudo-encoding).
_TEXT = 1
_CAPS, _REQUEST, _PEEK, _NOTIFY, _PROVIDE = (1 << bit for bit in range(24, 29))

_SKIPPED_AT_ONCE = 65_536

WORK_AT_ONCE_PX = 4_194_304
"""What one `feed` paints at most, and one rectangle: a desktop can ask for as much in 16 bytes as
takes milliseconds, and its client is not the only task. What else takes long counts as so much."""

_STEP_PX = 64
"""A step of a decoder takes about as long as to paint so much."""


class Bounds(HandshakeBounds, Protocol):
    """The limits that are needed here; `relay.Limits` has them."""

    @property
    def clipboard_bytes(self) -> int: ...


class Messages:
    """A desktop's stream after the handshake.

    `updates` counts FramebufferUpdates that have ended, `damages` those of them that painted.
    `answered` is the payload of the newest fence of ours that came back. `clipboard` is what the
    desktop last put there; None where it has not yet. `provided` counts how often it was given
    ours, which is when it asks if `clipboard_on_request`. `pointer` is where the desktop last put
    it, or who moves it has said here; None where nobody has. `replies` is to be sent to it.
    """

    def __init__(self, canvas: Canvas, bounds: Bounds) -> None:
        self.canvas = canvas
        self.name = b""
        self.clipboard: str | None = None
        self.updates = 0
        self.damages = 0
        self.provided = 0
        self.answered = b""
        self.replies = bytearray()
        self.fences = False
        self.extended_keys = False
        self.extended_buttons = False
        self.extended_clipboard = False
        self.clipboard_on_request = False
        self.pointer: tuple[int, int] | None = None
        # Whether all of the canvas has been painted since `forget` was called.
        self.seen = False
        # Of the canvas, what has been painted since `forget` was called; None: nobody asks.
        self._fresh: NDArray[np.bool_] | None = None
        self._offered: bytes | None = None
        self._bounds = bounds
        self.behind = False
        self._work_px = 0
        self._asked_for_ours = False
        self._data = bytearray()
        self._steps = self._run()
        self._wanted = next(self._steps)

    def feed(self, data: bytes) -> None:
        """Takes what has come, as much as may be done at once; `behind` says whether there is more,
        for which no data need be there. Raises Violation; nothing more can be fed then."""
        self._data += data
        at = 0
        self._work_px = 0
        try:
            while self._work_px < WORK_AT_ONCE_PX and len(self._data) - at >= self._wanted:
                self._work_px += _STEP_PX if self._wanted else PIECE_STEPS * _STEP_PX
                taken = bytes(memoryview(self._data)[at : at + self._wanted])
                at += self._wanted
                self._wanted = self._steps.send(taken)
        finally:
            del self._data[:at]
        self.behind = len(self._data) >= self._wanted
        if self._asked_for_ours:
            # Once, however often: 12 bytes ask for all of the clipboard.
            self._asked_for_ours = False
            self.replies += self._provide()

    def forget(self) -> None:
        """From here on it is noted what the desktop paints, for `seen`."""
        self.seen = False
        self._fresh = np.zeros(self.canvas.pixels.shape[:2], np.bool_)

    def offer(self, text: str) -> bytes:
        """The message that puts `text` on the desktop's clipboard, or says that it may be had.
        Raises ValueError for one that is no Unicode or too long: TigerVNC's server drops such a
        one, and tells nobody."""
        text = text.replace("\r\n", "\n")
        # RFC 6143, Section 7.5.6: Latin-1, lines end with a line feed.
        plain = text.encode("latin-1", "replace")
        try:
            # Lines end with CR LF, and a NUL ends the text.
            extended = text.replace("\n", "\r\n").encode() + b"\0"
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair, which is no character") from None
        size = len(extended if self.extended_clipboard else plain)
        if size > self._bounds.clipboard_bytes:
            limit = self._bounds.clipboard_bytes
            raise ValueError(f"{size} bytes of text; a clipboard has at most {limit}")
        if not self.extended_clipboard:
            return struct.pack(">BxxxI", 6, len(plain)) + plain
        self._offered = extended
        # libvncserver does not know what a notify is, and takes the text at once.
        return _extended(_NOTIFY | _TEXT) if self.clipboard_on_request else self._provide()

    def _run(self) -> Steps:
        readers: dict[int, Callable[[], Steps]] = {
            0: self._update,
            1: self._colours,
            2: self._bell,
            3: self._cut_text,
            150: self._end_of_continuous_updates,
            248: self._fence,
        }
        while True:
            kind = (yield 1)[0]
            reader = readers.get(kind)
            if reader is None:
                raise Violation("message-type", f"message type {kind}")
            yield from reader()

    def _update(self) -> Steps:
        (count,) = struct.unpack(">xH", (yield 3))
        painted = False
        number = 0
        # 65535: a LastRect tells where it ends.
        while number < count or count == 0xFFFF:
            x, y, w, h, encoding = struct.unpack(">HHHHi", (yield 12))
            if encoding == encodings.LAST_RECT:
                break
            number += 1
            pseudo = _PSEUDO.get(encoding)
            if pseudo is not None:
                yield from pseudo(self, x, y, w, h)
                continue
            decode = DECODERS.get(encoding)
            if decode is None:
                raise Violation(
                    "encoding-not-offered", f"encoding {encoding}, which was not offered"
                )
            if not encodings.REGISTRY[encoding].pixels:
                # A cursor's shape: x and y are its hot spot.
                yield from decode(self.canvas, x, y, w, h)
                self._work_px += 4 * w * h  # of which alpha is taken out
                continue
            painted = True
            self._check_area(x, y, w, h)
            yield from decode(self.canvas, x, y, w, h)
            self._work_px += w * h
            if self._fresh is not None:
                self._fresh[y : y + h, x : x + w] = True
        self.updates += 1
        self.damages += painted
        # Not before the end of an update: what an earlier one has painted may be painted anew.
        self.seen = self._fresh is None or bool(self._fresh.all())

    def _check_area(self, x: int, y: int, w: int, h: int) -> None:
        height, width = self.canvas.pixels.shape[:2]
        if x + w > width or y + h > height:
            size = f"{width}x{height}"
            raise Violation("rectangle-outside", f"{w}x{h} at {x}, {y} on a framebuffer of {size}")

    def _resize(self, width: int, height: int) -> None:
        if (height, width) == self.canvas.pixels.shape[:2]:
            return
        check_size(width, height, self._bounds)
        self.canvas.resize(width, height)
        self._work_px += width * height
        if self._fresh is not None:
            self.forget()

    def _desktop_size(self, _x: int, _y: int, w: int, h: int) -> Steps:
        self._resize(w, h)
        yield from ()

    def _extended_desktop_size(self, reason: int, status: int, w: int, h: int) -> Steps:
        (screens,) = struct.unpack(">Bxxx", (yield 4))
        if screens:
            yield 16 * screens
        # A refused request of this client leaves the size as it was.
        if reason != 1 or status == 0:
            self._resize(w, h)

    def _desktop_name(self, _x: int, _y: int, _w: int, _h: int) -> Steps:
        (length,) = struct.unpack(">I", (yield 4))
        if length > self._bounds.name_bytes:
            raise Violation("name-length", f"a name of {length} bytes")
        self.name = (yield length) if length else b""

    def _extended_key_event(self, _x: int, _y: int, _w: int, _h: int) -> Steps:
        self.extended_keys = True
        yield from ()

    def _extended_mouse_buttons(self, _x: int, _y: int, _w: int, _h: int) -> Steps:
        self.extended_buttons = True
        yield from ()

    def _led_state(self, _x: int, _y: int, _w: int, _h: int) -> Steps:
        yield 1

    def _pointer_position(self, x: int, y: int, _w: int, _h: int) -> Steps:
        self.pointer = (x, y)
        yield from ()

    def _colours(self) -> Steps:
        first, count = struct.unpack(">xHH", (yield 5))
        if first + count > 256:
            raise Violation("colour-map", f"{count} colours from {first} on")
        if count:
            colours = np.frombuffer((yield 6 * count), ">u2").reshape(count, 3)
            self.canvas.colour_map[first : first + count] = colours >> 8

    def _bell(self) -> Steps:
        # There is nobody to hear it.
        yield from ()

    def _end_of_continuous_updates(self) -> Steps:
        # Says that the desktop could; this client asks for what it wants.
        yield from ()

    def _fence(self) -> Steps:
        flags, length = struct.unpack(">xxxIB", (yield 8))
        if length > FENCE_LIMIT_BYTES:
            raise Violation("fence-length", f"a fence of {length} bytes")
        payload = (yield length) if length else b""
        self.fences = True
        if flags & FENCE_REQUEST:
            self.replies += fence(flags & _FENCE_KEPT, payload)
        else:
            self.answered = payload

    def _cut_text(self) -> Steps:
        (length,) = struct.unpack(">xxxi", (yield 7))
        if abs(length) > self._bounds.clipboard_bytes:
            # Skipped, as a viewer's is: the desktop's clipboard is not the client's fault.
            left = abs(length)
            while left:
                left -= len((yield min(left, _SKIPPED_AT_ONCE)))
        elif length >= 0:
            self.clipboard = ((yield length) if length else b"").decode("latin-1")
        elif length > -4:
            raise Violation("cut-text-length", f"a cut text of length {length}")
        else:
            self._extended_cut_text((yield -length))

    def _extended_cut_text(self, data: bytes) -> None:
        (flags,) = struct.unpack_from(">I", data)
        if flags & _CAPS:
            self.extended_clipboard = True
            self.clipboard_on_request = bool(flags & _NOTIFY)
            # What this client takes: any text that its bounds allow, at once or on request.
            takes = _CAPS | _REQUEST | _PEEK | _NOTIFY | _PROVIDE | _TEXT
            self.replies += _extended(takes, struct.pack(">I", self._bounds.clipboard_bytes))
        elif flags & _PROVIDE and flags & _TEXT:
            text = _provided(data[4:], self._bounds.clipboard_bytes)
            self._work_px += self._bounds.clipboard_bytes
            self.clipboard = self.clipboard if text is None else text
        elif flags & _NOTIFY and flags & _TEXT:
            self.replies += _extended(_REQUEST | _TEXT)
        elif flags & _PEEK:
            self.replies += _extended(_NOTIFY | (_TEXT if self._offered is not None else 0))
        elif flags & _REQUEST and flags & _TEXT and self._offered is not None:
            self._asked_for_ours = True

    def _provide(self) -> bytes:
        assert self._offered is not None
        deflater = zlib.compressobj()
        packed = deflater.compress(struct.pack(">I", len(self._offered)) + self._offered)
        # Not the stream's end, at which libvncserver ends the connection; viewers do so as well.
        packed += deflater.flush(zlib.Z_SYNC_FLUSH)
        self.provided += 1
        return _extended(_PROVIDE | _TEXT, packed)


_PSEUDO: dict[int, Callable[[Messages, int, int, int, int], Steps]] = {
    DesktopSize.number: Messages._desktop_size,
    ExtendedDesktopSize.number: Messages._extended_desktop_size,
    DesktopName.number: Messages._desktop_name,
    LedState.number: Messages._led_state,
    ExtendedKeyEvent.number: Messages._extended_key_event,
    ExtendedMouseButtons.number: Messages._extended_mouse_buttons,
    PointerPosition.number: Messages._pointer_position,
    VMwareCursorPosition.number: Messages._pointer_position,
}


def _extended(flags: int, data: bytes = b"") -> bytes:
    return struct.pack(">BxxxiI", 6, -4 - len(data), flags) + data


def _provided(packed: bytes, limit_bytes: int) -> str | None:
    """The text of a `provide`: the first of the formats, which text is. None where that is longer
    than the limit. Raises Violation."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, 4 + limit_bytes)
    except zlib.error as error:
        raise Violation("clipboard-zlib", f"a clipboard that does not inflate: {error}") from None
    if len(data) < 4:
        raise Violation("clipboard-zlib", "a clipboard without a length")
    (length,) = struct.unpack_from(">I", data)
    if length > limit_bytes:
        return None
    if length > len(data) - 4:
        raise Violation("clipboard-zlib", f"a clipboard of {len(data) - 4} bytes, not {length}")
    return data[4 : 4 + length].rstrip(b"\0").decode("utf-8", "replace").replace("\r\n", "\n")
