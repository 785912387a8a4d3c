"""WebSocket framing (RFC 6455, Section 5), both roles, without I/O.

The handshake is not here: Hypercorn does the server's, trio-websocket the client's. No extension
is ever negotiated, so every reserved bit is a fault. RFB is binary; a text frame is refused.
"""

from __future__ import annotations

import struct

from relay.rfb.errors import CloseCode, Direction, ProtocolError

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

CONTROL_LIMIT_BYTES = 125
"""Payload of a control frame (RFC 6455, Section 5.5)."""

CONTROL_FLOOD_FRAMES = 1000
"""Control frames in a row without a byte of payload between; more is an attack, not a viewer."""

_MASKED = 0x80
_u16 = struct.Struct(">H")
_u64 = struct.Struct(">Q")


def header(opcode: int, length: int, mask: bytes = b"") -> bytes:
    """The header of one final frame of `length` payload bytes; `mask` is the client's four
    bytes, and empty for a server (RFC 6455, Section 5.2)."""
    bit = _MASKED if mask else 0
    if length < 126:
        return bytes((0x80 | opcode, bit | length)) + mask
    if length < 65_536:
        return bytes((0x80 | opcode, bit | 126)) + _u16.pack(length) + mask
    return bytes((0x80 | opcode, bit | 127)) + _u64.pack(length) + mask


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """One whole frame."""
    body = masked(payload, mask) if mask else payload
    return header(opcode, len(payload), mask) + body


def masked(data: bytes | bytearray | memoryview, mask: bytes) -> bytes:
    """`data` XOR the repeated four bytes of `mask`; its own inverse (RFC 6455, Section 5.3)."""
    # One XOR of two large integers: 0.4 us for a pointer event, about 3 ns a byte for a large
    # frame, where a loop over the bytes costs 60.
    length = len(data)
    key = mask * (length // 4 + 1)
    whole = int.from_bytes(data, "big") ^ int.from_bytes(key[:length], "big")
    return whole.to_bytes(length, "big")


def close_payload(code: int, reason: str) -> bytes:
    """The body of a close frame, the reason cut to what fits (RFC 6455, Section 5.5.1)."""
    text = reason.encode()[: CONTROL_LIMIT_BYTES - 2].decode("utf-8", "ignore")
    return _u16.pack(code) + text.encode()


def parse_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame; code 1005 stands for none. Raises ValueError for what
    RFC 6455, Section 7.4, does not allow on the wire."""
    if not payload:
        return 1005, ""
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
    peer must mask, and false for a client, whose peer must not.
    """

    __slots__ = (
        "_control",
        "_flood",
        "_head",
        "_left",
        "_limit_bytes",
        "_mask",
        "_mask_expected",
        "_message_open",
        "_opcode",
        "controls",
        "offset",
    )

    def __init__(self, *, mask_expected: bool, limit_bytes: int) -> None:
        self._mask_expected = mask_expected
        self._limit_bytes = limit_bytes
        # The start of a header, until it is whole: at most 13 bytes.
        self._head = b""
        self._opcode = BINARY
        self._left = 0
        self._mask = b""
        self._message_open = False
        self._control = b""
        self._flood = 0
        self.controls: list[tuple[int, bytes]] = []
        self.offset = 0

    def unframe(self, buf: bytearray, pos: int, stop: int) -> int:
        """Reads the frames in `buf[pos:stop]` and moves their binary payload together at `pos`.

        Returns where that payload ends. Nothing of a frame is held back but the start of a
        header and of a control frame. Raises ProtocolError.
        """
        start = out = pos
        left = self._left
        while pos < stop:
            if not left:
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
            if self._opcode < CLOSE:
                self._flood = 0
                buf[out : out + count] = data
                out += count
            else:
                self._control += data
                if not left:
                    self._control_ends(pos - start)
        self.offset += stop - start
        return out

    def _begin(self, buf: bytearray, pos: int, stop: int, consumed: int) -> int:
        """Reads a header at `pos`, perhaps in several calls; returns where its payload begins."""
        held = len(self._head)
        head = self._head + bytes(buf[pos : min(pos + 14 - held, stop)])
        if len(head) < 2:
            self._head = head
            return stop
        first, second = head[0], head[1]
        size = 2 + (4 if second & _MASKED else 0)
        length = second & 127
        if length > 125:
            size += 2 if length == 126 else 8
        if len(head) < size:
            self._check(first, second, length, consumed)
            self._head = head
            return stop
        self._head = b""
        self._check(first, second, length, consumed)
        if length == 126:
            length = _u16.unpack_from(head, 2)[0]
            minimal = length > 125
        elif length == 127:
            length = _u64.unpack_from(head, 2)[0]
            minimal = length > 65_535
        else:
            minimal = True
        if not minimal:
            raise self._fault("a frame length in more bytes than it needs", consumed)
        if length > self._limit_bytes:
            raise self._fault(f"a frame of {length} bytes", consumed, CloseCode.TOO_BIG)
        opcode = first & 15
        self._opcode = opcode
        self._left = length
        self._mask = head[size - 4 : size] if second & _MASKED else b""
        if opcode < CLOSE:
            self._message_open = first < 0x80
        else:
            self._control = b""
            if not length:
                self._control_ends(consumed)
        return pos + size - held

    def _check(self, first: int, second: int, length: int, consumed: int) -> None:
        """What the first two bytes of a header must not say (RFC 6455, Section 5.2)."""
        opcode = first & 15
        if first & 0x70:
            raise self._fault("a reserved bit is set", consumed)
        if bool(second & _MASKED) is not self._mask_expected:
            raise self._fault("masked as only the other side must", consumed)
        if opcode >= CLOSE:
            if opcode > PONG:
                raise self._fault(f"opcode {opcode}", consumed)
            if first < 0x80 or length > CONTROL_LIMIT_BYTES:
                raise self._fault("a control frame in pieces, or too long", consumed)
        elif opcode == TEXT:
            raise self._fault("a text frame where RFB is binary", consumed, CloseCode.TEXT_FRAME)
        elif opcode > BINARY:
            raise self._fault(f"opcode {opcode}", consumed)
        elif (opcode == CONTINUATION) is not self._message_open:
            raise self._fault("a message begins inside another, or goes on from none", consumed)

    def _control_ends(self, consumed: int) -> None:
        self._flood += 1
        if self._flood > CONTROL_FLOOD_FRAMES:
            raise self._fault("a flood of control frames", consumed, CloseCode.POLICY)
        if self._opcode == CLOSE:
            try:
                parse_close(self._control)
            except ValueError as error:
                raise self._fault(str(error), consumed) from None
        self.controls.append((self._opcode, self._control))
        self._control = b""

    def _fault(
        self, text: str, consumed: int, code: CloseCode = CloseCode.WEBSOCKET_FAULT
    ) -> ProtocolError:
        return ProtocolError(
            text,
            direction=Direction.UP if self._mask_expected else Direction.DOWN,
            offset=self.offset + consumed,
            where="WebSocket frame",
            close_code=code,
        )
