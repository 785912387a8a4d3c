"""Hypercorn's connections, so wrapped that the application can have the socket after the 101.

Through ASGI a viewer that stops reading can be neither timed out nor cancelled (Hypercorn sends
shielded, without a deadline), permessage-deflate cannot be declined (Hypercorn accepts it from
every browser), and a small round trip costs three times the CPU. So the application takes the
socket: `take_over` parks Hypercorn's reader, the application's `websocket.accept` makes Hypercorn
write the 101 through the wrapper, and from then on nothing of Hypercorn's reaches the socket.
`hand_over` says who has the socket now, and lets the parked reader see the end of the stream:
Hypercorn cleans up as always, and only then does the connection's task carry the session, so that
nothing of Hypercorn's, of the framework's and of the request is kept while it lasts (30 KiB).

What is behind an upgrade request never reaches Hypercorn: it would refuse a viewer that speaks
early, after the desktop was started for it. Those bytes wait for the session.

`HttpServer` owns the connection's nursery (Hypercorn's task group): the reader, and the
application's task of the request that is being answered.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, cast

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.trio.task_group import TaskGroup, _handle
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from starlette.types import Send
from wsproto.utilities import generate_accept_token

from api.http.errors import ApiError
from api.http.upgrade import upgrade_problem
from relay.net import streams

__all__ = [
    "READ_TIMEOUT_S",
    "Connection",
    "HttpServer",
    "NotUpgraded",
    "current_connection",
    "for_hypercorn",
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

# None of the extensions and subprotocols that browsers offer is accepted, so Hypercorn need not
# see them: it would negotiate deflate, which costs RFB latency and gains nothing, and it raises
# where it cannot read them.
_DECLINED: Final = (b"sec-websocket-extensions", b"sec-websocket-protocol")


def for_hypercorn(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an upgrade request as Hypercorn should see them."""
    # Connection is a list that may stand in several lines; Hypercorn looks at the last one, and
    # refuses without letting go of the connection if `upgrade` is in another.
    kept = [header for header in headers if header[0] not in _DECLINED]
    return [*kept, (b"connection", b"upgrade")]


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
        "socket",
    )

    def __init__(self, stream: ClientStream, read_timeout_s: float = READ_TIMEOUT_S) -> None:
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

    async def send_eof(self) -> None:
        # Hypercorn closes right after it, and would do this while another task sends.
        if not self._switched:
            await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        if not self._switched:
            self.abort()
            await trio.lowlevel.checkpoint()

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
        it has gone is seen by what is sent to it."""
        usual_s = self._read_timeout_s
        self._set_read_timeout(math.inf)
        try:
            yield
        finally:
            self._set_read_timeout(usual_s)

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
        await send({"type": "websocket.accept"})
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


class _Upgrade(WSStream):
    """Hypercorn's upgrade request, less the long way of its 101 through wsproto and h11."""

    async def _accept(self, _message: Any) -> None:
        self.state = ASGIWebsocketState.CLOSED
        assert self.handshake.key is not None
        token = generate_accept_token(self.handshake.key)
        await current_connection().send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-accept: %b\r\n\r\n" % token
        )


