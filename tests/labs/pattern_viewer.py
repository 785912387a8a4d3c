"""The test pattern's server, and a viewer of it that keeps a picture of its own."""

from __future__ import annotations

import struct

import pytest
import trio
from trio.testing import memory_stream_pair

from relay.desktops.pattern import PatternServer
from relay.limits import Limits

WIDTH, HEIGHT = 640, 480
BANNER = b"RFB 003.008\n"
NATIVE = bytes.fromhex("20 18 00 01 00ff 00ff 00ff 00 08 10 000000")
SHOW_ALL = struct.pack(">BBHHHH", 3, 0, 0, 0, WIDTH, HEIGHT)
SHOW_NEW = struct.pack(">BBHHHH", 3, 1, 0, 0, WIDTH, HEIGHT)
EXTENDED_DESKTOP_SIZE, DESKTOP_NAME, DESKTOP_SIZE = -308, -307, -223

Rectangle = tuple[int, int, int, int, int, bytes]
"""x, y, width, height, encoding, payload."""


def set_desktop_size(width: int, height: int) -> bytes:
    return struct.pack(">BxHHBx", 251, width, height, 1) + struct.pack(
        ">IHHHHI", 7, 0, 0, width, height, 0
    )


def key(keysym: int, *, down: bool = True) -> bytes:
    return struct.pack(">BBxxI", 4, down, keysym)


def pointer(x: int, y: int, buttons: int = 0) -> bytes:
    return struct.pack(">BBHH", 5, buttons, x, y)


class Viewer:
    """A viewer after its handshake, with a picture of its own."""

    def __init__(self, stream: trio.abc.Stream, bytes_per_pixel: int = 4) -> None:
        self.stream = stream
        self.unread = bytearray()
        self.bytes_per_pixel = bytes_per_pixel
        self.pixels: dict[tuple[int, int], bytes] = {}

    async def send(self, *messages: bytes) -> None:
        await self.stream.send_all(b"".join(messages))

    async def read(self, count: int) -> bytes:
        while len(self.unread) < count:
            data = await self.stream.receive_some()
            assert data, "the server closed"
            self.unread += data
        taken = bytes(self.unread[:count])
        del self.unread[:count]
        return taken

    async def update(self) -> list[Rectangle]:
        """One FramebufferUpdate. Its Raw rectangles are put into the picture."""
        kind, padding, count = struct.unpack(">BBH", await self.read(4))
        assert (kind, padding) == (0, 0)
        return [await self._rectangle() for _ in range(count)]

    async def _rectangle(self) -> Rectangle:
        x, y, width, height, encoding = struct.unpack(">HHHHi", await self.read(12))
        if encoding == EXTENDED_DESKTOP_SIZE:
            screens = await self.read(4)
            payload = screens + await self.read(16 * screens[0])
        elif encoding == DESKTOP_NAME:
            (length,) = struct.unpack(">I", await self.read(4))
            payload = await self.read(length)
        elif encoding == DESKTOP_SIZE:
            payload = b""
        else:
            assert encoding == 0
            size = self.bytes_per_pixel
            payload = await self.read(width * height * size)
            for number in range(width * height):
                at = (x + number % width, y + number // width)
                self.pixels[at] = payload[number * size : (number + 1) * size]
        return x, y, width, height, encoding, payload

    def changed_since(self, before: dict[tuple[int, int], bytes]) -> set[tuple[int, int]]:
        return {at for at, pixel in self.pixels.items() if before.get(at) != pixel}


def screen_layout(width: int, height: int) -> bytes:
    return struct.pack(">BxxxIHHHHI", 1, 0, 0, 0, width, height, 0)


@pytest.fixture
def server() -> PatternServer:
    return PatternServer(WIDTH, HEIGHT, limits=Limits())


async def connect(server: PatternServer, nursery: trio.Nursery) -> Viewer:
    ours, theirs = memory_stream_pair()
    nursery.start_soon(server.serve, theirs)
    viewer = Viewer(ours)
    assert await viewer.read(12) == BANNER
    await viewer.send(BANNER)
    assert await viewer.read(2) == b"\x01\x01"  # one security type: None
    await viewer.send(b"\x01")
    assert await viewer.read(4) == b"\0\0\0\0"  # SecurityResult: OK
    await viewer.send(b"\x01")
    width, height = struct.unpack(">HH", await viewer.read(4))
    assert (width, height) == (server.screen.width, server.screen.height)
    assert await viewer.read(16) == NATIVE
    (length,) = struct.unpack(">I", await viewer.read(4))
    assert await viewer.read(length) == b"Test pattern %dx%d" % (width, height)
    return viewer
