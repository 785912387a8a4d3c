"""Recorded sessions of real desktops and viewers, as fast as they go.

Run as `python -m bench.replay` it is the desktop: it sends what the recorded one sent, in answer
to a viewer that sends what the recorded one sent, each in its turn. Only the handshake is this
module's own, since a relay ends it on both sides. It exits with 69 where there are no captures
(beside the checkout, or at $RELAY_SHARED). A session goes through its capture again and again, and
what arrives is compared byte for byte.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing

from bench.framing import SHARED
from bench.recorded import (
    ENABLE_CONTINUOUS_UPDATES,
    SET_ENCODINGS,
    UPDATE_REQUEST,
    Capture,
    captures,
    read,
)
from bench.server import listen
from bench.viewer import Buffer, Viewer

SIDE_PX = 2048
INIT = struct.pack(">HH", SIDE_PX, SIDE_PX) + bytes.fromhex(
    "2018000100ff00ff00ff100800000000" + b"\0\0\0\x06replay".hex()
)


def _qemu_size(data: bytes) -> int:
    if len(data) < 4:
        return 4
    if data[1] == 0:
        return 12
    return 10 if data[2:4] == b"\0\2" else 4


# By type: how many bytes a viewer's message has, as far as its head tells (RFC 6143, Section 7.5,
# and the community specification). A head that is incomplete asks for more of itself.
SIZES: dict[int, Callable[[bytes], int]] = {
    0: lambda _: 20,
    SET_ENCODINGS: lambda d: 4 + 4 * int.from_bytes(d[2:4], "big") if len(d) >= 4 else 4,
    UPDATE_REQUEST: lambda _: 10,
    4: lambda _: 8,
    5: lambda _: 6,
    6: lambda d: 8 + abs(int.from_bytes(d[4:8], "big", signed=True)) if len(d) >= 8 else 8,
    ENABLE_CONTINUOUS_UPDATES: lambda _: 10,
    248: lambda d: 9 + d[8] if len(d) >= 9 else 9,
    251: lambda d: 8 + 16 * d[6] if len(d) >= 8 else 8,
    255: _qemu_size,
}


# The viewer.


def play(recorded: list[Capture], connect: Callable[[], Viewer], seconds: float) -> int:
    """Goes through all captures, in a session each, for as long in all; the RFB bytes that came.
    Raises ConnectionError where something else came than the recorded desktop sent."""
    buffer = Buffer()
    moved_bytes = 0
    for index, capture in enumerate(recorded):
        with closing(connect()) as viewer:
            viewer.handshake(INIT)
            viewer.send(_selection(index) + b"\0\0\0\0" + capture.pixel_format)
            viewer.due(capture.stream, numbered=False)
            passes = 0
            begin = time.perf_counter()
            while time.perf_counter() - begin < seconds / len(recorded):
                for step in capture.viewer:
                    _reach(viewer, buffer, passes * viewer.update_bytes + step.behind)
                    viewer.send(step.data)
                passes += 1
                _reach(viewer, buffer, passes * viewer.update_bytes)
            moved_bytes += viewer.received_bytes
    return moved_bytes


def _reach(viewer: Viewer, buffer: Buffer, received_bytes: int) -> None:
    while viewer.received_bytes < received_bytes:
        viewer.receive(buffer)


def _selection(index: int) -> bytes:
    """A SetEncodings that tells the desktop which capture, in the levels of quality and
    compression; others would not pass a relay that reads the protocol."""
    return struct.pack(">BxHiii", SET_ENCODINGS, 3, 7, index % 10 - 32, index // 10 - 256)


# The desktop.


class _Desktop:
    """One connection."""

    def __init__(self, peer: socket.socket, recorded: list[Capture]) -> None:
        self._peer = peer
        self._recorded = recorded
        self._data = b""
        self._heard: Counter[int] = Counter()
        self._first_list = b""

    def run(self) -> None:
        """Until the viewer leaves. Raises EOFError or OSError then."""
        for ours, theirs in ((b"RFB 003.008\n", 12), (b"\x01\x01", 1), (bytes(4), 1)):
            self._peer.sendall(ours)
            self._take(theirs)
        self._peer.sendall(INIT)
        while not self._first_list:
            self._listen()
        quality, compression = struct.unpack_from(">ii", self._first_list, 8)
        capture = self._recorded[quality + 32 + 10 * (compression + 256)]
        lists, enables = capture.desktop[-1].lists, capture.desktop[-1].enables
        answered = passes = 0
        while True:
            for step in capture.desktop:
                # The list that chose the capture comes on top.
                while (
                    self._heard[SET_ENCODINGS] <= passes * lists + step.lists
                    or self._heard[ENABLE_CONTINUOUS_UPDATES] < passes * enables + step.enables
                    or (step.asked and answered >= self._heard[UPDATE_REQUEST])
                ):
                    self._listen()
                # A relay may send up one request for several, so one update answers them all;
                # what came unasked answers none that are still to come.
                answered = min(answered + step.updates, self._heard[UPDATE_REQUEST])
                self._peer.sendall(step.data)
            passes += 1

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            data = self._peer.recv(65_536)
            if not data:
                raise EOFError
            self._data += data
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def _listen(self) -> None:
        """The viewer's next message."""
        size = 1
        message = b""
        while len(message) < size:
            message += self._take(size - len(message))
            if message[0] not in SIZES:
                raise ValueError(f"message type {message[0]}")
            size = SIZES[message[0]](message)
        self._heard[message[0]] += 1
        if message[0] == SET_ENCODINGS and not self._first_list:
            self._first_list = message


def _serve(peer: socket.socket, recorded: list[Capture]) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with peer:
        try:
            _Desktop(peer, recorded).run()
        except (EOFError, OSError):
            pass  # the viewer left, as it does after every capture


def main() -> int:
    usable, reasons = captures()
    if not usable:
        print(f"no captures at {SHARED / 'traces'}; set RELAY_SHARED", file=sys.stderr)
        return os.EX_UNAVAILABLE
    for name, reason in reasons.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    recorded = [read(path) for path in usable]
    with listen() as listener:
        print(json.dumps({"tcp": listener.getsockname()[1]}), flush=True)
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=_serve, args=(peer, recorded), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
