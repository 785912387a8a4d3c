"""Hypercorn's connections, so wrapped that the application can have the socket after the 101.

Through ASGI a viewer that stops reading can be neither timed out nor cancelled (Hypercorn sends
shielded, without a deadline), permessage-deflate cannot be declined (Hypercorn accepts it from
every browser), and a small round trip costs three times the CPU. So the application takes the
socket: `take_over` parks Hypercorn's reader, the application's `websocket.accept` makes Hypercorn
write the 101 through the wrapper, and from then on nothing of Hypercorn's reaches the socket.
`hand_over` says who has the socket now, and lets the parked reader see the end of the stream:
Hypercorn cleans up as always, and only then does the connection's task carry the session, so that
nothing of Hypercorn's, of the framework's and of the request is kept while it lasts (30 KiB).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import trio
from starlette.types import Send

from api.http.crowd import Crowd
from relay.net import streams

__all__ = [
    "READ_BYTES",
    "READ_TIMEOUT_S",
    "ClientStream",
    "Connection",
    "NotUpgraded",
    "current_connection",
]

SEND_TIMEOUT_S: Final = 20.0
"""For so much of one of Hypercorn's writes: most are of a few KiB, which fit a socket's buffer at
once unless the client reads nothing; a picture of a desktop takes a slow link a while."""

SEND_BYTES: Final = 65_536

READ_TIMEOUT_S: Final = 60.0
"""Without a byte from the client while a plain request is being read or answered. Hypercorn
itself ends connections that sit idle before and between requests."""

READ_BYTES: Final = 4_096
"""One read for Hypercorn. h11 bounds only what is incomplete: a head of any size that arrives
in one read would pass, in small ones it stops at 16 KiB."""

EARLY_BYTES: Final = 4_096
"""From a viewer that does not wait for the 101. The first that RFB lets it say is 18 bytes."""

_current: ContextVar[Connection] = ContextVar("connection")


class NotUpgraded(Exception):
    """No 101 was sent, because the viewer has left; there is nothing to take over."""


def current_connection() -> Connection:
    """The connection that the running request came in on."""
    return _current.get()


ClientStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Connection:
    """One accepted connection, in the place of the stream that Hypercorn expects."""

    __slots__ = (
        "_carry",
        "_early",
        "_left",
        "_on_left",
        "_parked",
        "_read_timeout_s",
        "_reading",
        "_released",
        "_stream",
        "_switched",
        "_switching",
        "_watching",
        "address",
        "crowd",
        "socket",
    )

    def __init__(
        self,
        stream: ClientStream,
        crowd: Crowd[Connection],
        address: str | None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self.crowd = crowd
        self.address = address
        self._stream = stream
        self._read_timeout_s = read_timeout_s
        raw = stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
        self.socket = raw.socket
        self._early: bytearray | None = None
        # While Hypercorn reads; kept longer it would be half a KiB for each session.
        self._reading: trio.CancelScope | None = None
        self._watching = trio.CancelScope()
        self._parked = trio.Event()
        self._released = trio.Event()
        self._left = False
        self._on_left: Callable[[], object] | None = None
        self._switching = False
        self._switched = False
        self._carry: Callable[[], Awaitable[None]] | None = None

    def make_current(self) -> None:
        """For `current_connection` in the running task, and those that it starts."""
        _current.set(self)

    # What Hypercorn calls.

    async def receive_some(self, _max_bytes: int) -> bytes:
        if self._early is not None:
            await self._watch(self._early)
            return b""
        with trio.move_on_after(self._read_timeout_s) as self._reading:
            try:
                return bytes(await self._stream.receive_some(READ_BYTES))
            finally:
                self._reading = None
        return b""

    async def _watch(self, early: bytearray) -> None:
        """Reads on after an upgrade request only to notice a viewer that leaves."""
        with self._watching:
            try:
                while len(early) < EARLY_BYTES:
                    data = await self._stream.receive_some(EARLY_BYTES - len(early))
                    if not data:
                        return self._leave()
                    early += data
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return self._leave()
            await trio.sleep_forever()
        self._parked.set()
        return await self._released.wait()

    def _leave(self) -> None:
        self._left = True
        self._parked.set()
        if self._on_left is not None:
            self._on_left()

    async def send_all(self, data: bytes) -> None:
        if self._switched:
            # What Hypercorn says about a connection that is not its own any more.
            return
        with trio.move_on_after(SEND_TIMEOUT_S) as scope:
            # Only for the 101: without the turn of `send_all`, a client that still sent bytes of an
            # HTTP/2 preface saw a reset in the place of its answer.
            if self._switching:
                await streams.send(self._stream, data)
            else:
                for at in range(0, len(data), SEND_BYTES):
                    await self._stream.send_all(data[at : at + SEND_BYTES])
                    scope.deadline = trio.current_time() + SEND_TIMEOUT_S
        if scope.cancelled_caught:
            self.abort()
            raise trio.BrokenResourceError("the client takes no bytes")
        self._switched = self._switching and data.startswith(b"HTTP/1.1 101 ")

    # Neither has a checkpoint: one that is cancelled would leave the connection open.

    async def send_eof(self) -> None:
        """Nothing: Hypercorn closes right after it, and would do this while another task sends."""

    async def aclose(self) -> None:
        if not self._switched:
            self.abort()

    # What `HttpServer` calls.

    def upgrade_requested(self, early: bytes) -> None:
        """An upgrade request has been read, and `early` behind it."""
        self._early = bytearray(early)

    @property
    def taken_over(self) -> bool:
        """Whether the socket is the application's."""
        return self._switched

    def abort(self) -> None:
        """Closes the socket at once, whoever owns it; a send that hangs fails."""
        self._released.set()
        self.socket.close()

    # What the application calls.

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """While the block runs, an answer that has no end, the client need not send anything: that
        it has gone is seen by what is sent to it. And the connection is set apart."""
        usual_s = self._read_timeout_s
        self._set_read_timeout(math.inf)
        self.set_apart()
        try:
            yield
        finally:
            self._set_read_timeout(usual_s)
            self.crowd.bring_back(self)

    def set_apart(self) -> None:
        """It has a place among sessions or streams, and does not count for its address."""
        self.crowd.set_apart(self)

    def _set_read_timeout(self, timeout_s: float) -> None:
        self._read_timeout_s = timeout_s
        if self._reading is not None:
            self._reading.deadline = trio.current_time() + timeout_s

    def when_viewer_leaves(self, call: Callable[[], object]) -> None:
        """Has `call` called when the viewer goes before `take_over`; at once if it has gone."""
        self._on_left = call
        if self._left:
            call()

    async def take_over(self, send: Send) -> tuple[ClientStream, bytes]:
        """Answers 101. The stream, and what the viewer has sent already, are the caller's then.

        Raises NotUpgraded if the viewer left, or Hypercorn refused by itself.
        """
        self._on_left = None
        self._watching.cancel()
        await self._parked.wait()
        self._switching = True
        try:
            await send({"type": "websocket.accept"})
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # It has left just now.
        if not self._switched:
            raise NotUpgraded("the viewer left before the 101")
        assert self._early is not None
        return self._stream, bytes(self._early)

    def hand_over(self, carry: Callable[[], Awaitable[None]]) -> None:
        """Has `carry` called once Hypercorn, which sees the end of the connection now, has cleaned
        up. It closes the socket in the end, also where it is cancelled at once."""
        self._carry = carry
        self._released.set()

    def handed_over(self) -> Callable[[], Awaitable[None]] | None:
        """What is to be carried now that Hypercorn is done; None if nothing was handed over."""
        if self._carry is not None:
            # 0.9 KiB for as long as the session lasts.
            del self._watching, self._parked, self._released
        carry, self._carry = self._carry, None
        return carry
