"""The pumps over raw sockets: non-blocking reads, gathered writes, called by the switchboard.

No task and no buffer belongs to a session here. All sessions of the process share one scratch
buffer: between a read and the write of what it brought there is no checkpoint, so no other
session can see it. Only what a socket did not take is copied. Large opaque payload never enters
Python: the kernel moves it through a pipe (docs/decisions/0002-splice.md).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence

import trio

from relay.ended import Ended, Reason, ended, ended_by_fault
from relay.errors import ProtocolError
from relay.limits import Limits
from relay.net import kernel
from relay.net.tls import TlsStream
from relay.net.websocket import BINARY, header
from relay.pumps import slices, splice
from relay.pumps.leg import DownLeg, UpLeg
from relay.pumps.raw_writes import RawWrites
from relay.pumps.slices import DOWN_READ_LEAST_BYTES, DOWN_SLICE_S, UP_READ_BYTES, UP_SLICE_S
from relay.pumps.streams import TAIL_LIMIT_BYTES
from relay.pumps.switchboard import HUNG_UP, READABLE, WRITABLE, Switchboard
from relay.rfb.errors import CloseCode

# The most that one read takes, whatever `Limits.read_bytes` says.
_READ_LIMIT_BYTES = 1_048_576

# In front of what is read stands a tail; the longest is SetEncodings with all it can list, where
# the limits allow that.
_SCRATCH = bytearray(max(TAIL_LIMIT_BYTES, 4 + 4 * 65_535) + _READ_LIMIT_BYTES)
_VIEW = memoryview(_SCRATCH)

monotonic = time.monotonic

Readv = Callable[[int, Sequence[memoryview]], int]

# A viewer that takes `Limits.low_water_bytes` in less may have as much again: more than 100 Mbit/s.
# docs/decisions/0004-lag.md has what that is worth.
_QUICK_S = 0.005


class RawPumps(RawWrites):
    """The pumps of one session over two sockets. The switchboard calls the handlers."""

    # An instance without them takes 1.5 KiB.
    __slots__ = (
        "_desktop_allowance",
        "_desktop_hung_up",
        "_desktop_readable",
        "_desktop_readv",
        "_down_read_bytes",
        "_holds_bytes",
        "_low_water_bytes",
        "_queued",
        "_up_read_bytes",
        "_viewer_allowance",
        "_viewer_hung_up",
        "_viewer_readable",
        "_window_bytes",
        "bug",
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
        super().__init__(down, up, end, limits, viewer, desktop, board)
        self._holds_bytes = self._low_water_bytes = limits.low_water_bytes
        self._window_bytes = limits.desktop_window_bytes
        self._read_bytes = min(limits.read_bytes, _READ_LIMIT_BYTES)
        self._down_read_bytes = self._read_bytes
        self._up_read_bytes = min(self._read_bytes, UP_READ_BYTES)
        self._desktop_readv: Readv = os.readv
        if isinstance(desktop, TlsStream):
            self._desktop_readv = desktop.readv
        # Whether a read may bring something, as far as the edges told.
        self._viewer_readable = True
        self._desktop_readable = True
        # A hang-up is told by one edge, perhaps before its last bytes were read.
        self._viewer_hung_up = False
        self._desktop_hung_up = False
        self._queued = False
        self._viewer_allowance = slices.Allowance()
        self._desktop_allowance = slices.Allowance()
        self.bug: Exception | None = None

    def start(self) -> None:
        """Pumps until `stop`. Raises OSError where the system has no room for two descriptors."""
        kernel.hold_unsent(self._viewer, self._low_water_bytes)
        kernel.unpace(self._viewer)
        kernel.hold_unread(self._desktop, self._window_bytes)
        for stream in (self._viewer, self._desktop):
            kernel.read_urgent_too(stream)
        self._take_early()
        self._board.register(self._viewer_fd, self._viewer_event)
        self._board.register(self._desktop_fd, self._desktop_event)

    def stop(self) -> None:
        """Nothing is pumped any more."""
        self._over = True
        self._board.unregister(self._viewer_fd)
        self._board.unregister(self._desktop_fd)

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
        if self.up.fault is not None:
            self._finished(ended_by_fault(self.up.fault))
        self._viewer_said()

    def wake_watch(self) -> None:
        self._board.tell_trio(super().wake_watch)

    # What the switchboard calls. It serves all sessions, so nothing may be raised.

    def _viewer_event(self, mask: int) -> None:
        try:
            if mask & WRITABLE and self._viewer_busy():
                self._adapt(trio.current_time() - self.viewer_stalled_since)
                self._flush_viewer()
                if not self._viewer_busy():
                    if self.flow.holding:
                        self.send_due()
                    self._pump_down()
            if mask & READABLE:
                self._viewer_readable = True
                self._viewer_hung_up = bool(mask & HUNG_UP)
                if not self._queued:
                    self._pump_up()
        except Exception as bug:  # noqa: BLE001
            self._crashed(bug)

    def _adapt(self, waited_s: float) -> None:
        """Lets the viewer's socket hold more where what it has goes quickly."""
        holds = self._low_water_bytes * (1 if waited_s > _QUICK_S else 2)
        if holds != self._holds_bytes:
            self._holds_bytes = holds
            kernel.hold_unsent(self._viewer, holds)

    def _desktop_event(self, mask: int) -> None:
        try:
            if mask & WRITABLE and self._to_desktop:
                self._flush_desktop()
                if not self._to_desktop:
                    if self.flow.wake:
                        self.send_due()
                    self._pump_up()
            if mask & READABLE:
                self._desktop_readable = True
                self._desktop_hung_up = bool(mask & HUNG_UP)
                if not self._queued:
                    self._pump_down()
        except Exception as bug:  # noqa: BLE001
            self._crashed(bug)

    def _later(self) -> None:
        # Once, however many events come meanwhile: they would have the session called for each.
        if not self._queued:
            self._queued = True
            self._board.again(self._again)

    def _down_slice_used(self) -> None:
        """The desktop has more to say. What it shows is what the viewer wants."""
        if self.down.reader.has_shown():
            self._later()
        else:
            self.desktop_rests_until = self._go_on(self._desktop_allowance)

    def _go_on(self, allowance: slices.Allowance) -> float:
        """Who has more to say than a slice goes on later; one that floods is not read for a while.
        Until when it rests."""
        now = trio.current_time()
        if allowance.spend(now):
            self._later()
            return math.inf
        self.wake_watch()
        return now + slices.REST_S

    def read_on(self, now: float) -> None:
        if self.viewer_rests_until <= now:
            self.viewer_rests_until = math.inf
        if self.desktop_rests_until <= now:
            self.desktop_rests_until = math.inf
        self._later()

    def _again(self) -> None:
        self._queued = False
        try:
            self._pump_down()
            self._pump_up()
        except Exception as bug:  # noqa: BLE001
            self._crashed(bug)

    def _pump_down(self) -> None:
        leg = self.down
        flow = self.flow
        now = until = 0.0
        # Not `_viewer_busy`, here and where a request is read: 0.04 us each.
        while (
            self._desktop_readable
            and not self._to_viewer
            and self._frame is None
            and not self._over
            and self.desktop_rests_until == math.inf
        ):
            if now > until:
                return self._down_slice_used()
            if leg.reader.opaque >= splice.LEAST_BYTES and self._splice():
                now = monotonic()
                until = until or now + DOWN_SLICE_S
                continue
            size = self._down_read_bytes
            held = len(leg.tail)
            if held:
                _SCRATCH[:held] = leg.tail
            try:
                count = self._desktop_readv(self._desktop_fd, (_VIEW[held : held + size],))
            except BlockingIOError:
                self._desktop_readable = False
                return None
            except OSError as error:
                return self._finished(ended(Reason.DESKTOP_CLOSED, error.strerror or ""))
            if not count:
                return self._finished(ended(Reason.DESKTOP_CLOSED))
            # A short read emptied the socket; what comes later is a new edge.
            if count < size and not self._desktop_hung_up:
                self._desktop_readable = False
            # For less the clock would cost more than there is to share out.
            long = count == size or count >= DOWN_READ_LEAST_BYTES
            began = monotonic() if long else 0.0
            try:
                pieces = leg.take(_SCRATCH, _VIEW, 0, held + count)
            except ProtocolError as error:
                return self._finished(ended_by_fault(error))
            if long:
                now = monotonic()
                until = until or began + DOWN_SLICE_S
                took_s = now - began
                if count == size and took_s > DOWN_SLICE_S:
                    if size > DOWN_READ_LEAST_BYTES:
                        self._down_read_bytes = size // 2
                elif size < self._read_bytes and (count < size or took_s < DOWN_SLICE_S / 2):
                    self._down_read_bytes = min(self._read_bytes, size * 2)
            if pieces:
                self._send_viewer(pieces)
            if flow.wake:
                self.send_due()
        if flow.continuous.on and self._viewer_busy():
            # What the desktop sends by itself meanwhile would queue in its own socket.
            self.send_due()
        return None

    def send_due(self) -> None:
        if self._to_desktop or self._over:
            # As soon as the desktop has taken what waits for it.
            self.flow.wake = True
            return
        self.flow.viewer_behind = self._viewer_busy()
        messages = self.up.due()
        if messages:
            self._send_desktop(messages)

    def _splice(self) -> bool:
        """Begins a frame of opaque bytes that the kernel moves; false where that does not pay."""
        frame = splice.begin(self._desktop_fd, self.down, self._step_bytes)
        if frame is None:
            return False
        self._frame = frame
        self._send_viewer([header(BINARY, frame.left_bytes)])
        if not self._to_viewer:
            self._move_frame(frame)
        return True

    def _pump_up(self) -> None:
        leg = self.up
        flow = self.flow
        size = self._up_read_bytes
        now = until = 0.0
        while (
            self._viewer_readable
            and not self._to_desktop
            and not self._over
            and self.viewer_rests_until == math.inf
        ):
            if now > until:
                self.viewer_rests_until = self._go_on(self._viewer_allowance)
                return None
            held = len(leg.tail)
            if held:
                _SCRATCH[:held] = leg.tail
            try:
                count = os.readv(self._viewer_fd, (_VIEW[held : held + size],))
            except BlockingIOError:
                self._viewer_readable = False
                return None
            except OSError as error:
                return self._finished(ended(Reason.VIEWER_LOST, error.strerror or ""))
            if not count:
                return self._finished(ended(Reason.VIEWER_LOST))
            if count < size and not self._viewer_hung_up:
                self._viewer_readable = False
            flow.viewer_behind = self._frame is not None or len(self._to_viewer) > 0
            pieces = leg.take(_SCRATCH, _VIEW, 0, held + count)
            if flow.desktop_behind and count < size:
                # Nothing is queued any more behind what the desktop was late for.
                flow.desktop_behind = False
            if pieces:
                self._send_desktop(pieces)
            if leg.fault is not None:
                return self._finished(ended_by_fault(leg.fault))
            self._viewer_said()
            if count == size:
                now = monotonic()
                until = until or now + UP_SLICE_S
        return None
