"""A synthetic RFB 3.8 desktop for measuring: answers each update request with one update.

The viewer picks the update's shape by the JPEG quality level in its SetEncodings, so that it
passes any relay that reads the protocol. Run as `python -m bench.server`; prints its ports as
JSON: `tcp` speaks plain RFB, `ws` the same over WebSocket, for proxies that pass only that on.
One epoll for all connections, edge-triggered: the desktop should cost less than what is measured.
"""

from __future__ import annotations

import json
import random
import resource
import select
import socket
import struct
from collections.abc import Callable, Generator

from bench import wire

WIDTH, HEIGHT = 1920, 1080
SERVER_INIT = (
    struct.pack(">HHBBBBHHHBBBxxx", WIDTH, HEIGHT, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
    + b"\0\0\0\x05bench"
)
READ_BYTES = 4096
REQUEST = struct.pack(">BBHHHH", 3, 1, 0, 0, WIDTH, HEIGHT)

# Both ends make the same payload. Random, because a pattern that repeats would hide chunks
# which changed places.
_random = random.Random(6143)


def _tight(x: int, y: int, size: int) -> bytes:
    """One Tight rectangle of 256x64 with a JPEG of `size` bytes (its first two are real)."""
    length = bytes([size & 127 | 128, size >> 7]) if size > 127 else bytes([size])
    head = struct.pack(">HHHHi", x, y, 256, 64, 7) + b"\x90" + length
    return head + b"\xff\xd8" + _random.randbytes(size - 2)


def _update(*rectangles: bytes) -> bytes:
    return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)


def _raw() -> bytes:
    head = struct.pack(">HHHHi", 0, 0, WIDTH, HEIGHT, 0)
    return head + _random.randbytes(WIDTH * HEIGHT * 4)


# By quality level: a whole screen in Raw, 16 rectangles of about 2 KiB, one of about 100 bytes,
# 4 of about 2 KiB. Each ends in payload that the relay does not read; `stamp` uses it.
UPDATES: dict[int, bytes] = {
    1: _update(_raw()),
    2: _update(*(_tight(i % 4 * 256, i // 4 * 64, 2048) for i in range(16))),
    3: _update(_tight(0, 0, 84)),
    4: _update(*(_tight(i * 256, 0, 2032) for i in range(4))),
}


def stamp(update: bytearray, number: int) -> None:
    """Writes the update's number over its last four bytes, so that no two are alike."""
    struct.pack_into(">I", update, len(update) - 4, number)


class Connection:
    """One viewer. Updates are numbered from 0."""

    def __init__(self, peer: socket.socket, *, websocket: bool) -> None:
        self.peer = peer
        self._websocket = websocket
        self._data = b""
        self._say = wire.frame if websocket else bytes
        self._frames = wire.Unmasking() if websocket else None
        self._script = self._converse()
        # What is to go out before updates; and the update that goes out, as far as it has.
        self._replies = bytearray()
        self._update = bytearray()
        self._view = memoryview(self._update)
        self._at = 0
        self._asked = 0
        self._sent = 0
        self._steady = False
        self._wanted = next(self._script)

    def _converse(self) -> Generator[int, bytes]:
        """Yields how many bytes of the viewer's it needs next; ends at its update requests."""
        if self._websocket:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += yield 1
            self._replies += wire.switch(head)
            assert self._frames is not None
            # What follows is framed.
            self._data = self._frames.feed(self._data)
        self._replies += self._say(b"RFB 003.008\n")
        yield 12
        self._replies += self._say(b"\x01\x01")
        yield 1
        self._replies += self._say(b"\0\0\0\0")
        yield 1
        self._replies += self._say(SERVER_INIT)
        while True:
            kind = (yield 1)[0]
            if kind == 2:
                (count,) = struct.unpack(">xH", (yield 3))
                numbers = struct.unpack(f">{count}i", (yield 4 * count))
                self._choose(next(UPDATES[n + 32] for n in numbers if n + 32 in UPDATES))
            elif kind == 3:
                yield 9
                self._asked += 1
            else:
                raise ValueError(f"message type {kind}")

    def _choose(self, update: bytes) -> None:
        self._update = bytearray(self._say(update))
        self._view = memoryview(self._update)
        self._at = len(self._update)
        self._steady = True

    def ready(self) -> None:
        """Reads and writes as far as it goes without waiting. Raises EOFError and OSError when
        the viewer has left."""
        try:
            while True:
                data = self.peer.recv(READ_BYTES)
                if not data:
                    raise EOFError
                self._read(data)
                if len(data) < READ_BYTES:
                    break
        except BlockingIOError:
            pass
        try:
            self._write()
        except BlockingIOError:
            pass

    def _read(self, data: bytes) -> None:
        if self._frames is not None and self._frames.begun:
            data = self._frames.feed(data)
            if self._frames.closed:
                raise EOFError
        if self._steady and data == REQUEST and not self._data and self._wanted == 1:
            self._asked += 1
            return
        self._data += data
        while len(self._data) >= self._wanted:
            taken, self._data = self._data[: self._wanted], self._data[self._wanted :]
            self._wanted = self._script.send(taken)

    def _write(self) -> None:
        while self._replies:
            del self._replies[: self.peer.send(self._replies)]
        while self._asked or self._at < len(self._update):
            if self._at == len(self._update):
                self._asked -= 1
                self._at = 0
                stamp(self._update, self._sent)
                self._sent += 1
            self._at += self.peer.send(self._view[self._at :])


def serve(listeners: dict[socket.socket, Callable[[socket.socket], Connection]]) -> None:
    """Serves for ever what connects to each listener."""
    poll = select.epoll()
    connections: dict[int, Connection] = {}
    accepting = {listener.fileno(): listener for listener in listeners}
    for descriptor in accepting:
        poll.register(descriptor, select.EPOLLIN)
    gone = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    events = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
    while True:
        for descriptor, event in poll.poll():
            listener = accepting.get(descriptor)
            if listener is None:
                try:
                    if event & gone:
                        raise EOFError
                    connections[descriptor].ready()
                except (EOFError, OSError):
                    connections.pop(descriptor).peer.close()
                continue
            peer, _ = listener.accept()
            peer.setblocking(False)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections[peer.fileno()] = listeners[listener](peer)
            poll.register(peer, events)


def listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=4096)


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plain, framed = listen(), listen()
    print(json.dumps({"tcp": plain.getsockname()[1], "ws": framed.getsockname()[1]}), flush=True)
    serve(
        {
            plain: lambda peer: Connection(peer, websocket=False),
            framed: lambda peer: Connection(peer, websocket=True),
        }
    )


if __name__ == "__main__":
    main()
