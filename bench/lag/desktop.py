"""A synthetic desktop for `bench.lag`: a picture that changes 30 times a second, and a corner whose
colour counts the keys pressed. All in Raw.

It behaves as RFB servers do: an update shows the newest state, is made when a viewer waits for one
and something has changed, and none is made while the socket has not taken the last. That, and the
requests of a viewer that has no continuous updates, is all that holds it back; it does not measure
the link, as TigerVNC does. Run as `python -m bench.lag.desktop`; prints its port.
"""

from __future__ import annotations

import random
import socket
import struct
from typing import Final

import trio

FRAMES_PER_S: Final = 30

SIDE_PX: Final = 256
"""Width and height of the screen."""

CORNER_PX: Final = 16
"""Width and height of the corner, at the top left."""

PICTURE_PX: Final = (64, 64, 128, 128)
"""The picture: x, y, width, height. 64 KiB an update, at 30 a second 1.6 times the link."""

CONTINUOUS: Final = -313

_PIXELS: Final = random.Random(6143).randbytes(4 * PICTURE_PX[2] * PICTURE_PX[3])
_END_OF_CONTINUOUS_UPDATES: Final = b"\x96"

# The rest of each message from the viewer that has a fixed size.
_REST: Final = {0: 19, 3: 9, 4: 7, 5: 5, 150: 9}


def rectangle(x: int, y: int, w: int, h: int, pixels: bytes) -> bytes:
    """One rectangle in Raw."""
    return struct.pack(">HHHHi", x, y, w, h, 0) + pixels


class Desktop:
    """One viewer's connection. `run` owns a nursery with what it reads and what it sends."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._held = bytearray()
        self._keys = 0
        self._keys_shown = -1
        self._frame_shown = -1
        self._asked = False
        self._continuous = False
        self._sending = trio.Lock()
        self._news = trio.Event()

    async def run(self) -> None:
        await self._stream.send_all(b"RFB 003.008\n")
        await self._read(12)
        await self._stream.send_all(b"\x01\x01")
        await self._read(1)
        await self._stream.send_all(b"\0\0\0\0")
        await self._read(1)
        await self._stream.send_all(
            struct.pack(">HHBBBBHHHBBBxxx", SIDE_PX, SIDE_PX, 32, 24, 0, 1, *[255] * 3, 16, 8, 0)
            + struct.pack(">I", 3)
            + b"lag"
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._show)
            try:
                while True:
                    await self._obey()
            except EOFError:
                nursery.cancel_scope.cancel()

    async def _read(self, count: int) -> bytes:
        while len(self._held) < count:
            data = await self._stream.receive_some(4096)
            if not data:
                raise EOFError
            self._held += data
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    async def _send(self, data: bytes) -> None:
        # What answers a message must not come inside an update.
        async with self._sending:
            await self._stream.send_all(data)

    async def _obey(self) -> None:
        kind = (await self._read(1))[0]
        if kind == 2:
            (count,) = struct.unpack(">xH", await self._read(3))
            listed = struct.unpack(f">{count}i", await self._read(4 * count))
            if CONTINUOUS in listed:
                await self._send(_END_OF_CONTINUOUS_UPDATES)
            return
        rest = await self._read(_REST[kind])
        if kind == 3:
            self._asked = True
            if not rest[0]:
                self._keys_shown = self._frame_shown = -1
        elif kind == 4:
            self._keys += rest[0]
        elif kind == 150:
            self._continuous = bool(rest[0])
            if not self._continuous:
                await self._send(_END_OF_CONTINUOUS_UPDATES)
        self._news.set()

    async def _show(self) -> None:
        x, y, w, h = PICTURE_PX
        while True:
            # The microsecond is for a time that is a frame's, but for rounding.
            frame = int((trio.current_time() + 1e-6) * FRAMES_PER_S)
            rectangles = []
            if self._asked or self._continuous:
                if self._keys != self._keys_shown:
                    corner = struct.pack("<I", self._keys) * CORNER_PX**2
                    rectangles.append(rectangle(0, 0, CORNER_PX, CORNER_PX, corner))
                if frame != self._frame_shown:
                    rectangles.append(rectangle(x, y, w, h, _PIXELS))
            if rectangles:
                self._asked = False
                self._keys_shown, self._frame_shown = self._keys, frame
                await self._send(struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles))
                continue
            self._news = trio.Event()
            with trio.move_on_at((frame + 1) / FRAMES_PER_S):
                await self._news.wait()


async def _serve(stream: trio.SocketStream) -> None:
    # Trio lets a socket hold 16 KiB unsent, and RFB servers do not: 0 takes it back.
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
    try:
        await Desktop(stream).run()
    except* (EOFError, trio.BrokenResourceError):
        pass  # The viewer has left.


async def main() -> None:
    listeners = await trio.open_tcp_listeners(0)
    # In IPv4 alone: a second listener would have another port.
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(_serve, listeners)


if __name__ == "__main__":
    trio.run(main)
