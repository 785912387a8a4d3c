"""The pumps over raw sockets: non-blocking reads, gathered writes, called by the switchboard.

No task and no buffer belongs to a session here. All sessions of the process share one scratch
buffer: between a read and the write of what it brought there is no checkpoint, so no other
session can see it. Only what a socket did not take is copied.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable

import trio

from relay.ended import Ended, Reason, ended, ended_by_fault
from relay.errors import ProtocolError
from relay.leg import DownLeg, Pieces, UpLeg
from relay.limits import Limits
from relay.pump import TAIL_LIMIT_BYTES, Pumps, wait_viewer_closed
from relay.rfb.errors import CloseCode
from relay.switchboard import HUNG_UP, READABLE, WRITABLE, Switchboard

# Reads in a row before other sessions get their turn.
_ROUNDS = 16

# The most that one read takes, whatever `Limits.read_bytes` says.
_READ_LIMIT_BYTES = 1_048_576

_SCRATCH = bytearray(TAIL_LIMIT_BYTES + _READ_LIMIT_BYTES)
_VIEW = memoryview(_SCRATCH)

_NOTHING = memoryview(b"")


class RawPumps(Pumps):
    """The pumps of one session over two sockets. Handlers run inside the switchboard's task."""

    def __init__(
        self,
        down: DownLeg,
        up: UpLeg,
        end: Callable[[Ended], None],
        limits: Limits,
        viewer: trio.SocketStream,
        desktop: trio.SocketStream,
    ) -> None:
        super().__init__(down, up, end, limits)
        self._read_bytes = min(limits.read_bytes, _READ_LIMIT_BYTES)
        self._viewer = viewer
        self._desktop = desktop
        self._viewer_fd = viewer.socket.fileno()
        self._desktop_fd = desktop.socket.fileno()
        # What the other side's socket did not take yet; while there is any, nothing is read.
        self._to_viewer = _NOTHING
        self._to_desktop = _NOTHING
        # The newest control frame of each kind that waits for the rest of a frame to go out.
        self._controls: dict[int, bytes] = {}
        # Whether a read may bring something, as far as the edges told.
        self._viewer_readable = True
        self._desktop_readable = True
        # A hang-up is told by one edge, perhaps before its last bytes were read.
        self._viewer_hung_up = False
        self._desktop_hung_up = False
        self._over = False
        self.bug: Exception | None = None
        self._board: Switchboard | None = None

    async def run(self, board: Switchboard, watch: Callable[[], Awaitable[None]]) -> None:
        """Pumps until cancelled, `watch` beside."""
        self._board = board
        self._take_early()
        board.register(self._viewer_fd, self._viewer_event)
        board.register(self._desktop_fd, self._desktop_event)
        try:
            await watch()
        finally:
            self._over = True
            board.unregister(self._viewer_fd)
            board.unregister(self._desktop_fd)

    def _finished(self, how: Ended) -> None:
        self._over = True
        self._end(how)

    def _crashed(self, bug: Exception) -> None:
        """An exception that is ours: this session raises it, the others never notice."""
        self.bug = bug
        self._finished(Ended(Reason.RELAY_FAULT, CloseCode.INTERNAL, "the relay failed"))

    def _take_early(self) -> None:
        """What came together with the handshakes waits in the tails."""
        for leg, send in ((self.down, self._send_viewer), (self.up, self._send_desktop)):
            if leg.tail:
                early = bytearray(leg.tail)
                try:
                    send(leg.take(early, memoryview(early), 0, len(early)))
                except ProtocolError as error:
                    self._finished(ended_by_fault(error))

    def _viewer_event(self, mask: int) -> None:
        if mask & WRITABLE and self._to_viewer:
            self._flush_viewer()
            if not self._to_viewer:
                self._pump_down()
        if mask & READABLE:
            self._viewer_readable = True
            self._viewer_hung_up = bool(mask & HUNG_UP)
            self._pump_up()

    def _desktop_event(self, mask: int) -> None:
        if mask & WRITABLE and self._to_desktop:
            self._flush_desktop()
            if not self._to_desktop:
                self._pump_up()
        if mask & READABLE:
            self._desktop_readable = True
            self._desktop_hung_up = bool(mask & HUNG_UP)
            self._pump_down()

    def _pump_down(self) -> None:
        leg = self.down
        rounds = _ROUNDS
        while self._desktop_readable and not self._to_viewer and not self._over:
            if not rounds:
                assert self._board is not None
                return self._board.again(self._pump_down)
            rounds -= 1
            held = len(leg.tail)
            if held:
                _SCRATCH[:held] = leg.tail
            try:
                count = os.readv(self._desktop_fd, (_VIEW[held : held + self._read_bytes],))
            except BlockingIOError:
                self._desktop_readable = False
                return None
            except OSError as error:
                return self._finished(ended(Reason.DESKTOP_CLOSED, error.strerror or ""))
            if not count:
                return self._finished(ended(Reason.DESKTOP_CLOSED))
            # A short read emptied the socket; what comes later is a new edge.
            if count < self._read_bytes and not self._desktop_hung_up:
                self._desktop_readable = False
            try:
                pieces = leg.take(_SCRATCH, _VIEW, 0, held + count)
            except ProtocolError as error:
                return self._finished(ended_by_fault(error))
            except Exception as bug:  # noqa: BLE001 - other sessions share this task
                return self._crashed(bug)
            if pieces:
                self._send_viewer(pieces)
        return None

    def _pump_up(self) -> None:
        leg = self.up
        rounds = _ROUNDS
        while self._viewer_readable and not self._to_desktop and not self._over:
            if not rounds:
                assert self._board is not None
                return self._board.again(self._pump_up)
            rounds -= 1
            held = len(leg.tail)
            if held:
                _SCRATCH[:held] = leg.tail
            try:
                count = os.readv(self._viewer_fd, (_VIEW[held : held + self._read_bytes],))
            except BlockingIOError:
                self._viewer_readable = False
                return None
            except OSError as error:
                return self._finished(ended(Reason.VIEWER_LOST, error.strerror or ""))
            if not count:
                return self._finished(ended(Reason.VIEWER_LOST))
            if count < self._read_bytes and not self._viewer_hung_up:
                self._viewer_readable = False
            try:
                pieces = leg.take(_SCRATCH, _VIEW, 0, held + count)
            except ProtocolError as error:
                return self._finished(ended_by_fault(error))
            except Exception as bug:  # noqa: BLE001 - other sessions share this task
                return self._crashed(bug)
            if pieces:
                self._send_desktop(pieces)
            self._viewer_said()
        return None

    def _send_viewer(self, pieces: Pieces) -> None:
        rest = self._write(self._viewer_fd, pieces, Reason.VIEWER_LOST)
        if rest:
            self._to_viewer = rest
            self.viewer_stalled_since = trio.current_time()

    def _send_desktop(self, pieces: Pieces) -> None:
        rest = self._write(self._desktop_fd, pieces, Reason.DESKTOP_CLOSED)
        if rest:
            self._to_desktop = rest
            self.desktop_stalled_since = trio.current_time()

    def _write(self, fd: int, pieces: Pieces, lost: Reason) -> memoryview:
        """Writes what the socket takes; returns a copy of the rest."""
        try:
            sent = os.writev(fd, pieces)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._finished(ended(lost, error.strerror or ""))
            return _NOTHING
        total = 0
        for piece in pieces:
            total += len(piece)
        if sent == total:
            return _NOTHING
        return memoryview(b"".join(pieces))[sent:]

    def _flush_viewer(self) -> None:
        before = len(self._to_viewer)
        self._to_viewer = self._flush(self._viewer_fd, self._to_viewer, Reason.VIEWER_LOST)
        if not self._to_viewer:
            self.viewer_stalled_since = math.inf
            if self._controls and not self._over:
                controls: Pieces = list(self._controls.values())
                self._controls.clear()
                self._send_viewer(controls)
        elif len(self._to_viewer) < before:
            self.viewer_stalled_since = trio.current_time()

    def _flush_desktop(self) -> None:
        before = len(self._to_desktop)
        self._to_desktop = self._flush(self._desktop_fd, self._to_desktop, Reason.DESKTOP_CLOSED)
        if not self._to_desktop:
            self.desktop_stalled_since = math.inf
        elif len(self._to_desktop) < before:
            self.desktop_stalled_since = trio.current_time()

    def _flush(self, fd: int, waiting: memoryview, lost: Reason) -> memoryview:
        try:
            return waiting[os.write(fd, waiting) :]
        except BlockingIOError:
            return waiting
        except OSError as error:
            self._finished(ended(lost, error.strerror or ""))
            return _NOTHING

    def _send_control(self, data: bytes) -> None:
        if self._to_viewer:
            self._controls[data[0]] = data
        else:
            self._send_viewer([data])

    async def finish(self, close: bytes) -> None:
        """Flushes what was approved, sends a close frame and waits for the viewer's. The caller
        sets the deadline, and a side that takes nothing costs the other nothing of it: this owns
        a nursery with a task a side."""
        async with trio.open_nursery() as nursery:
            if self._to_desktop:
                nursery.start_soon(_flush_to, self._desktop, bytes(self._to_desktop))
            if await _flush_to(self._viewer, bytes(self._to_viewer) + close):
                await wait_viewer_closed(self.up, self._viewer)


async def _flush_to(stream: trio.SocketStream, data: bytes) -> bool:
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        # That side is gone, and what it did not take with it.
        return False
    return True
