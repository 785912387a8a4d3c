"""What the raw pumps send: gathered writes, and what a socket did not take yet.

What it did not take is copied; while there is any, the other side is not read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial

import trio

from relay.ended import Ended, Reason, ended
from relay.limits import Limits
from relay.net import kernel, streams
from relay.net.tls import TlsStream
from relay.pumps import splice
from relay.pumps.leg import DownLeg, Pieces, UpLeg
from relay.pumps.streams import Pumps, wait_viewer_closed
from relay.pumps.switchboard import Switchboard

Writev = Callable[[int, Sequence[bytes | memoryview]], int]

NOTHING = memoryview(b"")


class RawWrites(Pumps):
    """Two sockets to write to, and how a session over them ends."""

    __slots__ = (
        "_board",
        "_controls",
        "_desktop",
        "_desktop_fd",
        "_desktop_writev",
        "_frame",
        "_over",
        "_step_bytes",
        "_to_desktop",
        "_to_viewer",
        "_viewer",
        "_viewer_fd",
    )

    def __init__(
        self,
        down: DownLeg,
        up: UpLeg,
        end: Callable[[Ended], None],
        limits: Limits,
        viewer: trio.SocketStream,
        desktop: trio.SocketStream | TlsStream,
        board: Switchboard,
    ) -> None:
        super().__init__(down, up, lambda how: board.tell_trio(partial(end, how)), limits)
        self._board = board
        self._viewer = viewer
        self._desktop = desktop
        self._viewer_fd = viewer.socket.fileno()
        self._desktop_fd = desktop.socket.fileno()
        self._desktop_writev: Writev = os.writev
        if isinstance(desktop, TlsStream):
            self._desktop_writev = desktop.writev
        # What the other side's socket did not take yet.
        self._to_viewer = NOTHING
        self._to_desktop = NOTHING
        # The frame under way whose payload the kernel moves.
        self._frame: splice.SplicedFrame | None = None
        self._step_bytes = splice.STEP_BYTES
        # The newest control frame of each kind that waits for the rest of a frame to go out.
        self._controls: dict[int, bytes] = {}
        self._over = False

    def close(self) -> None:
        """Gives back what is not the session's own."""
        if self._frame is not None:
            self._frame.close()
            self._frame = None

    def _finished(self, how: Ended) -> None:
        self._over = True
        self._end(how)

    def _viewer_busy(self) -> bool:
        return bool(self._to_viewer) or self._frame is not None

    def _send_viewer(self, pieces: Pieces) -> None:
        rest = self._write(os.writev, self._viewer_fd, pieces, Reason.VIEWER_LOST)
        if rest:
            self._to_viewer = rest
            self.viewer_stalled_since = trio.current_time()

    def _send_desktop(self, pieces: Pieces) -> None:
        rest = self._write(self._desktop_writev, self._desktop_fd, pieces, Reason.DESKTOP_CLOSED)
        if rest:
            self._to_desktop = rest
            self.flow.desktop_behind = True
            self.desktop_stalled_since = trio.current_time()

    def _write(self, writev: Writev, fd: int, pieces: Pieces, lost: Reason) -> memoryview:
        """Writes what the socket takes; returns a copy of the rest."""
        try:
            sent = writev(fd, pieces)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._finished(ended(lost, error.strerror or ""))
            return NOTHING
        total = 0
        for piece in pieces:
            total += len(piece)
        if sent == total:
            return NOTHING
        return kernel.kept(memoryview(b"".join(pieces))[sent:])

    def _move_frame(self, frame: splice.SplicedFrame) -> bool:
        """Moves the frame on as far as the viewer's socket takes it; false when it broke."""
        try:
            moved = frame.move(self._desktop_fd, self.down, self._viewer_fd)
        except EOFError:
            self._finished(ended(Reason.DESKTOP_CLOSED))
            return False
        except OSError as error:
            # Nothing tells which side it was; the viewer's is the one that breaks in mid-write.
            self._finished(ended(Reason.VIEWER_LOST, error.strerror or ""))
            return False
        if not frame.left_bytes:
            self._step_bytes = frame.step_bytes
            self._frame = None
            frame.close()
            self.viewer_stalled_since = math.inf
        elif moved or self.viewer_stalled_since == math.inf:
            self.viewer_stalled_since = trio.current_time()
        return True

    def _flush_viewer(self) -> None:
        if self._to_viewer:
            before = len(self._to_viewer)
            self._to_viewer = self._flush(
                os.writev, self._viewer_fd, self._to_viewer, Reason.VIEWER_LOST
            )
            if self._to_viewer:
                if len(self._to_viewer) < before:
                    self.viewer_stalled_since = trio.current_time()
                return
            self.viewer_stalled_since = math.inf
        if self._frame is not None and not self._over:
            self._move_frame(self._frame)
        if self._controls and not self._viewer_busy() and not self._over:
            controls: Pieces = list(self._controls.values())
            self._controls.clear()
            self._send_viewer(controls)

    def _flush_desktop(self) -> None:
        before = len(self._to_desktop)
        self._to_desktop = self._flush(
            self._desktop_writev, self._desktop_fd, self._to_desktop, Reason.DESKTOP_CLOSED
        )
        if not self._to_desktop:
            self.desktop_stalled_since = math.inf
        elif len(self._to_desktop) < before:
            self.desktop_stalled_since = trio.current_time()

    def _flush(self, writev: Writev, fd: int, waiting: memoryview, lost: Reason) -> memoryview:
        try:
            return waiting[writev(fd, (waiting,)) :]
        except BlockingIOError:
            return waiting
        except OSError as error:
            self._finished(ended(lost, error.strerror or ""))
            return NOTHING

    def _send_control(self, data: bytes) -> None:
        if self._viewer_busy():
            self._controls[data[0]] = data
        else:
            self._send_viewer([data])

    async def finish(self, close: bytes) -> None:
        """Flushes what was approved, sends a close frame and waits for the viewer's. The caller
        sets the deadline, and a side that takes nothing costs the other nothing of it: this owns
        a nursery where there is something for both."""
        messages = self._last_words()
        if not messages:
            await self._finish_viewer(close)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_flush_to, self._desktop, messages)
            await self._finish_viewer(close)

    async def _finish_viewer(self, close: bytes) -> None:
        if await self._finish_frame() and await _flush_to(
            self._viewer, bytes(self._to_viewer) + close
        ):
            await wait_viewer_closed(self.up, self._viewer)

    async def release(self) -> None:
        await _flush_to(self._desktop, self._last_words())

    def _last_words(self) -> bytes:
        messages = bytes(self._to_desktop) + self.up.farewell()
        self._to_desktop = NOTHING
        return messages

    async def _finish_frame(self) -> bool:
        """Ends the frame under way; false when it cannot be ended, so nothing may follow it."""
        frame = self._frame
        if frame is None:
            return True
        if not await _flush_to(self._viewer, bytes(self._to_viewer)):
            return False
        self._to_viewer = NOTHING
        while frame.left_bytes:
            if not self._move_frame(frame):
                return False
            if frame.left_bytes:
                await trio.lowlevel.wait_writable(self._viewer.socket)
        return True


async def _flush_to(stream: trio.abc.SendStream, data: bytes) -> bool:
    try:
        await streams.send(stream, data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        # That side is gone, and what it did not take with it.
        return False
    return True
