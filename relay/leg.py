"""One direction of a session as a plain object: bytes in, bytes to write out, no I/O.

Both drivers use them: `relay.socketio` on raw sockets, `relay.pump` on any Trio stream. Feed a
leg the window `buf[start:stop]`, whose beginning is what the leg kept in `tail`; it returns
what to write to the other side, as pieces for one gathered write. The pieces are views of `buf`:
write or copy them before the buffer is used again.
"""

from __future__ import annotations

from relay.rfb.from_desktop import FromDesktop
from relay.rfb.from_viewer import FromViewer
from relay.rfb.reader import Reader
from relay.websocket import BINARY, FrameReader, header

Pieces = list[bytes | memoryview]


def _approved(reader: Reader, view: memoryview, start: int, end: int) -> tuple[Pieces, int]:
    """What to forward of `view[start:end]` after edits, and its length."""
    if not reader.edits:
        return ([view[start:end]], end - start) if end > start else ([], 0)
    pieces: Pieces = []
    for first, behind, replacement in reader.edits:
        if first > start:
            pieces.append(view[start:first])
        if replacement:
            pieces.append(replacement)
        start = behind
    if end > start:
        pieces.append(view[start:end])
    return pieces, sum(map(len, pieces))


class DownLeg:
    """From the desktop's RFB to the viewer's WebSocket frames."""

    __slots__ = ("bytes_moved", "reader", "tail")

    def __init__(self, reader: FromDesktop, early: bytes) -> None:
        self.reader = reader
        self.tail = early
        self.bytes_moved = 0

    def take(self, buf: bytearray, view: memoryview, start: int, stop: int) -> Pieces:
        """Judges and frames. `view` is a memoryview of `buf`. Raises ProtocolError."""
        reader = self.reader
        end = reader.judge(buf, start, stop)
        self.tail = bytes(view[end:stop]) if end < stop else b""
        pieces, length = _approved(reader, view, start, end)
        if length:
            self.bytes_moved += length
            pieces.insert(0, header(BINARY, length))
        return pieces


class UpLeg:
    """From the viewer's WebSocket frames to the desktop's RFB.

    Control frames of the viewer collect in `frames.controls`.
    """

    __slots__ = ("bytes_moved", "frames", "reader", "tail")

    def __init__(self, reader: FromViewer, frames: FrameReader, early: bytes) -> None:
        self.reader = reader
        self.frames = frames
        self.tail = early
        self.bytes_moved = 0

    def take(self, buf: bytearray, view: memoryview, start: int, stop: int) -> Pieces:
        """Unframes what comes behind the tail, and judges. Raises ProtocolError."""
        reader = self.reader
        stop = self.frames.unframe(buf, start + len(self.tail), stop)
        end = reader.judge(buf, start, stop)
        self.tail = bytes(view[end:stop]) if end < stop else b""
        pieces, length = _approved(reader, view, start, end)
        self.bytes_moved += length
        return pieces
