"""A viewer for `bench.lag`: presses a key now and then, and measures until its answer is complete.

It speaks RFB as noVNC does: in `requests` it asks for an incremental update after each update; in
`continuous` it offers continuous updates and fences too, switches the former on where the desktop
can do them, and answers the latter. The answer is the corner's new colour, and it counts when the
update that brings it has come to its end, for that is when noVNC paints. Run as
`python -m bench.lag.viewer MODE ADDRESS TOKEN SECONDS`; prints the seconds of each as JSON.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio
from trio_websocket import DisconnectionTimeout, open_websocket_url

from bench.lag.desktop import CONTINUOUS

MODES: Final = {"requests": [], "continuous": [CONTINUOUS, -312]}
"""By mode the encodings that are offered beside Raw and the cursor."""

WARM_UP_S: Final = 2.0
"""Answers that come earlier do not count: queues take a while to fill."""

_GAP_S: Final = (0.02, 0.12)
"""From an answer to the next key, at random so that keys do not keep step with the frames."""

_CURSOR: Final = -239
_FENCE_REQUEST: Final = 1 << 31
_KEY: Final = b"".join(struct.pack(">BBxxI", 4, down, ord("a")) for down in (1, 0))

_MESSAGE_LIMIT_BYTES: Final = 16 << 20


class Viewer:
    """One viewer over `receive`, which returns nothing at the end, and `send`."""

    def __init__(
        self,
        receive: Callable[[], Awaitable[bytes | bytearray]],
        send: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._receive = receive
        self._send_now = send
        self._sending = trio.Lock()
        self._held = bytearray()
        self._screen = b""
        self._continuous = False
        self.updates = 0
        # The corner's colour, and what tells of a new one.
        self._colour = -1
        self._painted = trio.Event()

    async def _send(self, data: bytes) -> None:
        # Keys go out beside requests.
        async with self._sending:
            await self._send_now(data)

    async def _read(self, count: int) -> bytes:
        while len(self._held) < count:
            data = await self._receive()
            if not data:
                raise ConnectionError("the connection ended")
            self._held += data
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    async def _numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(">" + layout, await self._read(struct.calcsize(">" + layout)))

    async def handshake(self, mode: str) -> None:
        """RFB 3.8 with None, up to the first request."""
        await self._read(12)
        await self._send(b"RFB 003.008\n")
        await self._read((await self._read(1))[0])
        await self._send(b"\x01")
        await self._read(4)
        await self._send(b"\x01")
        width, height, bits = await self._numbers("HHB15x")
        if bits != 32:
            raise ConnectionError(f"{bits} bits per pixel")
        await self._read((await self._numbers("I"))[0])
        self._screen = struct.pack(">HHHH", 0, 0, width, height)
        offered = [0, _CURSOR, *MODES[mode]]
        await self._send(struct.pack(f">BxH{len(offered)}i", 2, len(offered), *offered))
        await self._send(b"\x03\0" + self._screen)

    async def receive(self) -> None:
        """Takes what comes, until cancelled."""
        while True:
            kind = (await self._read(1))[0]
            if kind not in _MESSAGES:
                raise ConnectionError(f"a message of type {kind}")
            await _MESSAGES[kind](self)

    async def measure(self, seconds: float) -> list[float]:
        """Presses keys; seconds from each to its answer, without those in the warm-up."""
        gaps = random.Random(6143)
        begin = trio.current_time()
        lags_s: list[float] = []
        while self._colour < 0:
            await self._painted.wait()
        while trio.current_time() < begin + WARM_UP_S + seconds or not lags_s:
            await trio.sleep(gaps.uniform(*_GAP_S))
            wanted = self._colour + 1
            sent = trio.current_time()
            await self._send(_KEY)
            while self._colour != wanted:
                await self._painted.wait()
            if sent >= begin + WARM_UP_S:
                lags_s.append(trio.current_time() - sent)
        return lags_s

    async def _update(self) -> None:
        (count,) = await self._numbers("xH")
        for _ in range(count):
            x, y, w, h, encoding = await self._numbers("HHHHi")
            if encoding == _CURSOR:
                await self._read(w * h * 4 + (w + 7) // 8 * h)
                continue
            if encoding:
                raise ConnectionError(f"encoding {encoding}")
            pixels = await self._read(w * h * 4)
            if (x, y) == (0, 0) and pixels:
                self._colour = int.from_bytes(pixels[:3], "little")
        self.updates += 1
        self._painted.set()
        self._painted = trio.Event()
        if not self._continuous:
            await self._send(b"\x03\x01" + self._screen)

    async def _bell(self) -> None:
        pass

    async def _clipboard(self) -> None:
        await self._read((await self._numbers("3xI"))[0])

    async def _end_of_continuous_updates(self) -> None:
        # Only the first comes: it says that the desktop can do them.
        self._continuous = True
        await self._send(b"\x96\x01" + self._screen)

    async def _fence(self) -> None:
        flags, length = await self._numbers("xxxIB")
        payload = await self._read(length)
        if not flags & _FENCE_REQUEST:
            raise ConnectionError("an answer to a fence that nobody sent")
        await self._send(struct.pack(">BxxxIB", 248, flags & 3, length) + payload)


_MESSAGES: Final = {
    0: Viewer._update,
    2: Viewer._bell,
    3: Viewer._clipboard,
    150: Viewer._end_of_continuous_updates,
    248: Viewer._fence,
}


@asynccontextmanager
async def connected(address: str, token: str) -> AsyncIterator[Viewer]:
    """A viewer at `address`, `ws://` or `tcp://`, before its handshake."""
    if address.startswith("tcp://"):
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            yield Viewer(stream.receive_some, stream.send_all)
        return
    headers = [(b"Coder-Session-Token", token.encode())]
    try:
        async with open_websocket_url(
            address,
            extra_headers=headers,
            max_message_size=_MESSAGE_LIMIT_BYTES,
            receive_buffer_size=65_536,
            disconnect_timeout=1,
        ) as websocket:

            async def receive() -> bytes:
                message = await websocket.get_message()
                assert isinstance(message, bytes)
                return message

            yield Viewer(receive, websocket.send_message)
    except DisconnectionTimeout:
        pass  # What is queued on the way is in front of the answer to a close.


async def main(arguments: list[str]) -> None:
    mode, address, token, seconds = arguments
    async with connected(address, token) as viewer:
        await viewer.handshake(mode)
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(viewer.receive)
            lags_s = await viewer.measure(float(seconds))
            nursery.cancel_scope.cancel()
        took_s = trio.current_time() - begin
    print(json.dumps({"lags_s": lags_s, "updates": viewer.updates, "seconds": took_s}))


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
