"""Hypercorn's connections, so wrapped that the application can have the socket after the 101.

Through ASGI a viewer that stops reading can be neither timed out nor cancelled (Hypercorn sends
shielded, without a deadline), permessage-deflate cannot be declined (Hypercorn accepts it from
every browser), and a small round trip costs three times the CPU. So the application takes the
socket: `stop_reading` parks Hypercorn's reader, the application sends `websocket.accept`, Hypercorn
writes the 101 through the wrapper, and `detach` hands the stream over. `release` lets the parked
reader see the end of the stream, and Hypercorn cleans up as always.
"""

from __future__ import annotations

import socket
from contextvars import ContextVar
from typing import Final

import trio

__all__ = ["Connection", "NotUpgraded", "current_connection"]

SEND_TIMEOUT_S: Final = 20.0
"""For one of Hypercorn's writes: responses of a few KiB, which fit a socket's buffer at once
unless the client reads nothing."""

READ_TIMEOUT_S: Final = 60.0
"""Without a byte from the client while a request is being read or answered. Longer than a
desktop takes to start; Hypercorn itself ends connections that sit idle between requests."""

PARK_TIMEOUT_S: Final = 5.0
"""For Hypercorn's reader to come back for more; it only is not waiting yet when the client sent
frames with its request."""

_NO_SWITCH: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_H2_PREFACE: Final = b"PRI * HTTP/2"

_current: ContextVar[Connection] = ContextVar("connection")


class NotUpgraded(Exception):
    """Hypercorn did not write a 101, so there is nothing to take over."""


def current_connection() -> Connection:
    """The connection that the running request came in on."""
    return _current.get()


class Connection:
    """One accepted connection, in the place of the stream that Hypercorn expects."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self._reading: trio.CancelScope | None = None
        self._parked: trio.Event | None = None
        self._released = trio.Event()
        self._early = b""
        self._upgraded = False
        self._detached = False
        _current.set(self)
        if stream.socket.family in (socket.AF_INET, socket.AF_INET6):
            # A vanished peer is noticed in half a minute even while nothing is sent.
            options = ((socket.TCP_USER_TIMEOUT, 30_000), (socket.TCP_KEEPIDLE, 20))
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in options:
                stream.socket.setsockopt(socket.IPPROTO_TCP, option, value)

    # What Hypercorn calls.

    async def receive_some(self, max_bytes: int) -> bytes:
        if self._taking_over():
            return await self._park()
        data: bytes | None = None
        with trio.move_on_after(READ_TIMEOUT_S) as self._reading:
            data = bytes(await self._stream.receive_some(max_bytes))
        self._reading = None
        if self._taking_over():
            self._early = data or b""
            return await self._park()
        if data is None or data.startswith(_H2_PREFACE):
            # HTTP/2 is not served: the relay needs the socket to itself.
            await trio.aclose_forcefully(self._stream)
            return b""
        return data

    def _taking_over(self) -> bool:
        return self._parked is not None

    async def _park(self) -> bytes:
        assert self._parked is not None
        self._parked.set()
        await self._released.wait()
        return b""

    async def send_all(self, data: bytes) -> None:
        if self._detached:
            # What Hypercorn says about a connection that is not its own any more.
            return
        if data.startswith(b"HTTP/1.1 101"):
            if self._parked is None:
                # The only 101 that no takeover asked for is the one to HTTP/2 over cleartext.
                data = _NO_SWITCH
            else:
                data = _without_extensions(data)
                self._upgraded = True
        with trio.move_on_after(SEND_TIMEOUT_S) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught or data is _NO_SWITCH:
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("the client takes no bytes, or may not switch")

    async def send_eof(self) -> None:
        if not self._detached:
            await self._stream.send_eof()

    async def aclose(self) -> None:
        if self._detached:
            await trio.lowlevel.checkpoint()
        else:
            await self._stream.aclose()

    # What the application calls.

    async def stop_reading(self) -> None:
        """Parks Hypercorn's reader. Bytes it had not passed on are kept for `detach`.

        Raises NotUpgraded when the reader does not come back for more.
        """
        self._parked = trio.Event()
        if self._reading is not None:
            self._reading.cancel()
        with trio.move_on_after(PARK_TIMEOUT_S):
            await self._parked.wait()
        if not self._parked.is_set():
            raise NotUpgraded("the client's request is not over")

    def detach(self) -> tuple[trio.SocketStream, bytes]:
        """After the 101: the stream, and the viewer's bytes that came before. The caller owns
        the stream from here on. Raises NotUpgraded when no 101 went out: Hypercorn refuses by
        itself where frames came together with the request."""
        if not self._upgraded:
            raise NotUpgraded("no 101 was sent")
        self._detached = True
        return self._stream, self._early

    def release(self) -> None:
        """Lets Hypercorn see the end of the connection and clean up."""
        self._released.set()

    async def abort(self) -> None:
        """Ends the connection at once, whoever owns it; a blocked send fails."""
        self._released.set()
        await trio.aclose_forcefully(self._stream)


def _without_extensions(head: bytes) -> bytes:
    """A 101 that accepts no extension: RFB gains nothing from deflate, and loses latency."""
    lines = head.split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith(b"sec-websocket-extensions:")]
    return b"\r\n".join(kept)
