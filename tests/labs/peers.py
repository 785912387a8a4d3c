"""Scripted peers for session tests: a viewer that speaks WebSocket by hand, a desktop end."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from relay import DesktopEnd, Ended, Limits, Session
from relay.net.websocket import FrameReader
from relay.net.websocket_stream import WebSocketStream
from relay.pumps import switchboard
from relay.pumps.leg import DownLeg, UpLeg
from relay.pumps.raw import RawPumps
from relay.pumps.switchboard import Switchboard
from relay.rfb.conversation import Conversation
from relay.rfb.handshake import ServerInit
from relay.rfb.pixel_format import parse

# RFC 6143, Section 7.4: 32 bits per pixel, depth 24, little endian, true colour, 8-8-8.
PIXEL_FORMAT = bytes.fromhex("20180001 00ff00ff00ff 100800 000000".replace(" ", ""))
INIT = ServerInit(640, 480, parse(PIXEL_FORMAT), b"lab")
MASK = b"\x01\x02\x03\x04"


def client_frame(payload: bytes, opcode: int = 2) -> bytes:
    """A masked frame as a browser sends it (RFC 6455, Section 5.2), written out by hand."""
    size = len(payload)
    head = bytes([0x80 | opcode, 0x80 | size]) if size < 126 else b""
    if not head:
        head = bytes([0x80 | opcode, 0xFE]) + struct.pack(">H", size)
    return head + MASK + bytes(b ^ MASK[i % 4] for i, b in enumerate(payload))


def raw_rectangle(w: int = 2, h: int = 1, fill: int = 0x55) -> bytes:
    """A FramebufferUpdate of one Raw rectangle at 0,0 (RFC 6143, Sections 7.6.1, 7.7.1)."""
    return struct.pack(">BxHHHHHi", 0, 1, 0, 0, w, h, 0) + bytes([fill]) * (w * h * 4)


UPDATE_REQUEST = bytes.fromhex("0301000000000280 01e0".replace(" ", ""))
BELL = b"\x02"
# Section 7.5.4: KeyEvent, keysym "a", pressed and released.
KEY, KEY_UP = bytes.fromhex("0401000000000061"), bytes.fromhex("0400000000000061")


@dataclass
class Frames:
    """Server frames read off a stream: payload of binary ones, and the others."""

    stream: trio.abc.Stream
    _buf: bytearray = field(default_factory=bytearray)
    payload: bytearray = field(default_factory=bytearray)

    async def _fill(self, count: int) -> None:
        while len(self._buf) < count:
            data = await self.stream.receive_some(65536)
            if not data:
                raise EOFError
            self._buf += data

    async def next(self) -> tuple[int, bytes]:
        """The next frame as (opcode, payload); EOFError at the end."""
        await self._fill(2)
        opcode, size = self._buf[0] & 15, self._buf[1]
        at = 2
        if size == 126:
            await self._fill(4)
            (size,) = struct.unpack_from(">H", self._buf, 2)
            at = 4
        elif size == 127:
            await self._fill(10)
            (size,) = struct.unpack_from(">Q", self._buf, 2)
            at = 10
        await self._fill(at + size)
        data = bytes(self._buf[at : at + size])
        del self._buf[: at + size]
        return opcode, data

    async def binary(self, count: int) -> bytes:
        """Exactly `count` bytes of binary payload."""
        while len(self.payload) < count:
            opcode, data = await self.next()
            assert opcode == 2, (opcode, data)
            self.payload += data
        taken = bytes(self.payload[:count])
        del self.payload[:count]
        return taken

    async def close(self) -> tuple[int, str]:
        """Code and reason of the close frame; binary and ping frames before it are skipped."""
        while True:
            opcode, data = await self.next()
            if opcode == 8:
                return struct.unpack(">H", data[:2])[0], data[2:].decode()


@dataclass
class Lab:
    """A session with both its far ends in the test's hands."""

    session: Session
    viewer: trio.abc.HalfCloseableStream
    desktop: trio.abc.HalfCloseableStream
    frames: Frames
    result: list[Ended]
    desktop_near: trio.abc.Stream

    async def run(self) -> None:
        self.result.append(await self.session.run())

    @property
    def ended(self) -> Ended:
        assert self.result, "the session has not ended"
        return self.result[0]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        """The nursery in which the session runs, behind its handshake."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.run)
            await self.greet()
            yield nursery

    async def greet(self) -> None:
        """The viewer's RFB 3.8 handshake (RFC 6143, Section 7.1, 7.3)."""
        assert await self.frames.binary(12) == b"RFB 003.008\n"
        await self.viewer.send_all(client_frame(b"RFB 003.008\n"))
        assert await self.frames.binary(2) == b"\x01\x01"
        await self.viewer.send_all(client_frame(b"\x01"))
        assert await self.frames.binary(4) == b"\0\0\0\0"
        await self.viewer.send_all(client_frame(b"\x01"))
        init = await self.frames.binary(24 + 3)
        assert init == struct.pack(">HH", 640, 480) + PIXEL_FORMAT + b"\0\0\0\x03lab"

    async def hear(self, count: int) -> bytes:
        """Exactly `count` bytes that reached the desktop."""
        data = b""
        while len(data) < count:
            more = await self.desktop.receive_some(count - len(data))
            assert more, data
            data += more
        return data


def memory_lab(limits: Limits | None = None, early: bytes = b"") -> Lab:
    """Over memory streams: the pumps take the plain Stream driver."""
    viewer, viewer_far = trio.testing.memory_stream_pair()
    desktop, desktop_far = trio.testing.memory_stream_pair()
    return lab_over(viewer, viewer_far, desktop, desktop_far, limits, early)


