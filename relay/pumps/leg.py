"""One direction of a session as a plain object: bytes in, bytes to write out, no I/O.

Both drivers use them: `relay.pumps.raw` on raw sockets, `relay.pumps.streams` on any Trio stream.
Feed a leg the window `buf[start:stop]`, whose beginning is what the leg kept in `tail`; it returns
what to write to the other side, as pieces for one gathered write. The pieces are views of `buf`:
write or copy them before the buffer is used again.
"""

from __future__ import annotations

from relay.errors import ProtocolError
from relay.net.websocket import BINARY, FrameReader, header
from relay.rfb.errors import EVIDENCE_BYTES
from relay.rfb.from_desktop import FromDesktop
from relay.rfb.from_viewer import FromViewer
from relay.rfb.reader import Reader

Pieces = list[bytes | memoryview]

_PIECES = 1_000
"""A gathered write takes 1,024 (IOV_MAX); a header and what is due come to these."""


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
    if len(pieces) > _PIECES:
        pieces = [b"".join(pieces)]
    return pieces, sum(map(len, pieces))


def _frames(view: memoryview, start: int, cuts: list[int], end: int) -> Pieces:
    """`view[start:end]` as frames of which each but the last ends at a cut."""
    pieces: Pieces = []
    for behind in (*cuts, end):
        if behind > start:
            pieces += (header(BINARY, behind - start), view[start:behind])
            start = behind
    return pieces


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
        if not reader.edits:
            length = end - start
            self.bytes_moved += length
            if reader.cuts:
                return _frames(view, start, reader.cuts, end)
            return [header(BINARY, length), view[start:end]] if length else []
        pieces, length = _approved(reader, view, start, end)
        if length:
            self.bytes_moved += length
            pieces.insert(0, header(BINARY, length))
        return pieces


class UpLeg:
    """From the viewer's WebSocket frames to the desktop's RFB.

    Control frames of the viewer collect in `frames.controls`. What a viewer says before it breaks
    a rule still goes to the desktop: it may be what ends a message, or releases a key. `fault`
    is set then, and nothing more may be fed.
    """

    __slots__ = ("bytes_moved", "fault", "frames", "reader", "tail")

    def __init__(self, reader: FromViewer, frames: FrameReader, early: bytes) -> None:
        self.reader = reader
        self.frames = frames
        self.tail = early
        self.fault: ProtocolError | None = None
        self.bytes_moved = 0

    def take(self, buf: bytearray, view: memoryview, start: int, stop: int) -> Pieces:
        """Unframes what comes behind the tail, and judges."""
        reader, frames = self.reader, self.frames
        offset = reader.offset
        framed, came = start + len(self.tail), frames.offset
        try:
            payload_stop = frames.unframe(buf, framed, stop)
        except ProtocolError as error:
            self.fault = error
            at = framed + max(0, error.offset - came)
            error.evidence = bytes(view[at : min(at + EVIDENCE_BYTES, stop)])
            payload_stop = frames.reached
        try:
            end = reader.judge(buf, start, payload_stop)
        except ProtocolError as error:
            # It stands in front of a fault of the framing, if there is one as well.
            self.fault = error
            end = payload_stop = start + reader.offset - offset
        self.tail = bytes(view[end:payload_stop]) if end < payload_stop else b""
        pieces, length = _approved(reader, view, start, end)
        self.bytes_moved += length
        if reader.flow.wake:
            pieces += self.due()
        return pieces

    def due(self) -> Pieces:
        """What is to go up besides what the viewer sent just now: messages that were held back,
        or the relay's own. Never inside a message of the viewer's; one that is under way is ended
        for releases only."""
        reader = self.reader
        filler = b""
        if reader.opaque and not reader.discarding:
            if not reader.flow.releases:
                reader.flow.wake = True
                return []
            # Whoever has lost a right does not decide when its keys are released: the rest of the
            # text is not waited for.
            filler = reader.filler * reader.opaque
            reader.discarding = True
        messages = filler + reader.flow.due()
        self.bytes_moved += len(messages)
        return [messages] if messages else []

    def farewell(self) -> bytes:
        """The last words to the desktop: what the viewer held down is released. A clipboard
        text under way ends in spaces, for nothing else would be read before its end."""
        reader = self.reader
        rest = 0 if reader.discarding else reader.opaque
        reader.opaque = 0
        # A right that was lost may have left releases that could not go up yet.
        releases, reader.flow.releases = reader.flow.releases, b""
        released = reader.ledger.release(relative=reader.state.pointer_relative)
        return reader.filler * rest + releases + released
