"""A desktop in the test's hands, and an RFB client that is connected to it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator

import numpy as np
import pytest
import trio
import trio.testing

from relay.client.desktop import ENCODINGS_HERE, RGBX, Desktop
from relay.limits import Limits
from relay.rfb.handshake import ServerInit
from tests.labs.peers import desktop_end

WIDTH, HEIGHT = 8, 4
FENCE_OF_THEIRS = b"\xf8\0\0\0\x80\0\0\x03\x02ok"


def extended(flags: int, data: bytes = b"") -> bytes:
    return struct.pack(">BxxxiI", 3, -4 - len(data), flags) + data


EXTENDED_CAPABILITIES = extended(0x1F000001, struct.pack(">I", 0))


def provided(said_bytes: int, text: bytes) -> bytes:
    """That many bytes are said, and that text is there."""
    return extended(0x10000001, zlib.compress(struct.pack(">I", said_bytes) + text))


# Of the extended clipboard (community specification): that there is text for a desktop, and that it
# asks for that.
CLIPBOARD_OFFERED = struct.pack(">BxxxiI", 6, -4, 0x08000001)
CLIPBOARD_ASKED = extended(0x02000001)


INIT = ServerInit(WIDTH, HEIGHT, RGBX, b"lab")


def client_of(stream: trio.abc.HalfCloseableStream) -> Desktop:
    """A client of the desktop at the other end."""
    return Desktop(desktop_end(stream, INIT), RGBX, ENCODINGS_HERE, Limits())


class Far:
    """The desktop's side: what it hears, and what it says."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.heard = b""
        self.picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        self.answers = True
        self.pastes = True

    async def run(self) -> None:
        """Answers fences and requests for all, as Xvnc does, and takes text that is offered at
        once, as Xvnc does where there is a clipboard manager."""
        async for data in self.stream:
            self.heard += data
            if self.answers:
                try:
                    await self._answer(data)
                except trio.BrokenResourceError:
                    pass  # Whoever asked has gone.

    async def _answer(self, data: bytes | bytearray) -> None:
        for at in range(len(data)):
            if data.startswith(b"\xf8\0\0\0\x80\0\0\x01\x04", at):
                reply = b"\xf8\0\0\0\0\0\0\x01\x04" + bytes(data[at + 9 : at + 13])
                await self.stream.send_all(reply)
            if self.pastes and data.startswith(CLIPBOARD_OFFERED, at):
                await self.stream.send_all(CLIPBOARD_ASKED)
            if data.startswith(b"\x03\0\0\0\0\0", at):
                await self.stream.send_all(self.update())

    def update(self) -> bytes:
        height, width = self.picture.shape[:2]
        head = struct.pack(">BxHHHHHi", 0, 1, 0, 0, width, height, 0)
        return head + self.picture.tobytes()

    async def hears(self, message: bytes) -> None:
        while message not in self.heard:
            await trio.sleep(0.01)


@pytest.fixture
async def pair(nursery: trio.Nursery) -> AsyncIterator[tuple[Desktop, Far]]:
    near, stream = trio.testing.memory_stream_pair()
    far = Far(stream)
    nursery.start_soon(far.run)
    desktop = client_of(near)
    yield desktop, far
    await desktop.aclose()


Pair = tuple[Desktop, Far]


async def with_fences(pair: Pair) -> Pair:
    """One that has said that it knows fences."""
    desktop, far = pair
    await far.stream.send_all(FENCE_OF_THEIRS)
    await desktop.picture()
    return pair


async def with_clipboard(pair: Pair) -> Pair:
    """One that has said that it knows fences and Unicode's clipboard."""
    desktop, far = await with_fences(pair)
    await far.stream.send_all(EXTENDED_CAPABILITIES)
    await desktop.picture()
    return pair
