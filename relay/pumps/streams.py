"""The two pumps of a session: receive, frame, judge, send.

`Pumps` holds what they share whatever moves the bytes; `StreamPumps` moves them over any Trio
stream (TLS, a test's memory stream); `relay.pumps.raw` does so over raw sockets. A pump tells its
session how it ended by calling `end`, once or more often: the first counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from relay.ended import Ended, Reason, ended, ended_by_fault
from relay.errors import ProtocolError
from relay.limits import Limits
from relay.net.websocket import PING, PONG, frame, parse_close
from relay.net.websocket_stream import WebSocketStream
from relay.pumps.leg import DownLeg, UpLeg
from relay.rfb import from_desktop, from_viewer
from relay.rfb.errors import CloseCode

TAIL_LIMIT_BYTES = max(from_desktop.TAIL_LIMIT_BYTES, from_viewer.TAIL_LIMIT_BYTES)

LINGER_LIMIT_BYTES = 1_048_576
"""What is read of a viewer after our close frame. Nothing is read while a desktop stalls, so 30 s
of pointer events (12 bytes a frame, 1000 a second) and a clipboard may wait; more is a flood."""

_PING = frame(PING, b"")


class Pumps:
    """What both drivers do alike. Times are those of `trio.current_time()`.

    `viewer_stalled_since` and `desktop_stalled_since` say since when that peer has taken no byte
    of what waits for it (infinity: nothing waits). `pinged_at` is when an unanswered ping went
    out, or infinity; `input_at` when the viewer last gave input; `waits_since` when the flow
    began to wait for an update, or infinity. The session's watch sleeps in `nap`.
    """

    __slots__ = (
        "_end",
        "_inputs",
        "_read_bytes",
        "_waits",
        "desktop_rests_until",
        "desktop_stalled_since",
        "down",
        "flow",
        "input_at",
        "nap",
        "pinged_at",
        "up",
        "viewer_rests_until",
        "viewer_stalled_since",
        "waits_since",
    )

    def __init__(
        self, down: DownLeg, up: UpLeg, end: Callable[[Ended], None], limits: Limits
    ) -> None:
        self.down = down
        self.up = up
        self.flow = down.reader.flow
        self._end = end
        self._read_bytes = limits.read_bytes
        self.viewer_stalled_since = math.inf
        self.desktop_stalled_since = math.inf
        self.pinged_at = math.inf
        self.waits_since = math.inf
        self.viewer_rests_until = math.inf
        self.desktop_rests_until = math.inf
        self._waits = 0
        self.nap = trio.CancelScope()
        self.input_at = trio.current_time()
        self._inputs = 0

    def _send_control(self, data: bytes) -> None:
        raise NotImplementedError

    def send_due(self) -> None:
        """Has the desktop sent what was held back, or is the relay's own."""
        raise NotImplementedError

    def read_on(self, now: float) -> None:
        """Ends the rests that are over."""
        raise NotImplementedError

    async def release(self) -> None:
        """The last words to the desktop: what the viewer holds down is released."""
        raise NotImplementedError

    def ping(self) -> None:
        """Asks the viewer for a sign of life."""
        self.up.frames.calm()
        if self.pinged_at == math.inf:
            self.pinged_at = trio.current_time()
        self._send_control(_PING)

    def wake_watch(self) -> None:
        """Has the session's watch compute its deadlines anew."""
        self.nap.cancel()

    def _viewer_said(self) -> None:
        """After the up leg took bytes: answers control frames and notes the times."""
        if self.flow.waits != self._waits:
            self._waits = self.flow.waits
            self.waits_since = trio.current_time()
            self.wake_watch()
        inputs = self.up.reader.inputs
        if inputs != self._inputs:
            self._inputs = inputs
            self.input_at = trio.current_time()
        controls = self.up.frames.controls
        if not controls:
            return
        pong = b""
        for opcode, payload in controls:
            if opcode == PING:
                pong = frame(PONG, payload)
            elif opcode == PONG:
                self.pinged_at = math.inf
            else:
                code, _ = parse_close(payload)
                self._end(ended(Reason.VIEWER_CLOSED, f"close code {code}"))
                break
        controls.clear()
        if pong:
            self._send_control(pong)


