"""The HTTP server: Hypercorn's parts, composed because its own takes no wrapped streams.

`serve_app` owns two nurseries: one with the accept loops and what runs beside, and one with the
connections, which outlives a cancellation by `GRACE_S` so that viewers and clients get their
goodbyes.
"""

from __future__ import annotations

import logging
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import trio
from fastapi import FastAPI
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from starlette.types import ASGIApp

from api.budgets import OverBudget
from api.http.budgets import address_key
from api.http.crowd import Crowd
from api.http.http1 import HttpServer
from api.http.takeover import READ_TIMEOUT_S, ClientStream, Connection
from api.live import SPARE_CONNECTIONS
from api.services import Services
from relay import CloseCode
from relay.dialling.addresses import KEEPALIVE

__all__ = ["GRACE_S", "serve", "serve_app"]

GRACE_S: Final = 2.5
"""For sessions and requests to end once the server is told to; then they are cut."""

CUT_S: Final = 2.0
"""After this much of it, clients that do not take their answers lose their sockets."""

HEAD_TIMEOUT_S: Final = 10.0
"""For a whole request head, from the accept or from the answer before (slowloris)."""

BACKLOG: Final = 4096
"""Connections the kernel holds before we accept them: a burst of viewers after a restart. Where
somebody floods it, others wait until their SYN is sent again, a second."""

ACCEPTS_AT_ONCE: Final = 32
"""Before the others have their turn."""

CLOSED_AT_ONCE: Final = 1_024
"""The same of those that are closed unread, which is soon done: who comes behind a flood of them
waits for it."""

DESCRIPTORS_S: Final = 0.1
"""So long no connection is accepted when the process has no descriptor for one."""

UNIX: Final = "unix:"

_log = logging.getLogger(__name__)


def _config() -> Config:
    config = Config()
    config.include_server_header = False
    config.h11_max_incomplete_size = 16_384
    # Hypercorn's name for a deadline that a byte now and then does not extend.
    config.keep_alive_timeout = HEAD_TIMEOUT_S
    # Our own access log has the line; errors go where all logging goes.
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


def _listen(bind: str) -> socket.socket:
    """Listens on `HOST:PORT` or `unix:PATH`. Raises OSError."""
    if bind.startswith(UNIX):
        family, address = socket.AF_UNIX, cast(Any, bind.removeprefix(UNIX))
        _remove_stale(address)
    else:
        host, _, port = bind.rpartition(":")
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Accepted sockets inherit these.
            for option in KEEPALIVE:
                listening.setsockopt(*option)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def _remove_stale(path: str) -> None:
    """Removes the socket of a server that was killed; one that is served stays."""
    if not (Path(path).exists() and stat.S_ISSOCK(Path(path).stat().st_mode)):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        # Else a server that accepts nothing more would hold this one up.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except BlockingIOError:
            pass  # It is served, and its queue is full.


def _close(listener: socket.socket, bind: str) -> None:
    listener.close()
    if bind.startswith(UNIX):
        Path(bind.removeprefix(UNIX)).unlink(missing_ok=True)


