"""WebSocket framing (RFC 6455, Section 5), both roles, without I/O.

The handshake is not here: Hypercorn does the server's, and relay/dialling/workspace_agent.py the
client's. No extension is ever negotiated, so every reserved bit is a fault. RFB is binary; a text
frame is refused.
"""

from __future__ import annotations

import codecs
import struct

from relay.rfb.errors import CloseCode, Direction, ProtocolError

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

NO_CODE = 1005
"""In the place of the code of a close frame that has none (RFC 6455, Section 7.4.1)."""

CONTROL_LIMIT_BYTES = 125
"""Payload of a control frame (RFC 6455, Section 5.5)."""

FLOOD_FRAMES = 1000
"""Frames in a row that bring nothing: pings and pongs, empty ones, and pieces of a message below
FRAGMENT_BYTES that do not end it. More within FLOOD_S is an attack: a viewer pings once in seconds,
noVNC sends every message whole, and browsers and proxies that cut a large one cut it into
kilobytes."""

FLOOD_S = 20.0
"""Whoever reads calls `calm` so often. A pong a ping comes to FLOOD_FRAMES, too, where somebody
watches a desktop that shows nothing new for hours."""

FRAGMENT_BYTES = 32
"""Payload from which a piece of a message counts as bringing something: well above its header of
6 bytes, well below the smallest buffer anyone cuts a message by."""

_SHORT_BYTES = 125
"""The longest payload whose length is in the second byte (RFC 6455, Section 5.2)."""

_FINAL = 0x80
_MASKED = 0x80
_short_header = struct.Struct(">BB").pack
_medium_header = struct.Struct(">BBH").pack
_long_header = struct.Struct(">BBQ").pack
_u16 = struct.Struct(">H")
_u64 = struct.Struct(">Q")


def header(opcode: int, length: int, mask: bytes = b"") -> bytes:
    """The header of one final frame of `length` payload bytes; `mask` is the client's four
    bytes, and empty for a server (RFC 6455, Section 5.2)."""
    bit = _MASKED if mask else 0
    if length < 126:
        return _short_header(_FINAL | opcode, bit | length) + mask
    if length < 65_536:
        return _medium_header(_FINAL | opcode, bit | 126, length) + mask
    return _long_header(_FINAL | opcode, bit | 127, length) + mask


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """One whole frame."""
    body = masked(payload, mask) if mask else payload
    return header(opcode, len(payload), mask) + body


