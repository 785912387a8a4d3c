"""The HTTP server: Hypercorn's parts, composed because its own takes no wrapped streams.

`serve` owns two nurseries: one with the accept loops, and one with the connections, which
outlives a cancellation by `GRACE_S` so that viewers and clients get their goodbyes.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import Any, Final, cast

import trio
from fastapi import FastAPI
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.protocol import ws_stream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from api.services import Services
from api.takeover import Connection
from relay import CloseCode

__all__ = ["GRACE_S", "serve"]

GRACE_S: Final = 2.5
"""For sessions and requests to end once the server is told to; then their sockets are cut."""

BACKLOG: Final = 1024
"""Connections the kernel holds before we accept them: a burst of viewers after a restart."""

_log = logging.getLogger(__name__)


class _Handshake(ws_stream.Handshake):
    """Every upgrade request reaches the application, which judges it (api/upgrade.py).

    Hypercorn's own judgement checks the key for HTTP/1.1 only, takes the last of duplicates, and
    refuses with an empty 400 where RFC 6455 wants a 426 that names the version.
    """

    def is_valid(self) -> bool:
        return True


def _config() -> Config:
    config = Config()
    config.alpn_protocols = ["http/1.1"]
    config.include_server_header = False
    config.h11_max_incomplete_size = 16_384
    # Also the deadline for a request's head: it runs from the accept, or from the answer before,
    # until the head is whole.
    config.keep_alive_timeout = 10
    # Our own access log has the line; errors go where all logging goes.
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


def _listen(bind: str) -> trio.SocketListener:
    """Listens on `HOST:PORT`. Raises OSError."""
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    family, kind, _, _, address = socket.getaddrinfo(
        host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


def _url(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Connections:
    """Every open connection, served in a nursery that a cancellation does not reach at once."""

    def __init__(self, app: FastAPI) -> None:
        self._app = ASGIWrapper(cast(Any, app))
        self._config = _config()
        self._context = WorkerContext(None)
        self._open: set[Connection] = set()
        self._ending = trio.Event()
        self._empty = trio.Event()

    async def hold(
        self, *, task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keeps the connections' nursery until `end`, and for `GRACE_S` after it."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                await self._ending.wait()
                await self._context.terminated.set()
                nursery.cancel_scope.deadline = trio.current_time() + GRACE_S
                nursery.start_soon(self._cut_late, nursery.cancel_scope)

    async def _cut_late(self, scope: trio.CancelScope) -> None:
        # Hypercorn's sends are shielded: only a closed socket ends one to a client that does
        # not read.
        if self._open:
            with trio.move_on_at(scope.deadline - 0.5):
                await self._empty.wait()
        for connection in list(self._open):
            await connection.abort()

    def end(self) -> None:
        self._ending.set()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection from its first byte to its last."""
        connection = Connection(stream)
        self._open.add(connection)
        try:
            await TCPServer(
                self._app, self._config, self._context, cast(Any, {}), cast(Any, connection)
            )
        except Exception:  # noqa: BLE001 - one connection is not worth the others
            # Hypercorn lets some of its own errors out.
            _log.exception("a connection failed unexpectedly")
        finally:
            self._open.discard(connection)
            if self._ending.is_set() and not self._open:
                self._empty.set()


async def serve(
    app: FastAPI,
    *,
    bind: Sequence[str],
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` until cancelled; reports the URLs once it accepts connections.

    Cancelled, it accepts no more, ends the live sessions with "going away", and is gone within
    `GRACE_S`. Raises OSError where an address cannot be listened on.
    """
    ws_stream.Handshake = _Handshake  # type: ignore[misc]
    listeners: list[trio.SocketListener] = []
    try:
        listeners.extend(_listen(address) for address in bind)
        connections = _Connections(app)
        async with trio.open_nursery() as nursery:
            holding = await nursery.start(connections.hold)
            try:
                task_status.started([_url(listener) for listener in listeners])
                await trio.serve_listeners(connections.serve, listeners, handler_nursery=holding)
            finally:
                for listener in listeners:
                    listener.socket.close()
                services = cast(Services, app.state.services)
                services.live.end_all(CloseCode.GOING_AWAY, "the server is going away")
                connections.end()
    finally:
        for listener in listeners:
            listener.socket.close()
