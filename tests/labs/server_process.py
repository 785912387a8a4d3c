"""The real server in a process of its own, with its desktops and viewers on plain sockets.

For tests that look at the process from outside: its memory, descriptors and system calls. All
sockets are the test's and block, with a deadline, unless the test says otherwise.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.labs.peers import PIXEL_FORMAT, client_frame
from tests.labs.waiting import until

PATIENCE_S = 30.0
"""For anything that is waited for; only a test that fails waits so long."""

# What noVNC 1.7.0 offers.
_OFFERED = (1, 7, 16, 21, 5, 2, 6, 0, -26, -254, -223, -224, -258, -308, -309, -312, -313, -307,
            -1063131698, -239, 0x574D5664)  # fmt: skip
SET_ENCODINGS = struct.pack(f">BxH{len(_OFFERED)}i", 2, len(_OFFERED), *_OFFERED)
REQUEST = struct.pack(">BBHHHH", 3, 1, 0, 0, 640, 480)
"""An incremental FramebufferUpdateRequest for the whole screen (RFC 6143, Section 7.5.3)."""

# Either direction's messages are large, so that filling it costs little: 160 KB of Raw, 60 KB of
# clipboard text.
UPDATE = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 200, 200, 0) + bytes(200 * 200 * 4)
TEXT = client_frame(struct.pack(">BxxxI", 6, 60_000) + b"a" * 60_000)

Pair = tuple[socket.socket, socket.socket]
"""A viewer and its desktop."""


def exactly(peer: socket.socket, count: int) -> bytes:
    """So many bytes off a socket; fails the test where it ends before."""
    data = b""
    while len(data) < count:
        more = peer.recv(count - len(data))
        assert more, f"the connection ended behind {data!r}"
        data += more
    return data


class Desktops:
    """Desktops of 640x480 at one address: every connection is logged in, and is `next` then."""

    def __init__(self, send_buffer_bytes: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        if send_buffer_bytes:
            # Accepted sockets inherit it.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        self._open: queue.Queue[socket.socket] = queue.Queue()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def next(self) -> socket.socket:
        """The next connection, in the order in which they were made."""
        return self._open.get(timeout=PATIENCE_S)

    def _serve(self) -> None:
        while True:
            try:
                peer = self._listener.accept()[0]
            except OSError:
                return  # closed
            peer.settimeout(PATIENCE_S)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # RFC 6143, Sections 7.1 to 7.3.
            peer.sendall(b"RFB 003.008\n")
            exactly(peer, 12)
            peer.sendall(b"\x01\x01")
            exactly(peer, 1)
            peer.sendall(b"\0\0\0\0")
            exactly(peer, 1)
            peer.sendall(struct.pack(">HH", 640, 480) + PIXEL_FORMAT + b"\0\0\0\x03lab")
            self._open.put(peer)

    def close(self) -> None:
        # Closing alone does not wake the thread.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        while not self._open.empty():
            self._open.get().close()


@dataclass
class Server:
    """`pid` is that of the server itself, also where another program runs it."""

    pid: int
    ws_url: str
    token: str
    desktops: Desktops

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def sleeps(self) -> None:
        """Waits until the server waits for something. Not for long: it looks all the time."""
        stat = Path(f"/proc/{self.pid}/stat")
        until(
            lambda: stat.read_text().rpartition(") ")[2][0] == "S",
            "the server is busy",
            within_s=PATIENCE_S,
            every_s=0,
        )

    def settle(self) -> None:
        """Waits until the server does nothing: between three looks it has used no CPU time."""
        times: list[list[str]] = []

        def rests() -> bool:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            times.append(fields[11:13])  # utime and stime, in clock ticks
            return len(times) > 2 and times[-3] == times[-1]

        until(
            rests,
            "the server does not come to rest",
            within_s=PATIENCE_S,
            every_s=0.1,
        )

    def view(self, receive_buffer_bytes: int = 0) -> tuple[socket.socket, socket.socket]:
        """A viewer that has said what noVNC says, has asked for an update and waits for it; and
        the desktop that it waits for."""
        parts = urlsplit(self.ws_url)
        viewer = socket.socket()
        viewer.settimeout(PATIENCE_S)
        if receive_buffer_bytes:
            viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        viewer.connect((parts.hostname, parts.port))
        viewer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        viewer.sendall(
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Coder-Session-Token: {self.token}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head = viewer.recv(4096, socket.MSG_PEEK)
            assert head, "the upgrade was refused"
        assert head.startswith(b"HTTP/1.1 101 "), head
        exactly(viewer, head.index(b"\r\n\r\n") + 4)
        init = struct.pack(">HH", 640, 480) + PIXEL_FORMAT + b"\0\0\0\x03lab"
        answers = (b"RFB 003.008\n", b"\x01", b"\x01", SET_ENCODINGS + REQUEST)
        for said, answer in zip(
            (b"RFB 003.008\n", b"\x01\x01", bytes(4), init), answers, strict=True
        ):
            assert exactly(viewer, 2 + len(said)) == bytes([0x82, len(said)]) + said
            viewer.sendall(client_frame(answer))
        desktop = self.desktops.next()
        (count,) = struct.unpack(">xxH", exactly(desktop, 4))
        exactly(desktop, 4 * count)
        assert exactly(desktop, len(REQUEST)) == REQUEST
        return viewer, desktop


def _fill(server: Server, peers: list[socket.socket], message: bytes) -> None:
    """Has each peer send the message over and over until the server takes no more of it."""
    left = dict.fromkeys(peers, memoryview(b""))
    pushed = True
    while pushed:
        pushed = False
        for peer in peers:
            try:
                while True:
                    left[peer] = left[peer] or memoryview(message)
                    left[peer] = left[peer][peer.send(left[peer]) :]
                    pushed = True
            except BlockingIOError:
                continue
        server.settle()


def stall(server: Server, pairs: list[Pair]) -> None:
    """Both sides of each session send, and neither reads."""
    _fill(server, [desktop for _, desktop in pairs], UPDATE)
    _fill(server, [viewer for viewer, _ in pairs], TEXT)


@contextmanager
def serving(cwd: Path, *prefix: str, send_buffer_bytes: int = 0) -> Iterator[Server]:
    """A demo in front of `Desktops`; `prefix` is a program that runs it, with arguments."""
    desktops = Desktops(send_buffer_bytes)
    command = ["demo", "--json", "--bind", "127.0.0.1:0", "--desktop", desktops.address]
    log = cwd / "server.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [*prefix, sys.executable, "-m", "api", *command], stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            demo = json.loads(line)
            # The demo looks whether its desktop answers.
            desktops.next().close()
            yield Server(demo["pid"], demo["ws_url"], demo["token"], desktops)
            os.kill(demo["pid"], signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, log.read_text()
        finally:
            process.kill()
            desktops.close()
