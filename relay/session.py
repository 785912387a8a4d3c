"""One viewer on one desktop, from the 101 to the close.

`Session.run` owns both ends and, over streams that are not sockets, one nursery with the pumps.
It returns an `Ended`; it does not raise for a peer's fault.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

import trio

from relay.dialling.login import DesktopEnd, PeerClosed, drive, log_in
from relay.dialling.passwords import PasswordSource
from relay.ended import Counters, Ended, Reason, ended, ended_by_fault
from relay.errors import ProtocolError
from relay.limits import Limits
from relay.net import kernel, streams
from relay.net.websocket import BINARY, CLOSE, PING, PONG, FrameReader, close_payload, frame
from relay.net.websocket_stream import WebSocketStream
from relay.pumps import switchboard
from relay.pumps.leg import DownLeg, UpLeg
from relay.pumps.raw import RawPumps
from relay.pumps.streams import Pumps, StreamPumps
from relay.pumps.workspace_agent import WorkspaceAgentDownLeg, WorkspaceAgentPumps
from relay.rfb import handshake
from relay.rfb.conversation import Conversation
from relay.rfb.encodings import LET_THROUGH
from relay.rfb.rights import FULL, Rights


class _ViewerWire:
    """A viewer as a wire for its RFB handshake: payload of binary frames."""

    def __init__(self, viewer: trio.abc.Stream, frames: FrameReader, early: bytes) -> None:
        self._viewer = viewer
        self._frames = frames
        self._early = early
        self.rest = bytearray()

    async def read_exactly(self, count: int) -> bytes:
        while len(self.rest) < count:
            data = bytearray(self._early or await streams.receive(self._viewer, 4096))
            self._early = b""
            if not data:
                raise PeerClosed
            self.rest += data[: self._frames.unframe(data, 0, len(data))]
            controls, self._frames.controls = self._frames.controls, []
            for opcode, payload in controls:
                if opcode == CLOSE:
                    raise PeerClosed
                if opcode == PING:
                    await streams.send(self._viewer, frame(PONG, payload))
        taken = bytes(self.rest[:count])
        del self.rest[:count]
        return taken

    async def send_all(self, data: bytes) -> None:
        await streams.send(self._viewer, frame(BINARY, data))


class Session:
    """Relays one desktop to one viewer.

    `viewer` is a byte stream that speaks WebSocket as a client, right after the 101; `early`
    are bytes of it that came with the upgrade request. `desktop` comes from `relay.log_in` or
    `relay.open_desktop`. The session owns both from `run` on, and closes them. `let_through` are
    the encodings the viewer may offer (`relay.rfb.encodings` says which others are framed).
    """

    __slots__ = (
        "_conversation",
        "_desktop",
        "_early",
        "_ended",
        "_let_through",
        "_limits",
        "_pumps",
        "_rights",
        "_scope",
        "_viewer",
    )

    def __init__(
        self,
        viewer: trio.abc.Stream,
        desktop: DesktopEnd,
        *,
        limits: Limits | None = None,
        early: bytes = b"",
        rights: Rights = FULL,
        let_through: Collection[int] = LET_THROUGH,
    ) -> None:
        self._viewer = viewer
        self._desktop = desktop
        self._limits = limits or Limits()
        self._early = early
        self._ended: Ended | None = None
        self._scope = trio.CancelScope()
        self._rights = rights
        self._let_through = let_through
        self._conversation: Conversation | None = None
        self._pumps: RawPumps | StreamPumps | None = None

    @property
    def rights(self) -> Rights:
        """What this session may do. Setting it takes effect at once; keys and buttons that are
        held with a right it loses are released."""
        return self._rights

    @rights.setter
    def rights(self, rights: Rights) -> None:
        self._rights = rights
        if self._conversation is not None and self._pumps is not None:
            self._conversation.set_rights(rights)
            self._pumps.wake_watch()

    def stop(self, close_code: int, reason: str) -> None:
        """Ends the session soon, telling the viewer `close_code` and `reason` (at most 123
        bytes of UTF-8). Does nothing when it has ended already."""
        self._end(Ended(Reason.STOPPED, close_code, reason))

    def _end(self, how: Ended) -> None:
        if self._ended is None:
            self._ended = how
            self._scope.cancel()

    async def run(self) -> Ended:
        """Relays until either side ends it, breaks a rule or misses a deadline, or until `stop`.

        Cancelling it closes both ends at once, without a goodbye.
        """
        try:
            with self._scope:
                await self._carry()
            how = self._ended
            assert how is not None
            with trio.move_on_after(self._limits.close_timeout_s, shield=True):
                await self._say_goodbye(how)
        except BaseException:
            # Cancelled, or a bug: the goodbye has not done it.
            if self._pumps is not None:
                with trio.move_on_after(self._limits.close_timeout_s, shield=True):
                    await self._pumps.release()
            raise
        finally:
            if isinstance(self._pumps, RawPumps):
                self._pumps.close()
            await streams.cut(self._viewer)
            await streams.cut(self._desktop.stream)
        if isinstance(self._pumps, RawPumps) and self._pumps.bug is not None:
            raise self._pumps.bug
        how = dataclasses.replace(how, counters=self._counters())
        # They know this session: the two would stay until cycles are looked for.
        self._pumps = None
        return how

    async def _carry(self) -> None:
        pumps = await self._greet()
        if isinstance(pumps, RawPumps):
            try:
                pumps.start()
                await self._watch()
            finally:
                pumps.stop()
        elif pumps is not None:
            await pumps.run(self._watch)

    async def _greet(self) -> RawPumps | StreamPumps | None:
        """The viewer's handshake, and the pumps for what follows; None if it has ended there."""
        limits = self._limits
        frames = FrameReader(mask_expected=True, limit_bytes=limits.viewer_frame_bytes)
        wire = _ViewerWire(self._viewer, frames, self._early)
        init = self._desktop.init
        try:
            with trio.fail_after(limits.handshake_timeout_s):
                await drive(handshake.greet(init.pack(limits.viewer_name_bytes)), wire)
        except trio.TooSlowError:
            self._end(ended(Reason.VIEWER_SLOW_HANDSHAKE))
            return None
        except ProtocolError as error:
            self._end(ended_by_fault(error))
            return None
        except (PeerClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            self._end(ended(Reason.VIEWER_LOST, "in the handshake"))
            return None
        self._conversation = conversation = Conversation(
            init,
            limits,
            rights=self._rights,
            let_through=self._let_through,
            clock=trio.current_time,
        )
        up = UpLeg(conversation.up, frames, bytes(wire.rest))
        self._pumps = self._make_pumps(conversation, up)
        return self._pumps

    def _make_pumps(self, conversation: Conversation, up: UpLeg) -> RawPumps | StreamPumps:
        limits, viewer, desktop = self._limits, self._viewer, self._desktop.stream
        reader, early = conversation.down, self._desktop.early
        if isinstance(viewer, trio.SocketStream):
            board = switchboard.current()
            if isinstance(desktop, trio.SocketStream):
                down = DownLeg(reader, early)
                return RawPumps(down, up, self._end, limits, viewer, desktop, board)
            if isinstance(desktop, WebSocketStream) and (taken := desktop.taken_over()):
                connection, frames = taken
                down = WorkspaceAgentDownLeg(reader, frames, early)
                return WorkspaceAgentPumps(down, up, self._end, limits, viewer, connection, board)
            kernel.hold_unsent(viewer, limits.low_water_bytes)
        return StreamPumps(DownLeg(reader, early), up, self._end, limits, viewer, desktop)

    async def _watch(self) -> None:
        """Keeps the deadlines: stalls, pings, idleness. Sleeps until the next can fall due."""
        limits = self._limits
        pumps = self._pumps
        assert pumps is not None
        ping_at = trio.current_time() + limits.ping_interval_s
        from_desktop, from_viewer = _Progress(pumps.down, limits), _Progress(pumps.up, limits)
        idle_s = limits.idle_timeout_s or math.inf
        while True:
            now = trio.current_time()
            stalled = min(pumps.viewer_stalled_since, pumps.desktop_stalled_since) < math.inf
            if stalled and pumps.pinged_at < math.inf:
                # A slow viewer takes what is in front of the ping first, and while the desktop
                # takes nothing the viewer is not read: its pong may be waiting. `stall_timeout_s`
                # sees to it that both get on.
                pumps.pinged_at = now
            overdue = _overdue(pumps, limits, idle_s, now)
            # While one side does not take what waits for it, the other is not read.
            if overdue is None and from_desktop.stuck(now, pumps.viewer_stalled_since == math.inf):
                overdue = Reason.DESKTOP_DRIPS
            if overdue is None and from_viewer.stuck(now, pumps.desktop_stalled_since == math.inf):
                overdue = Reason.VIEWER_DRIPS
            if overdue is not None:
                return self._end(ended(overdue))
            if ping_at <= now:
                ping_at = now + limits.ping_interval_s
                pumps.ping()
            if pumps.waits_since + limits.update_timeout_s <= now:
                pumps.flow.expire()
                pumps.waits_since = now
            if pumps.flow.wake:
                pumps.send_due()
            if min(pumps.viewer_rests_until, pumps.desktop_rests_until) <= now:
                pumps.read_on(now)
            if not pumps.flow.waiting:
                pumps.waits_since = math.inf
            elif pumps.waits_since == math.inf:
                pumps.waits_since = now
            until = min(
                ping_at,
                min(pumps.viewer_stalled_since, now) + limits.stall_timeout_s,
                min(pumps.desktop_stalled_since, now) + limits.stall_timeout_s,
                pumps.pinged_at + limits.ping_timeout_s,
                pumps.input_at + idle_s,
                pumps.waits_since + limits.update_timeout_s,
                pumps.viewer_rests_until,
                pumps.desktop_rests_until,
                from_desktop.deadline,
                from_viewer.deadline,
            )
            with trio.CancelScope(deadline=until) as pumps.nap:
                await trio.sleep_forever()

    async def _say_goodbye(self, how: Ended) -> None:
        close = frame(CLOSE, close_payload(how.close_code, how.text))
        if self._pumps is not None:
            await self._pumps.finish(close)
            return
        try:
            await streams.send(self._viewer, close)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    def _counters(self) -> Counters:
        if self._pumps is None:
            return Counters()
        return Counters(self._pumps.down.bytes_moved, self._pumps.up.bytes_moved)


class _Progress:
    """Whether a leg gets on with the message it reads. Looks only when asked, so that reading
    costs nothing; the watch asks at every ping at the latest."""

    __slots__ = ("_leg", "_limits", "_message", "_offset", "deadline")

    def __init__(self, leg: DownLeg | UpLeg, limits: Limits) -> None:
        self._leg = leg
        self._limits = limits
        self._message = self._offset = -1
        self.deadline = math.inf

    def stuck(self, now: float, read: bool) -> bool:
        """Whether a message has been under way for too long. `read`: whether the leg's peer is
        being read at all."""
        leg, reader = self._leg, self._leg.reader
        reached = reader.offset + len(leg.tail)
        if not read or not (reader.under_way or leg.tail):
            self.deadline = math.inf
            return False
        if self.deadline == math.inf or reader.messages != self._message:
            late = False
        elif now < self.deadline:
            return False
        else:
            late = reached - self._offset < self._limits.progress_bytes
        self._message, self._offset = reader.messages, reached
        self.deadline = now + self._limits.progress_timeout_s
        return late


def _overdue(pumps: Pumps, limits: Limits, idle_s: float, now: float) -> Reason | None:
    """The first deadline that has passed, as a reason to end."""
    if pumps.viewer_stalled_since + limits.stall_timeout_s <= now:
        return Reason.VIEWER_STALLED
    if pumps.desktop_stalled_since + limits.stall_timeout_s <= now:
        return Reason.DESKTOP_STALLED
    if pumps.pinged_at + limits.ping_timeout_s <= now:
        return Reason.VIEWER_SILENT
    if pumps.input_at + idle_s <= now:
        return Reason.VIEWER_IDLE
    return None


async def carry(
    viewer: trio.abc.Stream,
    desktop: trio.abc.Stream,
    *,
    password: PasswordSource | None = None,
    limits: Limits | None = None,
    rights: Rights = FULL,
) -> Ended:
    """Logs in to a desktop's stream and relays it to a viewer's, to the end.

    `viewer` speaks WebSocket from just after the 101, `desktop` speaks RFB. Both are closed
    afterwards. Raises DesktopError when the login fails.
    """
    try:
        end = await log_in(desktop, password=password, limits=limits)
    except BaseException:
        await streams.cut(viewer)
        raise
    return await Session(viewer, end, limits=limits, rights=rights).run()
