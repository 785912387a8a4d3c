"""The pumps of a session whose desktop is behind a workspace agent, over raw sockets.

They are those of `relay.pumps.raw`, with a desktop whose RFB comes and goes in WebSocket frames.
Its bytes are unframed where they were read. The kernel moves none of them: a workspace agent's
frames are too short for that.

An update of 33 KB costs 1.3 times what it does without a workspace agent, where the pumps over
streams took 3.7 times, and a session at rest 13 KiB instead of 60 (`python -m bench --peers
ours,ours-workspace-agent`).
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from relay.ended import Ended, Reason, ended
from relay.errors import ProtocolError
from relay.limits import Limits
from relay.net.tls import TlsStream
from relay.net.websocket import CLOSE, PING, PONG, FrameReader, close_payload, parse_close
from relay.net.websocket_stream import client_frame, client_frames
from relay.pumps.leg import DownLeg, Pieces, UpLeg
from relay.pumps.raw import RawPumps
from relay.pumps.raw_writes import NOTHING
from relay.pumps.switchboard import Switchboard
from relay.rfb.errors import CloseCode
from relay.rfb.from_desktop import FromDesktop

__all__ = ["WorkspaceAgentDownLeg", "WorkspaceAgentPumps"]


class WorkspaceAgentDownLeg(DownLeg):
    """From a workspace agent's WebSocket frames to the viewer's. The workspace agent's control
    frames collect in `frames.controls`; `close_code` is what it is to be told at the end."""

    __slots__ = ("close_code", "frames")

    def __init__(self, reader: FromDesktop, frames: FrameReader, early: bytes) -> None:
        super().__init__(reader, early)
        self.frames = frames
        self.close_code: int = CloseCode.NORMAL

    def take(self, buf: bytearray, view: memoryview, start: int, stop: int) -> Pieces:
        """Unframes what comes behind the tail, and judges. Raises ProtocolError."""
        try:
            stop = self.frames.unframe(buf, start + len(self.tail), stop)
        except ProtocolError as error:
            # Its code is for who broke the framing; the viewer is told of a desktop's fault.
            self.close_code, error.close_code = error.close_code, CloseCode.DESKTOP_FAULT
            raise
        return super().take(buf, view, start, stop)


class WorkspaceAgentPumps(RawPumps):
    """The pumps of one session over two sockets, of which `desktop` is a workspace agent's, behind
    the 101."""

    __slots__ = ("_leg", "_pong", "_tls")

    def __init__(
        self,
        down: WorkspaceAgentDownLeg,
        up: UpLeg,
        end: Callable[[Ended], None],
        limits: Limits,
        viewer: trio.SocketStream,
        desktop: trio.SocketStream | TlsStream,
        board: Switchboard,
    ) -> None:
        super().__init__(down, up, end, limits, viewer, desktop, board)
        self._leg = down
        self._tls = desktop if isinstance(desktop, TlsStream) else None
        # The newest that waits until the workspace agent has taken what is before it.
        self._pong = b""

    def start(self) -> None:
        super().start()
        if self._tls is not None and self._tls.more:
            # What came from the socket already no edge tells of.
            self._later()

    def ping(self) -> None:
        super().ping()
        self._leg.frames.calm()

    def _pump_down(self) -> None:
        super()._pump_down()
        if self._leg.frames.controls:
            self._workspace_agent_said()
        if self._tls is not None and self._tls.more and not self._desktop_readable:
            # As above; and a workspace agent that has much to say that brings nothing is not the
            # only one.
            self._desktop_readable = True
            self.desktop_rests_until = self._go_on(self._desktop_allowance)

    def _workspace_agent_said(self) -> None:
        controls = self._leg.frames.controls
        for opcode, payload in controls:
            if opcode == PING:
                self._pong = client_frame(PONG, payload)
            elif opcode == CLOSE:
                code, _ = parse_close(payload)
                self._finished(ended(Reason.DESKTOP_CLOSED, f"close code {code}"))
        controls.clear()
        self._send_pong()

    def _send_pong(self) -> None:
        if self._pong and not self._to_desktop and not self._over:
            pong, self._pong = self._pong, b""
            super()._send_desktop([pong])

    def _send_desktop(self, pieces: Pieces) -> None:
        super()._send_desktop(client_frames(b"".join(pieces)))

    def _flush_desktop(self) -> None:
        super()._flush_desktop()
        self._send_pong()

    def _splice(self) -> bool:
        return False

    def _last_words(self) -> bytes:
        waiting, self._to_desktop = bytes(self._to_desktop), NOTHING
        words = client_frames(super()._last_words())
        close = client_frame(CLOSE, close_payload(self._leg.close_code, ""))
        return b"".join((waiting, *words, close))