class _Http1(H11Protocol):
    """Hypercorn's HTTP/1.1, which never becomes HTTP/2, and is strict about upgrades."""

    async def _check_protocol(self, event: h11.Request) -> None:
        # Hypercorn would switch to HTTP/2 here, by `Upgrade: h2c` and by prior knowledge. The
        # relay needs the socket to itself, and an Upgrade may be ignored (RFC 9110, 7.8).
        pass

    async def _create_stream(self, request: h11.Request) -> None:
        headers = list(request.headers)
        method = request.method.decode("ascii")
        http_version = request.http_version.decode("ascii")
        is_upgrade = upgrade_problem(method, http_version, headers) is None
        kind: type[HTTPStream | WSStream] = HTTPStream
        if is_upgrade:
            kind = _Upgrade
            headers = for_hypercorn(headers)
            early, _ = self.connection.trailing_data
            current_connection().upgrade_requested(early)
            self.connection = H11WSConnection(cast(h11.Connection, self.connection))
            self.connection.buffer.clear()
        self.stream = kind(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(STREAM_ID, headers, http_version, method, request.target, self.connection_state)
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def _send_error_response(self, status_code: int) -> None:
        # What h11 cannot read. Nothing of the request is known, so nothing but this is said.
        body = ApiError(status_code, "Malformed HTTP request.").json_body()
        headers = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class _Tasks(TaskGroup):
    """Hypercorn's task group, except that a request ends when it is answered.

    Hypercorn's waits for ever where the application answers before it has read the body: the
    reader for room in the queue, and the answer for the reader. Ten chunks of one byte are
    enough, no token is needed, and the connection outlives its client.
    """

    async def spawn_app(
        self, app: Any, config: Config, scope: Any, send: Any
    ) -> Callable[[Any], Awaitable[None]]:
        nursery = self._nursery
        assert nursery is not None
        sender, receiver = trio.open_memory_channel[Any](config.max_app_queue_size)

        async def run() -> None:
            with receiver:
                receive = cast(Any, receiver.receive)
                sync_spawn, call_soon = trio.to_thread.run_sync, trio.from_thread.run
                await _handle(app, config, scope, receive, send, sync_spawn, call_soon)

        async def put(event: Any) -> None:
            try:
                await sender.send(event)
            except trio.BrokenResourceError:
                pass  # Answered: nobody wants to know any more.

        async def put_or_leave(event: Any) -> None:
            try:
                sender.send_nowait(event)
            except trio.BrokenResourceError:
                pass
            except trio.WouldBlock:
                if event["type"].endswith(".disconnect"):
                    nursery.start_soon(put, event)  # This may be the task that has to read it.
                else:
                    await put(event)

        nursery.start_soon(run)
        return put_or_leave


class _Idle:
    """Hypercorn's task beside a connection that waits for a request, started without waiting for
    its start: that takes a nursery and three scopes, for every connection."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()

    async def restart(self, tasks: TaskGroup, action: Callable[[], Awaitable[None]]) -> None:
        await self.stop()
        self._scope = trio.CancelScope()
        assert tasks._nursery is not None
        tasks._nursery.start_soon(self._run, action, self._scope)

    async def stop(self) -> None:
        self._scope.cancel()

    async def _run(self, action: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        with scope:
            await action()


class HttpServer(TCPServer):
    """Hypercorn's server of one connection, with `_Http1` for its protocol.

    `run` and `_read_data` are Hypercorn's, less TLS (which a reverse proxy has, or
    api/http/serve.py), HTTP/2 and the deadline of a read, which is `Connection.receive_some`'s.
    """

    def __init__(
        self, app: ASGIWrapper, config: Config, context: WorkerContext, connection: Connection
    ) -> None:
        super().__init__(app, config, context, cast(Any, {}), cast(Any, connection))
        self.idle_task = cast(Any, _Idle())

    async def run(self) -> None:
        socket = self.stream.socket
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with _Tasks() as task_group:
                self._task_group = task_group
                self.protocol = cast(
                    Any,
                    _Http1(
                        self.app,
                        self.config,
                        self.context,
                        cast(Any, task_group),
                        ConnectionState(self.state),
                        False,
                        client,
                        server,
                        self.protocol_send,
                    ),
                )
                await self.idle_task.restart(task_group, self._idle_timeout)
                await self._read_data()
                # Hypercorn would wait out the deadline for a request of a client that has gone.
                await self.idle_task.stop()
        except OSError:
            pass  # The client has gone before its address was asked for.
        finally:
            await self._close()

    async def _read_data(self) -> None:
        while True:
            try:
                data = bytes(await self.stream.receive_some(READ_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                break
            await self.protocol.handle(RawData(data))
            if not data:
                break
        await self.protocol.handle(Closed())