def masked(data: bytes | bytearray | memoryview, mask: bytes | bytearray) -> bytes:
    """`data` XOR the repeated four bytes of `mask`; its own inverse (RFC 6455, Section 5.3)."""
    # One XOR of two large integers: 0.4 us for a pointer event, about 3 ns a byte for a large
    # frame, where a loop over the bytes costs 60.
    length = len(data)
    key = mask * (length // 4 + 1)
    whole = int.from_bytes(data, "big") ^ int.from_bytes(key[:length], "big")
    return whole.to_bytes(length, "big")


def close_payload(code: int, reason: str) -> bytes:
    """The body of a close frame, the reason cut to what fits (RFC 6455, Section 5.5.1). Empty for
    code 1005, which stands for none."""
    if code == NO_CODE:
        return b""
    text = reason.encode()[: CONTROL_LIMIT_BYTES - 2].decode("utf-8", "ignore")
    return _u16.pack(code) + text.encode()


def parse_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame; code 1005 stands for none. Raises ValueError for what
    RFC 6455, Section 7.4, does not allow on the wire, and UnicodeDecodeError, which is one, for a
    reason that is not UTF-8."""
    if not payload:
        return NO_CODE, ""
    if len(payload) == 1:
        raise ValueError("a close frame of one byte")
    (code,) = _u16.unpack_from(payload)
    registered = 1000 <= code <= 1003 or 1007 <= code <= 1014
    if not registered and not 3000 <= code <= 4999:
        raise ValueError(f"close code {code}")
    return code, payload[2:].decode("utf-8")


class FrameReader:
    """Takes the frames of one peer apart.

    `unframe` works in the caller's buffer. Control frames collect in `controls` as (opcode,
    payload), in order; the caller takes them out. `mask_expected` is true for a server, whose
    peer must mask, and false for a client, whose peer must not. `limit_bytes` bounds one frame.
    `closed` tells that the peer's close frame was read, `reached` where the payload in front of a
    fault ends.
    """

    _whole_messages = False

    __slots__ = (
        "_control",
        "_flood",
        "_frame_at",
        "_head",
        "_left",
        "_limit_bytes",
        "_mask",
        "_mask_expected",
        "_message",
        "_opcode",
        "_over",
        "_short",
        "_streamed",
        "closed",
        "controls",
        "offset",
        "reached",
    )

    def __init__(self, *, mask_expected: bool, limit_bytes: int) -> None:
        self._mask_expected = mask_expected
        self._limit_bytes = limit_bytes
        # What a whole masked frame may have to be taken in one step; nothing where none may be.
        one_step = mask_expected and not self._whole_messages
        self._short = min(limit_bytes, _SHORT_BYTES) if one_step else 0
        # The start of a header, until it is whole: at most 13 bytes.
        self._head = b""
        # Of a continuation: the opcode of its message.
        self._opcode = BINARY
        self._left = 0
        self._mask = b""
        # Whether the payload of this frame stays in the caller's buffer.
        self._streamed = True
        # The opcode of the message that is under way; 0 where none is.
        self._message = 0
        self._control = b""
        self._flood = 0
        # By a close frame or by a fault: what follows is discarded.
        self._over = False
        # The offset of the frame being read; a fault is told there, however its bytes came.
        self._frame_at = 0
        self.closed = False
        self.controls: list[tuple[int, bytes]] = []
        self.offset = 0
        self.reached = 0

    def calm(self) -> None:
        """What has come so far is no flood."""
        self._flood = 0

    def unframe(self, buf: bytearray, pos: int, stop: int) -> int:
        """Reads the frames in `buf[pos:stop]` and moves their binary payload together at `pos`.

        Returns where that payload ends. Nothing of a frame is held back but the start of a
        header and of a control frame. What follows a close frame is discarded (RFC 6455,
        Section 1.4), and what follows a fault (Section 7.1.7). Raises ProtocolError; then
        `reached` is where the payload in front of the fault ends.
        """
        start = out = pos
        left = self._left
        try:
            while pos < stop:
                if not left:
                    if self._over:
                        break
                    # What a viewer mostly sends: a short message in one frame, all of it here.
                    # 1.6 us for an update request, 3.5 by way of the header's every case.
                    if buf[pos] == _FINAL | BINARY and pos + 6 < stop and not self._head:
                        count = buf[pos + 1] - _MASKED
                        behind = pos + 6 + count
                        if 0 < count <= self._short and behind <= stop and not self._message:
                            key = buf[pos + 2 : pos + 6]
                            buf[out : out + count] = masked(buf[pos + 6 : behind], key)
                            out += count
                            pos = behind
                            self._flood = 0
                            continue
                    pos = self._begin(buf, pos, stop, pos - start)
                    left = self._left
                    continue
                count = min(left, stop - pos)
                mask = self._mask
                if mask:
                    data: bytes | bytearray = masked(buf[pos : pos + count], mask)
                    turn = count & 3
                    if turn:
                        self._mask = mask[turn:] + mask[:turn]
                else:
                    data = buf[pos : pos + count]
                left -= count
                self._left = left
                pos += count
                if self._streamed:
                    buf[out : out + count] = data
                    out += count
                else:
                    self._collect(data, left)
        except ProtocolError:
            self.reached = out
            raise
        self.offset += stop - start
        return out

    def _begin(self, buf: bytearray, pos: int, stop: int, consumed: int) -> int:
        """Reads a header at `pos`, perhaps in several calls; returns where its payload begins."""
        held = len(self._head)
        self._frame_at = self.offset + consumed - held
        behind = pos + 14 - held
        head = self._head + bytes(buf[pos : behind if behind < stop else stop])
        if len(head) < 2:
            self._head = head
            return stop
        first, second = head[0], head[1]
        size = 2 + (4 if second & _MASKED else 0)
        length = second & 127
        if length > 125:
            size += 2 if length == 126 else 8
        self._check(first, second, length)
        if len(head) < size:
            self._head = head
            return stop
        self._head = b""
        if length == 126:
            length = _u16.unpack_from(head, 2)[0]
            legal = length > 125
        elif length == 127:
            length = _u64.unpack_from(head, 2)[0]
            legal = 65_535 < length < 1 << 63
        else:
            legal = True
        if not legal:
            raise self._fault("frame-length", "a frame length in too many bytes, or past 63 bits")
        if length > self._limit_bytes:
            raise self._fault("frame-size", f"a frame of {length} bytes", CloseCode.TOO_BIG)
        opcode = first & 15
        self._left = length
        self._mask = head[size - 4 : size] if second & _MASKED else b""
        if opcode < CLOSE:
            opcode = opcode or self._message
            final = first >= _FINAL
            self._message = 0 if final else opcode
            self._streamed = not self._whole_messages
            if length >= FRAGMENT_BYTES or (length and final):
                self._flood = 0
            else:
                self._flooded("fragment-flood")
        else:
            self._streamed = False
            if opcode != CLOSE:
                self._flooded("control-flood")
        self._opcode = opcode
        if not length and not self._streamed:
            self._collect(b"", 0)
        return pos + size - held

    def _check(self, first: int, second: int, length: int) -> None:
        """What the first two bytes of a header must not say (RFC 6455, Section 5.2)."""
        opcode = first & 15
        if first & 0x70:
            raise self._fault("frame-reserved-bit", "a reserved bit is set")
        if bool(second & _MASKED) is not self._mask_expected:
            raise self._fault("frame-mask", "masked as only the other side must")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise self._fault("frame-opcode", f"opcode {opcode}")
            if first < _FINAL or length > CONTROL_LIMIT_BYTES:
                raise self._fault("control-frame", "a control frame in pieces, or too long")
        elif opcode == TEXT and not self._whole_messages:
            raise self._fault(
                "text-frame", "a text frame where RFB is binary", CloseCode.TEXT_FRAME
            )
        elif opcode > BINARY:
            raise self._fault("frame-opcode", f"opcode {opcode}")
        elif (opcode == CONTINUATION) is (self._message == 0):
            raise self._fault(
                "frame-order", "a message begins inside another, or goes on from none"
            )

    def _flooded(self, rule: str) -> None:
        self._flood += 1
        if self._flood > FLOOD_FRAMES:
            raise self._fault(rule, "a flood of frames that bring nothing", CloseCode.POLICY)

    def _collect(self, data: bytes | bytearray, left: int) -> None:
        """Takes a part of a control frame, `left` bytes before its end."""
        self._control += data
        if left:
            return
        if self._opcode == CLOSE:
            try:
                parse_close(self._control)
            except UnicodeDecodeError:
                text = "a close reason that is not UTF-8"
                raise self._fault("close-payload", text, CloseCode.NOT_UTF8) from None
            except ValueError as error:
                raise self._fault("close-payload", str(error)) from None
            self._over = self.closed = True
        self.controls.append((self._opcode, self._control))
        self._control = b""

    def _fault(
        self, rule: str, text: str, code: CloseCode = CloseCode.WEBSOCKET_FAULT
    ) -> ProtocolError:
        self._over = True
        self._left = 0
        return ProtocolError(
            rule,
            text,
            direction=Direction.UP if self._mask_expected else Direction.DOWN,
            offset=self._frame_at,
            where="WebSocket frame",
            close_code=code,
        )


class MessageReader(FrameReader):
    """Takes whole messages, text too, from a peer that does not speak RFB.

    They collect in `controls` among the control frames, in order, as (opcode, payload); `unframe`
    returns where it began. `limit_bytes` bounds one message. Text that is not UTF-8 is a fault as
    soon as it shows, not at the message's end (RFC 6455, Section 8.1), with close code 1007.
    """

    __slots__ = ("_payload", "_utf8")

    _whole_messages = True

    def __init__(self, *, mask_expected: bool, limit_bytes: int) -> None:
        super().__init__(mask_expected=mask_expected, limit_bytes=limit_bytes)
        self._payload = bytearray()
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    def _collect(self, data: bytes | bytearray, left: int) -> None:
        opcode = self._opcode
        if opcode >= CLOSE:
            return super()._collect(data, left)
        if len(self._payload) + len(data) + left > self._limit_bytes:
            raise self._fault("message-size", "a message over the limit", CloseCode.TOO_BIG)
        ended = not left and not self._message
        if opcode == TEXT:
            try:
                self._utf8.decode(data, ended)
            except UnicodeDecodeError:
                text = "text that is not UTF-8"
                raise self._fault("text-utf8", text, CloseCode.NOT_UTF8) from None
        self._payload += data
        if ended:
            self.controls.append((opcode, bytes(self._payload)))
            self._payload.clear()
        return None
