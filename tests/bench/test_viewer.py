"""What a viewer of the load notices."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from bench.server import SERVER_INIT, UPDATES, stamp
from bench.viewer import Buffer, Viewer
from bench.wire import PING, PONG, frame
from tests.labs.synthetic_desktop import synthetic_desktop


def test_the_desktop_speaks_websocket_too() -> None:
    with synthetic_desktop("ws") as (address, _), closing(Viewer(address)) as viewer:
        viewer.handshake()
        viewer.choose(2)
        for _ in range(3):
            viewer.ask()
        assert receive_all(viewer, Buffer(), 3) == 3
        viewer.leave()


LEVEL = 2


def numbered(number: int) -> bytes:
    update = bytearray(UPDATES[LEVEL])
    stamp(update, number)
    return bytes(update)


def receive_all(viewer: Viewer, buffer: Buffer, updates: int = sys.maxsize) -> int:
    came = 0
    while came < updates:
        came += viewer.receive(buffer)
    return came


def run_against(stream: bytes) -> int:
    """How many updates a viewer takes from a desktop that sends `stream` and ends."""
    handshake = b"RFB 003.008\n" + b"\x01\x01" + bytes(4) + SERVER_INIT
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with closing(Viewer(f"tcp://127.0.0.1:{port}")) as viewer, listener.accept()[0] as desktop:
            # Small enough for the socket buffers, so one thread can be both ends.
            desktop.sendall(handshake + stream)
            desktop.shutdown(socket.SHUT_WR)
            viewer.handshake()
            viewer.choose(LEVEL)
            return receive_all(viewer, Buffer(4096), 3)


def swap(update: bytes) -> bytes:
    """Two chunks of one update in each other's place."""
    return update[:4096] + update[8192:12288] + update[4096:8192] + update[12288:]


def flip(update: bytes, at: int) -> bytes:
    return update[:at] + bytes([update[at] ^ 1]) + update[at + 1 :]


def test_a_viewer_takes_what_is_due() -> None:
    assert run_against(numbered(0) + numbered(1) + numbered(2)) == 3


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(numbered(0) + numbered(0) + numbered(1), id="repeated"),
        pytest.param(numbered(0) + numbered(2) + numbered(3), id="lost"),
        pytest.param(numbered(0) + numbered(2) + numbered(1), id="reordered"),
        pytest.param(numbered(0) + swap(numbered(1)) + numbered(2), id="chunks swapped"),
        pytest.param(numbered(0) + flip(numbered(1), 20000) + numbered(2), id="one bit"),
        pytest.param(numbered(0) + flip(numbered(1), -3 % len(numbered(1))), id="of the number"),
        pytest.param(numbered(0) + numbered(1)[256:] + numbered(2), id="a hole"),
    ],
)
def test_a_viewer_notices_corruption(stream: bytes) -> None:
    with pytest.raises(ConnectionError, match="not those due"):
        run_against(stream)


def test_a_stream_that_ends_early_is_an_error() -> None:
    with pytest.raises(ConnectionError, match="the connection ended"):
        run_against(numbered(0) + numbered(1))


@contextmanager
def websocket_viewer() -> Iterator[tuple[Viewer, socket.socket]]:
    """A viewer behind its upgrade, waiting for updates, and the other end of its connection."""
    with synthetic_desktop("ws") as (address, _), closing(Viewer(address)) as viewer:
        viewer.choose(LEVEL)
        near, far = socket.socketpair()
        with near, far:
            viewer.socket.close()
            viewer.socket = near
            yield viewer, far


@pytest.mark.parametrize("piece", [1, 3, 1000, 100_000])
def test_frames_may_end_anywhere(piece: int) -> None:
    stream = numbered(0) + numbered(1)
    ping = frame(b"still there?", PING)
    framed = frame(stream[:125]) + ping + frame(stream[125:300]) + frame(b"") + frame(stream[300:])
    with websocket_viewer() as (viewer, far):
        buffer = Buffer()
        came = 0
        for at in range(0, len(framed), piece):
            far.sendall(framed[at : at + piece])
            came += viewer.receive(buffer)
        while came < 2:
            came += viewer.receive(buffer)
        pong = far.recv(4096)
    assert (pong[0] & 15, pong[1]) == (PONG, 0x80 | len(b"still there?"))


@pytest.mark.parametrize(
    ("framed", "message"),
    [
        (frame(flip(numbered(0), 5000)), "not those due"),
        (frame(numbered(0)[:5000]) + frame(numbered(0)[5001:]), "not those due"),
        (frame(numbered(0), 1), "a frame of opcode 1"),
        (frame(b"\x03\xe8", 8), "a frame of opcode 8"),
    ],
)
def test_corruption_in_frames_is_noticed(framed: bytes, message: str) -> None:
    with websocket_viewer() as (viewer, far):
        far.sendall(framed)
        with pytest.raises(ConnectionError, match=message):
            receive_all(viewer, Buffer(4096))
