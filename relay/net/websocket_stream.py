"""A Trio stream of the bytes that a WebSocket carries in binary messages, for either role.

It begins right after the 101. Nothing runs behind it: pings are answered by who reads. It holds one
read and one newest pong, so that a side that does not read holds up the other.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Final

import trio

from relay.errors import ProtocolError
from relay.net.tls import TlsStream
from relay.net.websocket import (
    BINARY,
    CLOSE,
    FLOOD_S,
    PING,
    PONG,
    FrameReader,
    close_payload,
    frame,
    parse_close,
)

__all__ = ["WebSocketStream", "client_frame", "client_frames"]

READ_BYTES: Final = 65_536
FRAME_BYTES: Final = 65_536
"""Of one message that is sent. Peers refuse large ones, and a mask is made for each."""

CLOSE_TIMEOUT_S: Final = 2.0
"""For a pong, and for our close frame and the peer's answer to it."""

LINGER_BYTES: Final = 1_048_576
"""What is read of a peer after our close frame: what was under way; more is a flood."""


class WebSocketStream(trio.abc.Stream):
    """`client` is the role of this side; `early` came behind the 101 in the same read;
    `limit_bytes` bounds one frame of the peer's.

    `closed` is code and reason of the peer's close frame, which ends the stream; None until it
    has come. A peer that breaks a rule of the framing is told so, and its stream is broken.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, client: bool, limit_bytes: int, early: bytes = b""
    ) -> None:
        self._stream = stream
        self._client = client
        self._frames = FrameReader(mask_expected=not client, limit_bytes=limit_bytes)
        self._early = early
        self._calm_at = trio.current_time()
        self._sending = trio.Lock()
        self._pong = b""
        # Half a frame may have gone out, behind which nothing can be said.
        self._broken = False
        self._said_goodbye = False
        self._gone = False
        self.closed: tuple[int, str] | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raises trio.BrokenResourceError, also after the peer's close frame."""
        self._check()
        if not data:
            await trio.lowlevel.checkpoint()
        for piece in _pieces(data):
            await self._send(self._frame(BINARY, piece))

    async def wait_send_all_might_not_block(self) -> None:
        """Until who sends now is done, and the connection takes more."""
        self._check()
        async with self._sending:
            await self._stream.wait_send_all_might_not_block()

    async def heartbeat(self) -> None:
        """A pong that nobody asked for, which nobody answers (RFC 6455, Section 5.5.3)."""
        await self._send(self._frame(PONG, b""))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At most so many bytes; none at the end. Raises trio.BrokenResourceError."""
        self._check()
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be 1 or more")
        count = max_bytes or READ_BYTES
        while self.closed is None:
            data, self._early = self._early[:count], self._early[count:]
            buf = bytearray(data or await self._stream.receive_some(count))
            if not buf:
                return b""
            try:
                length = self._frames.unframe(buf, 0, len(buf))
            except ProtocolError as error:
                with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                    await self.say_goodbye(error.close_code, str(error.args[0]))
                raise trio.BrokenResourceError(str(error)) from error
            if self._frames.controls:
                # Shielded, for with a cancelled read the bytes of its buffer would be lost.
                with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                    await self._answer()
            if length:
                return bytes(buf[:length])
            # A peer of frames that bring nothing must not have Trio wait.
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return b""

    async def close(self, code: int, reason: str) -> None:
        """Tells the peer why, waits a little for its answer, and closes. Never raises but for a
        cancellation."""
        try:
            with trio.move_on_after(CLOSE_TIMEOUT_S):
                await self.say_goodbye(code, reason)
                # Closing with bytes unread resets the connection, which may overtake the frame.
                left = LINGER_BYTES
                while left > 0 and (data := await self.receive_some()):
                    left -= len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # It is gone; that was to be.
        except trio.BusyResourceError:
            pass  # Another task reads, and is told that this is closed.
        finally:
            self._gone = True
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)

    async def aclose(self) -> None:
        await self.close(1000, "")

    def taken_over(self) -> tuple[trio.SocketStream | TlsStream, FrameReader] | None:
        """What is under it, for who goes on by itself, and the reader of its frames. None where
        that is no socket, or something is under way. All that is left for this is to be closed."""
        idle = not (self._early or self._pong or self._broken or self.closed or self._gone)
        if not isinstance(self._stream, trio.SocketStream | TlsStream) or not idle:
            return None
        self._broken = True
        return self._stream, self._frames

    async def _answer(self) -> None:
        now = trio.current_time()
        if now - self._calm_at >= FLOOD_S:
            self._calm_at = now
            self._frames.calm()
        controls, self._frames.controls = self._frames.controls, []
        for opcode, payload in controls:
            if opcode == PING:
                self._pong = self._frame(PONG, payload)
            elif opcode == CLOSE:
                self.closed = parse_close(payload)
        if self.closed is not None:
            await self.say_goodbye(self.closed[0], "")
        elif self._pong and not self._said_goodbye and not self._sending.locked():
            # Cut off here it goes out later; in the sending, nothing could follow it.
            await self.wait_send_all_might_not_block()
            await self._send(b"")

    async def say_goodbye(self, code: int, reason: str) -> None:
        """Tells the peer why nothing more comes, if it can be told. Raises nothing."""
        if self._said_goodbye or self._broken:
            return
        try:
            await self._send(self._frame(CLOSE, close_payload(code, reason)), last=True)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # Nobody is there to be told.

    def _check(self) -> None:
        if self._gone:
            raise trio.ClosedResourceError("this WebSocket is closed")

    async def _send(self, data: bytes, *, last: bool = False) -> None:
        async with self._sending:
            if self._broken or self._said_goodbye:
                raise trio.BrokenResourceError("this WebSocket has ended")
            self._said_goodbye = last
            self._broken = True
            while data or self._pong:
                # A ping that came while this waited is answered behind it.
                pong, self._pong = self._pong, b""
                await self._stream.send_all(pong + data)
                data = b""
                if last:
                    break
            self._broken = False

    def _frame(self, opcode: int, payload: bytes) -> bytes:
        return client_frame(opcode, payload) if self._client else frame(opcode, payload)


def client_frame(opcode: int, payload: bytes) -> bytes:
    """One whole frame with a mask of its own (RFC 6455, Section 5.3)."""
    # A system call, 0.35 us: the mask has to come from where nobody can guess it.
    return frame(opcode, payload, secrets.token_bytes(4))


def client_frames(data: bytes) -> list[bytes | memoryview]:
    """`data` in binary messages as `WebSocketStream` sends it."""
    return [client_frame(BINARY, piece) for piece in _pieces(data)]


def _pieces(data: bytes | bytearray | memoryview) -> Iterator[bytes]:
    view = memoryview(data)
    return (bytes(view[at : at + FRAME_BYTES]) for at in range(0, len(view), FRAME_BYTES))
