"""A synthetic RFB 3.8 server for measuring: answers each update request with one update.

The viewer picks the update's shape by the JPEG quality level in its SetEncodings, so that it
passes any relay that reads the protocol. Run as `python -m bench.server`; prints its port.
"""

from __future__ import annotations

import socket
import struct
import threading

WIDTH, HEIGHT = 1920, 1080
PIXEL_FORMAT = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


def _tight(x: int, y: int, size: int) -> bytes:
    """One Tight rectangle of 256x64 with a JPEG of `size` bytes (its first two are real)."""
    length = bytes([size & 127 | 128, size >> 7]) if size > 127 else bytes([size])
    return (
        struct.pack(">HHHHi", x, y, 256, 64, 7)
        + b"\x90"
        + length
        + b"\xff\xd8"
        + bytes(range(256)) * (size // 256)
        + bytes(size % 256 - 2 if size % 256 > 1 else 0)
    )


def _update(*rectangles: bytes) -> bytes:
    return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)


def _raw() -> bytes:
    head = struct.pack(">HHHHi", 0, 0, WIDTH, HEIGHT, 0)
    return head + bytes(range(256)) * (WIDTH * HEIGHT * 4 // 256)


# By quality level: a whole screen in Raw, 16 rectangles of about 2 KiB, one of about 100 bytes.
UPDATES: dict[int, bytes] = {
    1: _update(_raw()),
    2: _update(*(_tight(i % 4 * 256, i // 4 * 64, 2050) for i in range(16))),
    3: _update(_tight(0, 0, 82)),
}


def _recv(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = peer.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _serve(peer: socket.socket) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    level = 3
    try:
        peer.sendall(b"RFB 003.008\n")
        _recv(peer, 12)
        peer.sendall(b"\x01\x01")
        _recv(peer, 1)
        peer.sendall(b"\0\0\0\0")
        _recv(peer, 1)
        peer.sendall(struct.pack(">HH", WIDTH, HEIGHT) + PIXEL_FORMAT + b"\0\0\0\x05bench")
        while True:
            kind = _recv(peer, 1)[0]
            if kind == 2:
                (count,) = struct.unpack(">xH", _recv(peer, 3))
                numbers = struct.unpack(f">{count}i", _recv(peer, 4 * count))
                level = next((n + 32 for n in numbers if n + 32 in UPDATES), level)
            elif kind == 3:
                _recv(peer, 9)
                peer.sendall(UPDATES[level])
            else:
                raise ValueError(f"message type {kind}")
    except (EOFError, OSError):
        pass
    finally:
        peer.close()


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=_serve, args=(peer,), daemon=True).start()


if __name__ == "__main__":
    main()