def lockstep_lab(limits: Limits | None = None) -> Lab:
    """As `memory_lab`, with a viewer whose stream takes nothing that is not read."""
    viewer, viewer_far = trio.testing.lockstep_stream_pair()
    desktop, desktop_far = trio.testing.memory_stream_pair()
    return lab_over(viewer, viewer_far, desktop, desktop_far, limits)


def lockstep_desktop_lab(limits: Limits | None = None) -> Lab:
    """As `memory_lab`, with a desktop whose stream takes nothing that is not read."""
    viewer, viewer_far = trio.testing.memory_stream_pair()
    desktop, desktop_far = trio.testing.lockstep_stream_pair()
    return lab_over(viewer, viewer_far, desktop, desktop_far, limits)


def socket_lab(limits: Limits | None = None, early: bytes = b"", buffer_bytes: int = 0) -> Lab:
    """Over socket pairs: the pumps take the raw driver. `buffer_bytes` shrinks the kernel's."""
    viewer, viewer_far = socket_pair(buffer_bytes)
    desktop, desktop_far = socket_pair(buffer_bytes)
    return lab_over(viewer, viewer_far, desktop, desktop_far, limits, early)


class WorkspaceAgentEnd(WebSocketStream, trio.abc.HalfCloseableStream):
    """A workspace agent's end of a connection to its desktop."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream, client=False, limit_bytes=1 << 20)
        self.raw = stream

    async def send_eof(self) -> None:
        await self.raw.send_eof()


def workspace_agent_lab(
    limits: Limits | None = None, early: bytes = b"", buffer_bytes: int = 0
) -> Lab:
    """As `socket_lab`, with a desktop behind a workspace agent."""
    viewer, viewer_far = socket_pair(buffer_bytes)
    near, far = socket_pair(buffer_bytes)
    desktop = WebSocketStream(near, client=True, limit_bytes=1 << 20)
    far_ends.append(far)
    return lab_over(viewer, viewer_far, desktop, WorkspaceAgentEnd(far), limits, early)


def desktop_end(stream: trio.abc.Stream, init: ServerInit = INIT) -> DesktopEnd:
    """A desktop that has been logged in to."""
    return DesktopEnd(stream, init, version="3.8", security_type=1)


async def say_hello(stream: trio.abc.Stream, width: int, height: int, name: bytes = b"lab") -> None:
    """A desktop's handshake (RFC 6143, Sections 7.1 to 7.3), which believes what it is told."""
    await stream.send_all(b"RFB 003.008\n")
    await stream.receive_some(12)
    await stream.send_all(b"\x01\x01")
    await stream.receive_some(1)
    await stream.send_all(b"\0\0\0\0")
    await stream.receive_some(1)
    size = struct.pack(">HH", width, height)
    await stream.send_all(size + PIXEL_FORMAT + struct.pack(">I", len(name)) + name)


def raw_pumps(viewer: socket.socket, desktop: socket.socket, board: Switchboard) -> RawPumps:
    """The pumps alone, behind the handshakes, over two sockets that do not block."""
    limits = Limits()
    conversation = Conversation(INIT, limits)
    return RawPumps(
        DownLeg(conversation.down, b""),
        UpLeg(conversation.up, FrameReader(mask_expected=True, limit_bytes=1 << 20), b""),
        lambda _how: None,
        limits,
        trio.SocketStream(trio.socket.from_stdlib_socket(viewer)),
        trio.SocketStream(trio.socket.from_stdlib_socket(desktop)),
        board,
    )


@contextmanager
def pumps_over_tcp() -> Iterator[tuple[RawPumps, socket.socket]]:
    """`raw_pumps` that have started, and the relay's end of the viewer's connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    desktop, elsewhere = socket.socketpair()
    with far, near, desktop, elsewhere:
        near.setblocking(False)
        desktop.setblocking(False)
        pumps = raw_pumps(near, desktop, switchboard.current())
        pumps.start()
        yield pumps, near
        pumps.stop()


def socket_pair(buffer_bytes: int = 0) -> tuple[trio.SocketStream, trio.SocketStream]:
    near, far = socket.socketpair()
    for end in (near, far) if buffer_bytes else ():
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    near_stream = trio.SocketStream(trio.socket.from_stdlib_socket(near))
    return near_stream, trio.SocketStream(trio.socket.from_stdlib_socket(far))


def lab_over(
    viewer: trio.abc.HalfCloseableStream,
    viewer_far: trio.abc.HalfCloseableStream,
    desktop: trio.abc.Stream,
    desktop_far: trio.abc.HalfCloseableStream,
    limits: Limits | None,
    early: bytes = b"",
) -> Lab:
    """Over whatever streams: the relay's end and the test's, of the viewer and of the desktop."""
    session = Session(viewer, desktop_end(desktop), limits=limits, early=early)
    far_ends.extend(s for s in (viewer_far, desktop_far) if isinstance(s, trio.SocketStream))
    return Lab(session, viewer_far, desktop_far, Frames(viewer_far), [], desktop)


far_ends: list[trio.SocketStream] = []
"""Sockets that belong to tests; `close_far_ends` closes them."""


@pytest.fixture(autouse=True)
async def close_far_ends() -> AsyncIterator[None]:
    """For each test of a module that imports it."""
    yield
    while far_ends:
        far_ends.pop().socket.close()


MakeLab = Callable[..., Lab]
every_driver = pytest.mark.parametrize(
    "make",
    [memory_lab, socket_lab, workspace_agent_lab],
    ids=["streams", "sockets", "workspace agents"],
)