def _url(listener: socket.socket, scheme: str) -> str:
    name = listener.getsockname()
    if isinstance(name, str):
        return f"{UNIX}{name}"
    host, port = name[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class _Connections:
    """Every open connection, served in a nursery that a cancellation does not reach at once."""

    def __init__(
        self,
        app: ASGIApp,
        crowd: Crowd[Connection],
        tls: ssl.SSLContext | None,
        read_timeout_s: float,
        *,
        behind_proxy: bool,
    ) -> None:
        self._crowd = crowd
        self._behind_proxy = behind_proxy
        self._tls = tls
        self._read_timeout_s = read_timeout_s
        self._app = ASGIWrapper(cast(Any, app))
        self._config = _config()
        self._nursery: trio.Nursery | None = None
        self._context = WorkerContext(None)
        self._ending = trio.Event()
        self._empty = trio.Event()

    async def hold(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the connections' nursery until `end`, and for `GRACE_S` after it."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as self._nursery:
                nursery = self._nursery
                task_status.started()
                await self._ending.wait()
                await self._context.terminated.set()
                nursery.cancel_scope.deadline = trio.current_time() + GRACE_S
                nursery.start_soon(self._cut_late)

    async def _cut_late(self) -> None:
        with trio.move_on_after(CUT_S):
            await self._empty.wait()
        # Hypercorn's sends are shielded: only a closed socket ends one to a client that does
        # not read. Sessions keep their own deadlines.
        for connection in self._crowd.members():
            if not connection.taken_over:
                connection.abort()

    def end(self) -> None:
        self._ending.set()
        self._tell_empty()

    def _tell_empty(self) -> None:
        if self._ending.is_set() and not self._crowd:
            self._empty.set()

    async def accept(self, listening: socket.socket) -> None:
        """Accepts connections until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(listening)
            try:
                room = 1.0
                while room > 0:
                    admitted = self._admit(*listening.accept())
                    room -= 1 / (ACCEPTS_AT_ONCE if admitted else CLOSED_AT_ONCE)
            except BlockingIOError:
                pass
            except ConnectionError:
                pass  # It has gone already.
            except OSError as error:
                _log.error("a connection cannot be accepted: %s", error.strerror)
                await trio.sleep(DESCRIPTORS_S)

    def _admit(self, accepted: socket.socket, peer: Any) -> bool:
        """Has a connection served, or closes it unread where there are too many: their descriptors
        would be missing where sessions run. Whether it is served."""
        named = accepted.family != socket.AF_UNIX and not self._behind_proxy
        # Who is at the other end, where that tells whose connection it is.
        address = address_key(peer[0]) if named else None
        if not self._crowd.make_room(address):
            accepted.close()
            return False
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
        secured = stream if self._tls is None else _encrypted(stream, self._tls)
        connection = Connection(secured, self._crowd, address, self._read_timeout_s)
        self._crowd.enter(connection)
        assert self._nursery is not None
        self._nursery.start_soon(self._serve, secured, connection)
        return True

    async def _serve(self, secured: ClientStream, connection: Connection) -> None:
        """One connection from its first byte to its last."""
        connection.make_current()
        try:
            if isinstance(secured, trio.SSLStream) and not await _agreed(secured):
                return
            try:
                await HttpServer(self._app, self._config, self._context, connection)
            finally:
                carry = connection.handed_over()
                if carry is not None:
                    await carry()
        except Exception:  # noqa: BLE001 - one connection is not worth the others
            # Hypercorn lets some of its own errors out.
            _log.exception("a connection failed unexpectedly")
        finally:
            connection.socket.close()
            self._crowd.leave(connection)
            self._tell_empty()


def _encrypted(stream: trio.SocketStream, tls: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    # Whether what was read is whole, HTTP and WebSocket tell themselves.
    return trio.SSLStream(stream, tls, server_side=True, https_compatible=True)


async def _agreed(stream: trio.SSLStream[trio.SocketStream]) -> bool:
    """Whether the TLS handshake went well, in the time there is for a request's head."""
    try:
        with trio.fail_after(HEAD_TIMEOUT_S):
            await stream.do_handshake()
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
        _log.info("no TLS with a client: %s", error.__cause__ or type(error).__name__)
        return False
    return True


async def serve(
    app: FastAPI,
    *,
    bind: Sequence[str],
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` until cancelled; reports the URLs once it accepts connections.

    `bind` has addresses of the forms `HOST:PORT` (port 0: a free one) and `unix:PATH`.
    Cancelled, it accepts no more, ends the live sessions with "going away", and is gone within
    `GRACE_S`. Raises OSError where an address cannot be listened on.
    """
    services = cast(Services, app.state.services)
    live = services.live

    def end() -> None:
        live.end_all(CloseCode.GOING_AWAY, "the server is going away")
        services.followers.close()

    await serve_app(
        app,
        bind=bind,
        limit=live.capacity + SPARE_CONNECTIONS,
        idle_per_address=services.settings.budgets.idle_connections_per_address,
        per_address=services.settings.budgets.connections_per_address,
        behind_proxy=services.settings.trusted_proxy_hops > 0,
        refused=services.budgets.refused,
        beside=partial(live.watch_store, services.store),
        end=end,
        task_status=task_status,
    )


async def serve_app(
    app: ASGIApp,
    *,
    bind: Sequence[str],
    limit: int,
    idle_per_address: int | None = None,
    per_address: int | None = None,
    behind_proxy: bool = False,
    refused: Callable[[OverBudget], object] = lambda _over: None,
    end: Callable[[], object] = lambda: None,
    beside: Callable[[], Awaitable[None]] = trio.sleep_forever,
    tls: ssl.SSLContext | None = None,
    read_timeout_s: float = READ_TIMEOUT_S,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, for any application: at most `limit` connections at once, `beside` runs
    meanwhile, and `end` is called once no more are accepted. One address has `per_address` at the
    most, less sessions and streams (by default as many as there may be), of which
    `idle_per_address` (by default half of `limit`) do nothing, unless the server is `behind_proxy`
    and they are all the proxy's; `refused` is called for each that is closed for it. A client that
    has sent nothing for `read_timeout_s` has left, also while its request is being answered."""
    listeners: dict[socket.socket, str] = {}
    try:
        for address in bind:
            listeners[_listen(address)] = address
        idle_per_address = idle_per_address or max(1, limit // 2)
        crowd: Crowd[Connection] = Crowd(limit, idle_per_address, per_address or limit, refused)
        connections = _Connections(app, crowd, tls, read_timeout_s, behind_proxy=behind_proxy)
        async with trio.open_nursery() as nursery:
            await nursery.start(connections.hold)
            try:
                for listener in listeners:
                    nursery.start_soon(connections.accept, listener)
                scheme = "http" if tls is None else "https"
                task_status.started([_url(listener, scheme) for listener in listeners])
                await beside()
            finally:
                end()
                connections.end()
    finally:
        for item in listeners.items():
            _close(*item)
