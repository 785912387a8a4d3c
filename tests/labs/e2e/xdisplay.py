"""Looks at an X display by the X protocol itself: a second way to the desktop, past the relay.

Speaks the few requests a test needs (X Window System Protocol, chapters 8 and 9), over the
display's unix socket, with the cookie from its authority file.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path

_QUERY_POINTER = 38
_GET_IMAGE = 73
_ZPIXMAP = 2


@dataclass(frozen=True, slots=True)
class Picture:
    """What the display shows. `pixels` is (height, width, 4) bytes, BGRX."""

    width: int
    height: int
    pixels: bytes

    def colours(self) -> int:
        """How many different colours there are."""
        return len(set(memoryview(self.pixels).cast("I").tolist()))

    def changed(self, other: Picture) -> int:
        """How many pixels differ."""
        mine, theirs = (memoryview(p.pixels).cast("I").tolist() for p in (self, other))
        return sum(a != b for a, b in zip(mine, theirs, strict=True))


class XDisplay:
    """One connection to display `:number`. Use as a context manager."""

    def __init__(self, number: int, authority: Path) -> None:
        name, cookie = _cookie(authority, number)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(f"/tmp/.X11-unix/X{number}")
        self._socket.sendall(
            struct.pack("<cxHHHHxx", b"l", 11, 0, len(name), len(cookie))
            + _padded(name)
            + _padded(cookie)
        )
        status, reason_length, length = struct.unpack("<BB4xH", self._read(8))
        setup = self._read(4 * length)
        if status != 1:
            raise ConnectionError(f"display :{number}: {setup[:reason_length].decode('latin-1')}")
        vendor_length, formats = struct.unpack_from("<16xH3xB", setup)
        screen = 32 + -(-vendor_length // 4) * 4 + 8 * formats
        self._root, self.width, self.height = struct.unpack_from("<I16xHH", setup, screen)

    def __enter__(self) -> XDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def picture(self) -> Picture:
        """The whole root window, with everything on it."""
        area = (0, 0, self.width, self.height)
        request = struct.pack("<IhhHHI", self._root, *area, 0xFFFFFFFF)
        pixels = self._ask(_GET_IMAGE, _ZPIXMAP, request)[24:]
        return Picture(self.width, self.height, pixels[: 4 * self.width * self.height])

    def pointer(self) -> tuple[int, int]:
        """Where the mouse is, in pixels from the top left."""
        x, y = struct.unpack_from(
            "<8xhh", self._ask(_QUERY_POINTER, 0, struct.pack("<I", self._root))
        )
        return x, y

    def _ask(self, opcode: int, detail: int, body: bytes) -> bytes:
        """The reply from its eighth byte on: 24 fixed bytes, then what `length` announced."""
        self._socket.sendall(struct.pack("<BBH", opcode, detail, 1 + len(body) // 4) + body)
        while True:
            kind, code, length = struct.unpack("<BBxxI", self._read(8))
            if kind == 0:
                raise ConnectionError(f"X error {code} for request {opcode}")
            if kind == 1:
                return self._read(24 + 4 * length)
            self._read(24)  # an event: every client hears of a new keyboard mapping

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise ConnectionError("the display closed the connection")
            data += more
        return bytes(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _cookie(authority: Path, display: int) -> tuple[bytes, bytes]:
    """Name and data of the display's entry in an Xauthority file (see Xau's README)."""
    data = authority.read_bytes()
    position = 0

    def field() -> bytes:
        nonlocal position
        (size,) = struct.unpack_from(">H", data, position)
        position += 2 + size
        return data[position - size : position]

    while position < len(data):
        position += 2  # the family: which machine the entry is for; here only this one
        _address, number, name, cookie = field(), field(), field(), field()
        if number in (b"", str(display).encode()):
            return name, cookie
    return b"", b""