class StreamPumps(Pumps):
    """The pumps over `trio.abc.Stream`s. `run` owns one nursery with a task a direction."""

    def __init__(
        self,
        down: DownLeg,
        up: UpLeg,
        end: Callable[[Ended], None],
        limits: Limits,
        viewer: trio.abc.Stream,
        desktop: trio.abc.Stream,
    ) -> None:
        super().__init__(down, up, end, limits)
        self._viewer = viewer
        self._desktop = desktop
        # One frame at a time: control frames of the up pump go between those of the down pump.
        self._viewer_lock = trio.Lock()
        # As for messages: held requests go when the down pump has read an update's end.
        self._desktop_lock = trio.Lock()
        # The newest frame of each kind: a viewer that pings and reads nothing collects nothing.
        self._controls: dict[int, bytes] = {}
        self._control_waits = trio.Event()
        self._due_waits = trio.Event()
        # A cancelled or failed send leaves a stream that no close frame can go out on.
        self._viewer_broken = False
        self._desktop_broken = False

    async def run(self, watch: Callable[[], object]) -> None:
        """Pumps until cancelled, `watch` (an async function) beside."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump_down)
            nursery.start_soon(self._pump_up)
            nursery.start_soon(self._pump_controls)
            nursery.start_soon(self._pump_due)
            nursery.start_soon(watch)  # type: ignore[arg-type]

    async def _send_viewer(self, data: bytes) -> None:
        async with self._viewer_lock:
            self._viewer_broken = self.flow.viewer_behind = True
            self.viewer_stalled_since = trio.current_time()
            await self._viewer.send_all(data)
            self.viewer_stalled_since = math.inf
            self._viewer_broken = self.flow.viewer_behind = False
        if self.flow.holding:
            self.send_due()

    async def _send_desktop(self, data: bytes) -> None:
        async with self._desktop_lock:
            self._desktop_broken = True
            self.desktop_stalled_since = began = trio.current_time()
            await self._desktop.send_all(data)
            self.flow.desktop_behind = trio.current_time() > began
            self.desktop_stalled_since = math.inf
            self._desktop_broken = False

    def send_due(self) -> None:
        self._due_waits.set()

    async def _pump_due(self) -> None:
        # A task of its own: a desktop that does not read must stop neither the watch, which would
        # end the session for it, nor the down pump, whose bytes it may want to be rid of first.
        try:
            while True:
                await self._due_waits.wait()
                self._due_waits = trio.Event()
                messages = self.up.due()
                if messages:
                    await self._send_desktop(b"".join(messages))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end(ended(Reason.DESKTOP_CLOSED, "connection reset"))

    async def release(self) -> None:
        # A send that was cancelled left half a message on the stream: nothing can follow it.
        messages = b"" if self._desktop_broken else self.up.farewell()
        if messages:
            try:
                await self._desktop.send_all(messages)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
        if isinstance(self._desktop, WebSocketStream):
            await self._desktop.say_goodbye(CloseCode.NORMAL, "")

    def _send_control(self, data: bytes) -> None:
        self._controls[data[0]] = data
        self._control_waits.set()

    async def _pump_controls(self) -> None:
        try:
            while True:
                await self._control_waits.wait()
                self._control_waits = trio.Event()
                data = b"".join(self._controls.values())
                self._controls.clear()
                await self._send_viewer(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end(ended(Reason.VIEWER_LOST))

    async def _pump_down(self) -> None:
        leg = self.down
        try:
            data = b""
            while True:
                if leg.tail or data:
                    buf = bytearray(leg.tail) + data
                    pieces = leg.take(buf, memoryview(buf), 0, len(buf))
                    if self.flow.wake:
                        self.send_due()
                    if pieces:
                        try:
                            await self._send_viewer(b"".join(pieces))
                        except (trio.BrokenResourceError, trio.ClosedResourceError):
                            return self._end(ended(Reason.VIEWER_LOST))
                data = bytes(await self._desktop.receive_some(self._read_bytes))
                if not data:
                    return self._end(ended(Reason.DESKTOP_CLOSED))
        except ProtocolError as error:
            self._end(ended_by_fault(error))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            fault = error.__cause__
            if isinstance(fault, ProtocolError):
                # Of a workspace agent's framing; it has been told the code.
                fault.close_code = CloseCode.DESKTOP_FAULT
                return self._end(ended_by_fault(fault))
            self._end(ended(Reason.DESKTOP_CLOSED, "connection reset"))

    async def _pump_up(self) -> None:
        leg = self.up
        try:
            data = b""
            while True:
                if leg.tail or data:
                    buf = bytearray(leg.tail) + data
                    pieces = leg.take(buf, memoryview(buf), 0, len(buf))
                    self._viewer_said()
                    if pieces:
                        try:
                            await self._send_desktop(b"".join(pieces))
                        except (trio.BrokenResourceError, trio.ClosedResourceError):
                            return self._end(ended(Reason.DESKTOP_CLOSED, "connection reset"))
                    if leg.fault is not None:
                        return self._end(ended_by_fault(leg.fault))
                data = bytes(await self._viewer.receive_some(self._read_bytes))
                if not data:
                    return self._end(ended(Reason.VIEWER_LOST))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end(ended(Reason.VIEWER_LOST, "connection reset"))

    async def finish(self, close: bytes) -> None:
        """Sends a close frame and waits for the viewer's. The caller sets the deadline. Owns a
        nursery with a task a side, so that neither waits for the other."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.release)
            await self._finish_viewer(close)

    async def _finish_viewer(self, close: bytes) -> None:
        if self._viewer_broken:
            return
        try:
            await self._viewer.send_all(close)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        await wait_viewer_closed(self.up, self._viewer)


async def wait_viewer_closed(up: UpLeg, viewer: trio.abc.ReceiveStream) -> None:
    """After our close frame: reads on until the viewer's has come, or its stream ends, or it has
    sent LINGER_LIMIT_BYTES more.

    Closing with bytes unread resets the connection, and the reset may overtake our frame; so a
    viewer that broke the framing is read on too, without looking.
    """
    frames = up.frames
    left = LINGER_LIMIT_BYTES
    try:
        while not frames.closed and left > 0 and (data := await viewer.receive_some(4096)):
            left -= len(data)
            buf = bytearray(data)
            try:
                frames.unframe(buf, 0, len(buf))
            except ProtocolError:
                # The session is over already; what follows is discarded.
                pass
            frames.controls.clear()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
