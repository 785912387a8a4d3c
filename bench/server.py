"""A synthetic RFB 3.8 server for measuring: answers each update request with one update.

The viewer picks the update's shape by the JPEG quality level in its SetEncodings, so that it
passes any relay that reads the protocol. Run as `python -m bench.server`; prints its port.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from typing import BinaryIO

WIDTH, HEIGHT = 1920, 1080
SERVER_INIT = (
    struct.pack(">HHBBBBHHHBBBxxx", WIDTH, HEIGHT, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
    + b"\0\0\0\x05bench"
)

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


# By quality level: a whole screen in Raw, 16 rectangles of about 2 KiB, one of about 100 bytes.
# Each ends in payload that the relay does not read; `stamp` uses it.
UPDATES: dict[int, bytes] = {
    1: _update(_raw()),
    2: _update(*(_tight(i % 4 * 256, i // 4 * 64, 2048) for i in range(16))),
    3: _update(_tight(0, 0, 84)),
}


def stamp(update: bytearray, number: int) -> None:
    """Writes the update's number over its last four bytes, so that no two are alike."""
    struct.pack_into(">I", update, len(update) - 4, number)


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _converse(peer: socket.socket, stream: BinaryIO) -> None:
    """One connection, `stream` being what `peer` sends. Updates are numbered from 0."""
    peer.sendall(b"RFB 003.008\n")
    _read(stream, 12)
    peer.sendall(b"\x01\x01")
    _read(stream, 1)
    peer.sendall(b"\0\0\0\0")
    _read(stream, 1)
    peer.sendall(SERVER_INIT)
    update = bytearray()
    sent = 0
    while True:
        kind = _read(stream, 1)[0]
        if kind == 2:
            (count,) = struct.unpack(">xH", _read(stream, 3))
            numbers = struct.unpack(f">{count}i", _read(stream, 4 * count))
            update = bytearray(next(UPDATES[n + 32] for n in numbers if n + 32 in UPDATES))
        elif kind == 3:
            _read(stream, 9)
            stamp(update, sent)
            peer.sendall(update)
            sent += 1
        else:
            raise ValueError(f"message type {kind}")


def _serve(peer: socket.socket) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with peer, peer.makefile("rb") as stream:
        try:
            _converse(peer, stream)
        except (EOFError, OSError):
            pass  # the viewer left, as it does after every run


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=_serve, args=(peer,), daemon=True).start()


if __name__ == "__main__":
    main()
