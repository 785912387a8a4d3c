"""The little of WebSocket (RFC 6455) that the load needs. Written for this, apart from the relay's:
a fault that both shared would not be seen."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import struct

KEY = base64.b64encode(b"the load's nonce").decode()

BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


def accept(key: str) -> str:
    """Sec-WebSocket-Accept for a key (RFC 6455, Section 4.2.2)."""
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    return base64.b64encode(digest).decode()


def switch(request: bytes) -> bytes:
    """The 101 for an upgrade request. Raises ValueError where it has no key."""
    key = re.search(rb"(?im)^sec-websocket-key: *(\S+)\r$", request)
    if key is None:
        raise ValueError("no Sec-WebSocket-Key")
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept(key[1].decode())}\r\n\r\n"
    ).encode()


def _head(opcode: int, length: int, masked: int) -> bytes:
    if length < 126:
        return bytes([0x80 | opcode, masked | length])
    if length < 65_536:
        return struct.pack(">BBH", 0x80 | opcode, masked | 126, length)
    return struct.pack(">BBQ", 0x80 | opcode, masked | 127, length)


def frame(payload: bytes, opcode: int = BINARY) -> bytes:
    """A server's frame."""
    return _head(opcode, len(payload), 0) + payload


def masked(payload: bytes, opcode: int = BINARY) -> bytes:
    """A client's frame."""
    mask = os.urandom(4)
    return _head(opcode, len(payload), 0x80) + mask + _xor(payload, mask)


def _xor(data: bytes, mask: bytes) -> bytes:
    length = len(data)
    key = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(
        length, "little"
    )


class Unmasking:
    """Takes the frames off what a client sends; `begun` once it has sent any, `closed` once it
    has sent its close."""

    def __init__(self) -> None:
        self.begun = False
        self.closed = False
        self._data = b""

    def feed(self, data: bytes) -> bytes:
        """The payload of all binary frames that are complete now. Raises ValueError."""
        self.begun = True
        data = self._data + data
        at = 0
        payload = b""
        while len(data) - at >= 6:
            length = data[at + 1] & 127
            if not data[at + 1] & 128 or length == 127:
                raise ValueError("a frame without a mask, or a large one")
            head = at + 2
            if length == 126:
                (length,) = struct.unpack_from(">H", data, head)
                head += 2
            if len(data) - head - 4 < length:
                break
            if data[at] & 15 == BINARY:
                payload += _xor(data[head + 4 : head + 4 + length], data[head : head + 4])
            self.closed |= data[at] & 15 == CLOSE
            at = head + 4 + length
        self._data = data[at:]
        return payload
