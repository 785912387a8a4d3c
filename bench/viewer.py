"""One viewer's connection, over WebSocket or plain TCP, that judges every byte it receives."""

from __future__ import annotations

import socket
import struct
from urllib.parse import urlsplit

from bench import wire
from bench.server import REQUEST, SERVER_INIT, UPDATES

PATIENCE_S = 10
"""Without a byte for so long, a run is at fault."""

FRONT_BYTES = 256
"""Room in the buffer for the incomplete head of a frame, or an incomplete control frame."""

_PATIENCE = struct.pack("@ll", PATIENCE_S, 0)


class Buffer:
    """Where bytes arrive; all viewers of a process share one, for none leaves bytes in it."""

    def __init__(self, read_bytes: int = 1 << 20) -> None:
        self.data = bytearray(FRONT_BYTES + read_bytes)
        self.space = memoryview(self.data)[FRONT_BYTES:]


class Viewer:
    """A connection. Raises ConnectionError where anything arrives that is not due.

    `address` is tcp://HOST:PORT or ws://HOST:PORT/PATH; a token goes with the upgrade request.
    """

    def __init__(self, address: str, token: str = "") -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None
        assert parts.port is not None
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S)
        # A timeout of Python's own would cost a system call with each read.
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.websocket = parts.scheme == "ws"
        # Payload left of the frame under way, and a head or control frame that is incomplete.
        self._left = 0
        self._held = b""
        # What is due: the update, its number and how far it has come.
        self._update = memoryview(b"")
        self._body_bytes = 0
        self._number = 0
        self._at = 0
        self._request = wire.masked(REQUEST) if self.websocket else REQUEST
        if self.websocket:
            self._upgrade(parts.netloc, parts.path, token)

    def close(self) -> None:
        self.socket.close()

    def leave(self) -> None:
        """Says goodbye and waits until the other side has closed."""
        if self.websocket:
            self.socket.sendall(wire.masked(struct.pack(">H", 1000), wire.CLOSE))
        else:
            self.socket.shutdown(socket.SHUT_WR)
        try:
            while self.socket.recv(4096):
                pass
        except ConnectionResetError:
            pass  # nothing was due any more

    def _upgrade(self, host: str, path: str, token: str) -> None:
        self.socket.sendall(
            f"GET {path or '/'} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {wire.KEY}\r\n"
            f"Coder-Session-Token: {token}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            seen = self.socket.recv(4096, socket.MSG_PEEK)
            if not seen:
                raise ConnectionError(f"the upgrade was refused: {head!r}")
            # Of frames behind the head, none is taken.
            end = (head + seen).find(b"\r\n\r\n")
            head += self.socket.recv(len(seen) if end < 0 else end + 4 - len(head))
        if not head.startswith(b"HTTP/1.1 101") or wire.accept(wire.KEY).encode() not in head:
            raise ConnectionError(f"the upgrade was refused: {head!r}")

    def send(self, data: bytes) -> None:
        self.socket.sendall(wire.masked(data) if self.websocket else data)

    def ask(self) -> None:
        """Asks for one update."""
        self.socket.sendall(self._request)

    # The handshake: exactly what is due is read, a little at a time.

    def _exactly(self, count: int) -> bytes:
        data = self.socket.recv(count, socket.MSG_WAITALL)
        if len(data) < count:
            raise ConnectionError("the connection ended")
        return data

    def expect(self, expected: bytes) -> None:
        """Receives as many RFB bytes as `expected` has, and compares them."""
        data = b""
        while len(data) < len(expected):
            count = len(expected) - len(data)
            if self.websocket:
                while not self._left:
                    opcode, length = self._exactly(2)
                    for size, mark in ((2, 126), (8, 127)):
                        if length == mark:
                            length = int.from_bytes(self._exactly(size), "big")
                    if opcode & 15 != wire.BINARY:
                        raise ConnectionError(f"a frame of opcode {opcode & 15}")
                    self._left = length
                count = min(count, self._left)
                self._left -= count
            data += self._exactly(count)
        if data != expected:
            raise ConnectionError(f"{data!r} arrived, {expected!r} was due")

    def handshake(self, init: bytes = SERVER_INIT) -> None:
        """RFB 3.8 with None, on a desktop that says `init`."""
        self.expect(b"RFB 003.008\n")
        self.send(b"RFB 003.008\n")
        self.expect(b"\x01\x01")
        self.send(b"\x01")
        self.expect(b"\0\0\0\0")
        self.send(b"\x01")
        self.expect(init)

    def choose(self, level: int) -> None:
        """The offer that picks the desktop's updates."""
        self.send(struct.pack(">BxHiii", 2, 3, 7, 0, level - 32))
        self.due(UPDATES[level])

    def due(self, update: bytes, *, numbered: bool = True) -> None:
        """What is to come from here on, again and again; with its number in the last four bytes."""
        self._update = memoryview(update)
        self._body_bytes = len(update) - 4 * numbered

    @property
    def update_bytes(self) -> int:
        return len(self._update)

    @property
    def received_bytes(self) -> int:
        """RFB bytes of updates that have come."""
        return self._number * len(self._update) + self._at

    # Updates: whatever has come is judged.

    def receive(self, buffer: Buffer, flags: int = 0) -> int:
        """Reads once; how many updates that completed. Raises BlockingIOError as recv does."""
        count = self.socket.recv_into(buffer.space, 0, flags)
        if not count:
            raise ConnectionError("the connection ended")
        stop = FRONT_BYTES + count
        if not self.websocket:
            return self._judge(buffer.data, FRONT_BYTES, count)
        data = buffer.data
        at = FRONT_BYTES - len(self._held)
        data[at:FRONT_BYTES] = self._held
        self._held = b""
        completed = 0
        while at < stop:
            if not self._left:
                head = self._head(data, at, stop)
                if not head:
                    self._held = bytes(data[at:stop])
                    break
                at += head
                continue
            count = min(self._left, stop - at)
            completed += self._judge(data, at, count)
            self._left -= count
            at += count
        return completed

    def _head(self, data: bytearray, at: int, stop: int) -> int:
        """The size of the frame head, or of the whole ping, at `at`; 0 where it is incomplete."""
        have = stop - at
        if have < 2:
            return 0
        opcode, length = data[at] & 15, data[at + 1]
        size = 2
        if length > 125:
            size = 4 if length == 126 else 10
            if have < size:
                return 0
            length = int.from_bytes(data[at + 2 : at + size], "big")
        if opcode == wire.PING:
            size += length
            if have < size:
                return 0
            self.socket.sendall(wire.masked(bytes(data[at + 2 : at + size]), wire.PONG))
        elif opcode == wire.BINARY:
            self._left = length
        else:
            raise ConnectionError(f"a frame of opcode {opcode}")
        return size

    def _judge(self, data: bytearray, at: int, count: int) -> int:
        """Compares RFB bytes with those due; how many updates they completed."""
        body = self._body_bytes
        completed = 0
        while count:
            if self._at < body:
                size = min(count, body - self._at)
                due: memoryview | bytes = self._update[self._at : self._at + size]
            else:
                due = struct.pack(">I", self._number)[self._at - body :][:count]
                size = len(due)
            # memcmp. Two memoryviews are compared item by item, slower than the relay is.
            if not data.startswith(due, at):
                raise ConnectionError("bytes arrived that are not those due")
            at += size
            count -= size
            self._at += size
            if self._at == len(self._update):
                self._at = 0
                self._number += 1
                completed += 1
        return completed
