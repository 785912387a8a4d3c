"""Hypercorn's HTTP/1.1 on one connection, without what stands in a relay's way.

What is behind an upgrade request never reaches Hypercorn: it would refuse a viewer that speaks
early, after the desktop was started for it. Those bytes wait for the session
(api/http/takeover.py).

`HttpServer` owns the connection's nursery (Hypercorn's task group): the reader, and the
application's task of the request that is being answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, cast

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Event, Request, Response
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.trio.task_group import TaskGroup, _handle
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from wsproto.utilities import generate_accept_token

from api.http.errors import ApiError
from api.http.strict import be_strict
from api.http.takeover import READ_BYTES, Connection, current_connection
from api.http.upgrade import upgrade_problem

__all__ = ["HttpServer", "for_hypercorn"]

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
    """Hypercorn's HTTP/1.1, which never becomes HTTP/2, and is strict about requests."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        be_strict(cast(h11.Connection, self.connection))

    async def stream_send(self, event: Event) -> None:
        # An application that answers without the body would close the connection before the client
        # is told what is wrong with that.
        if self.connection.their_state is h11.ERROR:
            return
        # Behind a refused upgrade, and behind a body that is not read to its end, nothing is a
        # request for sure: the connection ends, and the client is told.
        if (
            isinstance(event, Response)
            and self.connection.their_state is not h11.DONE
            and not any(name == b"connection" for name, _ in event.headers)
        ):
            event.headers.append((b"connection", b"close"))
        await super().stream_send(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        # Hypercorn would switch to HTTP/2 here, by `Upgrade: h2c` and by prior knowledge. The
        # relay needs the socket to itself, and an Upgrade may be ignored (RFC 9110, 7.8).
        pass

    async def _maybe_recycle(self) -> None:
        await super()._maybe_recycle()
        if self.connection.our_state is h11.IDLE:
            connection = current_connection()
            connection.crowd.idle(connection)

    async def _create_stream(self, request: h11.Request) -> None:
        connection = current_connection()
        connection.crowd.busy(connection)
        headers = list(request.headers)
        method = request.method.decode("ascii")
        http_version = request.http_version.decode("ascii")
        is_upgrade = upgrade_problem(method, http_version, headers) is None
        kind: type[HTTPStream | WSStream] = HTTPStream
        if is_upgrade:
            kind = _Upgrade
            headers = for_hypercorn(headers)
            early, _ = self.connection.trailing_data
            connection.upgrade_requested(early)
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

        async def send_whole(message: Any) -> None:
            # What ends an answer also ends the request: whoever waits for that, as a streaming
            # answer does, may cancel its sender before the connection was closed or kept.
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(shield=True):
                await send(message)

        async def run() -> None:
            with receiver:
                receive = cast(Any, receiver.receive)
                sync_spawn, call_soon = trio.to_thread.run_sync, trio.from_thread.run
                await _handle(app, config, scope, receive, send_whole, sync_spawn, call_soon)

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
