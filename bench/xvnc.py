"""A real desktop that moves: Xvnc with a terminal that scrolls, and a viewer that keeps asking.

Run as `python -m bench.xvnc` it starts Xvnc and prints its port; it exits with 69 where Xvnc or
xterm is missing. `Watch` reads what comes with the tests' viewer, which inflates all pixels and
notices when one byte is missing. `main` owns no nursery: both programs are its children and end
with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

import trio

from bench import viewer
from tests.labs.peers import Frames
from tests.labs.rfb_viewer import COPYRECT, LAST_RECT, TIGHT, OutOfStep, Viewer, set_encodings

PROGRAMS = {"Xvnc": "tigervnc-standalone-server", "xterm": "xterm"}
SIZE = "1280x800"
# A page of text, a hundred times a second: Xvnc itself shows 60 at the most.
SCROLL = "i=0; while :; do i=$((i+1)); seq -s ' ' $i $((i+400)); sleep 0.01; done"
START_S = 10
JPEG_QUALITY_6, COMPRESS_LEVEL_2 = -26, -254


@dataclass
class Counted:
    """What a while of watching has brought."""

    latencies_s: list[float] = field(default_factory=list)
    moved_bytes: int = 0


class _Counting(trio.abc.Stream):
    """A viewer's socket from just behind the upgrade, as a stream that counts what comes."""

    def __init__(self, connection: viewer.Viewer) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection.socket))
        self.received_bytes = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._stream.receive_some(max_bytes)
        self.received_bytes += len(data)
        return bytes(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _NoFrames(Frames):
    """A stream of plain RFB in place of one of frames."""

    async def next(self) -> tuple[int, bytes]:
        data = await self.stream.receive_some(65_536)
        if not data:
            raise EOFError
        return 2, bytes(data)


class _PlainViewer(Viewer):
    """The tests' viewer without WebSocket."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self._frames = _NoFrames(stream)

    async def send(self, *messages: bytes) -> None:
        await self._stream.send_all(b"".join(messages))


class Watch:
    """A viewer that asks for the next update as soon as one has come."""

    def __init__(self, stream: _Counting, reader: Viewer) -> None:
        self._stream = stream
        self._reader = reader

    @classmethod
    async def begin(cls, connection: viewer.Viewer) -> Watch:
        stream = _Counting(connection)
        reader = (Viewer if connection.websocket else _PlainViewer)(stream)
        await reader.greet()
        # What a browser's viewer offers for pixels, without what would make updates unasked for.
        offer = (TIGHT, COPYRECT, LAST_RECT, JPEG_QUALITY_6, COMPRESS_LEVEL_2)
        reader.offered = frozenset(offer)
        await reader.send(set_encodings(*offer), reader.request(0))
        return cls(stream, reader)

    async def run(self, seconds: float) -> Counted:
        """Raises ConnectionError where what comes cannot be right, or nothing does."""
        counted = Counted()
        begin = asked = time.perf_counter()
        before = self._stream.received_bytes
        while asked - begin < seconds:
            with trio.move_on_after(viewer.PATIENCE_S) as patience:
                await self._update()
            if patience.cancelled_caught:
                raise ConnectionError(f"nothing has come for {viewer.PATIENCE_S} s")
            now = time.perf_counter()
            counted.latencies_s.append(now - asked)
            asked = now
            await self._reader.send(self._reader.request(1))
        counted.moved_bytes = self._stream.received_bytes - before
        return counted

    async def _update(self) -> None:
        try:
            await self._reader.update()
        except (OutOfStep, EOFError, trio.BrokenResourceError) as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def main() -> int:
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            print(f"{program} is not installed (Debian: {package})", file=sys.stderr)
            return os.EX_UNAVAILABLE
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    signal.signal(signal.SIGTERM, _end)
    reading, writing = os.pipe()
    command = ["Xvnc", "-displayfd", str(writing), "-rfbport", str(port), "-localhost"]
    command += ["-SecurityTypes", "None", "-AlwaysShared", "-UseBlacklist=0", "-noreset"]
    command += ["-nolisten", "tcp", "-geometry", SIZE, "-depth", "24"]
    children = [subprocess.Popen(command, pass_fds=[writing], stdout=subprocess.DEVNULL)]
    try:
        os.close(writing)
        with os.fdopen(reading) as display:
            number = display.readline().strip()
        if not number:
            return 1
        deadline = time.monotonic() + START_S
        while not _answers(port) and time.monotonic() < deadline:
            time.sleep(0.05)
        terminal = ["xterm", "-geometry", "200x60+0+0", "-e", "sh", "-c", SCROLL]
        children.append(subprocess.Popen(terminal, env=os.environ | {"DISPLAY": f":{number}"}))
        print(json.dumps({"tcp": port}), flush=True)
        return children[0].wait()
    finally:
        for process in reversed(children):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
