"""The load: a viewer over WebSocket or plain TCP that asks for one update after another."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.server import HEIGHT, SERVER_INIT, UPDATES, WIDTH, stamp

REQUEST = struct.pack(">BBHHHH", 3, 1, 0, 0, WIDTH, HEIGHT)


@dataclass
class Sample:
    """What one run counted: RFB bytes and updates received, in `seconds` of wall time."""

    rfb_bytes: int
    updates: int
    seconds: float
    latencies_s: list[float]


class Viewer:
    """One connection. Checks that every update arrives byte for byte."""

    def __init__(self, address: str, token: str = "") -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None
        assert parts.port is not None
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20)
        self._view = memoryview(self._buffer)
        # Bytes in the buffer that were not looked at yet, and payload left of the frame.
        self._start = self._stop = 0
        self._left = 0
        self._websocket = parts.scheme == "ws"
        if self._websocket:
            self._upgrade(parts.netloc, parts.path, token)

    def close(self) -> None:
        self._socket.close()

    def _upgrade(self, host: str, path: str, token: str) -> None:
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Coder-Session-Token: {token}\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self._socket.recv(1)
            if not byte:
                raise ConnectionError(f"the upgrade was refused: {head!r}")
            head += byte
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(f"the upgrade was refused: {head!r}")

    def send(self, data: bytes) -> None:
        if self._websocket:
            mask = os.urandom(4)
            data = (
                bytes([0x82, 0x80 | len(data)])
                + mask
                + bytes(byte ^ mask[i & 3] for i, byte in enumerate(data))
            )
        self._socket.sendall(data)

    def _fill(self) -> None:
        if self._start == self._stop:
            self._start = self._stop = 0
        count = self._socket.recv_into(self._view[self._stop :])
        if not count:
            raise ConnectionError("the connection ended")
        self._stop += count

    def _next_frame(self) -> None:
        """Reads frame headers up to a binary frame with payload."""
        while not self._left:
            while self._stop - self._start < 2 or self._stop - self._start < self._head_size():
                # A header at the very end of the buffer has no room for its rest.
                held = self._buffer[self._start : self._stop]
                self._buffer[: len(held)] = held
                self._start, self._stop = 0, len(held)
                self._fill()
            opcode = self._buffer[self._start] & 15
            size = self._head_size()
            length = self._buffer[self._start + 1]
            if length == 126:
                (length,) = struct.unpack_from(">H", self._buffer, self._start + 2)
            elif length == 127:
                (length,) = struct.unpack_from(">Q", self._buffer, self._start + 2)
            if opcode != 2:
                raise ConnectionError(f"a frame of opcode {opcode}")
            self._start += size
            self._left = length

    def _head_size(self) -> int:
        return {126: 4, 127: 10}.get(self._buffer[self._start + 1], 2)

    def expect(self, expected: bytes | bytearray) -> None:
        """Receives as many RFB bytes as `expected` has, and compares them."""
        wanted = memoryview(expected)
        at = 0
        while at < len(wanted):
            if self._websocket and not self._left:
                self._next_frame()
            if self._start == self._stop:
                self._fill()
            count = min(len(wanted) - at, self._stop - self._start)
            if self._websocket:
                count = min(count, self._left)
                self._left -= count
            # memcmp. Two memoryviews are compared item by item, slower than the relay is.
            if not self._buffer.startswith(wanted[at : at + count], self._start):
                raise ConnectionError("bytes arrived that are not those due")
            self._start += count
            at += count

    def handshake(self, level: int) -> None:
        """RFB 3.8 with None, then the offer that picks the server's updates."""
        self.expect(b"RFB 003.008\n")
        self.send(b"RFB 003.008\n")
        self.expect(b"\x01\x01")
        self.send(b"\x01")
        self.expect(b"\0\0\0\0")
        self.send(b"\x01")
        self.expect(SERVER_INIT)
        self.send(struct.pack(">BxHiii", 2, 3, 7, 0, level - 32))

    def run(self, level: int, outstanding: int, seconds: float) -> Sample:
        """Asks and receives for `seconds`, with so many requests always under way. One update
        may answer several, so none is waited for at the end."""
        update = bytearray(UPDATES[level])
        latencies: list[float] = []
        begin = time.perf_counter()
        asked = deque([begin] * outstanding)
        for _ in range(outstanding):
            self.send(REQUEST)
        now = begin
        while now - begin < seconds or not latencies:
            stamp(update, len(latencies))
            self.expect(update)
            now = time.perf_counter()
            latencies.append(now - asked.popleft())
            asked.append(now)
            self.send(REQUEST)
        return Sample(len(update) * len(latencies), len(latencies), now - begin, latencies)
