"""The workspace's side: a small server beside a desktop, which the relay dials.

`run_workspace_agent` owns two nurseries: the inner one has the HTTP server and what watches for
signals, the outer one the desktop, which ends last. It judges nothing of RFB: the relay at the
other end does.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
import trio
from fastapi import FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.body import read_body
from api.http.errors import (
    FORBIDDEN,
    ApiError,
    ReadyJSONResponse,
    install_error_handlers,
    no_route,
    safe_json,
)
from api.http.guard import Guard
from api.http.headers import SafeHeaders
from api.http.logs import AccessLog
from api.http.serve import serve_app
from api.http.takeover import NotUpgraded, current_connection
from api.http.upgrade import upgrade_problem
from api.live import SPARE_CONNECTIONS, reserve_capacity
from api.run import end_on_signal
from api.settings import SettingsProblem
from api.workspace.actions import PICTURE, Action, Actor, Desktop, parse
from relay import client
from relay.bridge import READ_BYTES, bridge
from relay.desktops import Desktops, RunningDesktop, provider_for
from relay.desktops.runtime import reap_leftovers
from relay.dialling.addresses import dial
from relay.dialling.passwords import Password, PasswordSource
from relay.dialling.workspace_agent import DEFAULT_PATH
from relay.errors import DesktopError
from relay.limits import Limits
from relay.net import kernel, streams
from relay.net.websocket_stream import WebSocketStream

__all__ = [
    "ACTION_PATH",
    "Workspace",
    "WorkspaceAgentSettings",
    "create_workspace_agent_app",
    "run_workspace_agent",
]

ACTION_PATH: Final = "/api/v0/desktop/action"
HEALTH_PATH: Final = "/healthz"

BODY_BYTES: Final = 262_144
"""Of an action. The longest text to type has 10,000 characters, each 12 bytes at the most."""

ANSWER_S: Final = 600.0
"""For an action, and those before it: one may hold a key for 300 s."""

# To the letter: clients of this API know the text.
GOING_AWAY: Final = "Agent is going away."

_log = structlog.stdlib.get_logger("api.workspace_agent")


@dataclass(frozen=True, slots=True)
class WorkspaceAgentSettings:
    """Of one workspace agent. At least one of `secret`, and `tls` that demands a client's
    certificate, is there: who makes this sees to it."""

    desktop: str
    bind: str
    geometry: str
    secret: Password | None
    tls: ssl.SSLContext | None
    password: PasswordSource | None


class _Secret:
    """ASGI middleware: lets nobody further who does not know the secret, and no page of a browser,
    which may have the client's certificate. Health is told to anybody."""

    def __init__(self, app: ASGIApp, secret: Password | None) -> None:
        self._app = app
        self._digest = None if secret is None else _digest(secret.reveal())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (error := self._refusal(scope)):
            error.headers["Connection"] = "close"
            await error.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        if scope["path"] == HEALTH_PATH:
            return None
        headers = dict(scope["headers"])
        if self._digest is not None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            good = hmac.compare_digest(_digest(given.strip()), self._digest)
            if scheme.lower() != b"bearer" or not good:
                detail = "The header Authorization must be Bearer and the workspace agent's secret."
                wanted = {"WWW-Authenticate": "Bearer"}
                return ApiError(401, "Unauthorized.", detail, headers=wanted)
        if b"origin" in headers:
            detail = "A workspace agent takes no requests of a browser's pages."
            return ApiError(403, FORBIDDEN, detail)
        return None


def _digest(secret: bytes) -> bytes:
    # Of one length, so that the comparison tells nothing of the secret's.
    return hashlib.sha256(secret).digest()


class Workspace:
    """The desktop, started when it is first asked for, and all that goes on with it."""

    def __init__(self, desktops: Desktops, spec: str, limits: Limits) -> None:
        self._desktops = desktops
        self._spec = spec
        self._limits = limits
        self._scopes: set[trio.CancelScope] = set()
        self._ending = False
        self._actor = Actor(self._connected)

    async def act(self, action: Action) -> dict[str, Any]:
        """The answer to an action. Raises ApiError."""
        with trio.CancelScope() as scope, self._listed(scope):
            return await self._actor.run(action)
        raise ApiError(503, GOING_AWAY)

    async def aclose(self) -> None:
        """Lets go of the desktop."""
        await self._actor.aclose()

    def end(self) -> None:
        """Ends what goes on with it; relays and clients are told that this end goes away."""
        self._ending = True
        for scope in self._scopes:
            scope.cancel()

    # The two ways to the desktop.

    async def _reach(self, way: Callable[[RunningDesktop], Awaitable[Any]]) -> Any:
        try:
            await self._desktops.get(self._spec, self._spec)
        except DesktopError as error:
            _log.warning("desktop not started", problem=str(error))
            raise ApiError(500, "Failed to start desktop session.", str(error)) from None
        try:
            return await self._desktops.reach(self._spec, self._spec, way)
        except DesktopError as error:
            _log.warning("desktop not reached", problem=str(error))
            raise ApiError(500, "Failed to connect to VNC server.", str(error)) from None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Desktop]:
        async with AsyncExitStack() as stack:

            async def connect(running: RunningDesktop) -> Desktop:
                return await stack.enter_async_context(client.connect(running, limits=self._limits))

            yield await self._reach(connect)

    async def _greeted(self, running: RunningDesktop) -> tuple[trio.abc.Stream, bytes]:
        """The desktop's stream, and the first it says, as every RFB server does unasked. One that
        is just ending still takes connections."""
        stream = await dial(running.address, timeout_s=self._limits.dial_timeout_s)
        try:
            with trio.fail_after(self._limits.handshake_timeout_s):
                hello = await streams.receive(stream, READ_BYTES)
        except trio.BrokenResourceError:
            hello = b""
        except trio.TooSlowError:
            await streams.cut(stream)
            raise DesktopError("the desktop says nothing") from None
        except BaseException:
            await streams.cut(stream)
            raise
        if not hello:
            await streams.cut(stream)
            raise DesktopError("the desktop closed the connection")
        return stream, hello

    # The upgrade.

    async def upgrade(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI application of the desktop's address."""
        try:
            await self._upgrade(HTTPConnection(scope), send)
        except ApiError as error:
            # Whatever follows a refused upgrade on this connection, it is no request.
            error.headers.setdefault("Connection", "close")
            await error.response()(scope, receive, send)

    async def _upgrade(self, request: HTTPConnection, send: Send) -> None:
        scope = request.scope
        if scope["type"] != "websocket":
            # Only a good upgrade request arrives as anything else (api/http/http1.py).
            problem = upgrade_problem(scope["method"], scope["http_version"], scope["headers"])
            assert problem is not None
            raise problem
        connection = current_connection()
        reached: tuple[trio.abc.Stream, bytes] | None = None
        with trio.CancelScope() as starting:
            connection.when_viewer_leaves(starting.cancel)
            with self._listed(starting):
                reached = await self._reach(self._greeted)
        if reached is None:
            raise ApiError(503, GOING_AWAY, "Or whoever asked has left.")
        desktop, hello = reached
        try:
            stream, early = await connection.take_over(send)
        except NotUpgraded:
            await streams.cut(desktop)
            return
        except BaseException:
            await streams.cut(desktop)
            raise
        socket = stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
        # What a slow relay has not been sent yet is better left with the desktop, which then sends
        # what is newer.
        kernel.hold_unsent(socket, self._limits.low_water_bytes)
        relay_end = WebSocketStream(
            stream, client=False, limit_bytes=self._limits.viewer_frame_bytes, early=early
        )
        connection.hand_over(partial(self._carry, relay_end, desktop, hello))

    async def _carry(
        self, relay_end: WebSocketStream, desktop: trio.abc.Stream, hello: bytes
    ) -> None:
        _log.info("session begins")
        why = "cancelled"
        try:
            with trio.CancelScope() as scope, self._listed(scope):
                why = await bridge(relay_end, desktop, hello)
        finally:
            _log.info("session ended", reason=why)

    def _listed(self, scope: trio.CancelScope) -> _Listed:
        if self._ending:
            scope.cancel()
        return _Listed(self._scopes, scope)


class _Listed:
    def __init__(self, scopes: set[trio.CancelScope], scope: trio.CancelScope) -> None:
        self._scopes = scopes
        self._scope = scope

    def __enter__(self) -> None:
        self._scopes.add(self._scope)

    def __exit__(self, *_exc: object) -> None:
        self._scopes.discard(self._scope)


class _UpgradesFirst:
    """ASGI middleware, the innermost: upgrade requests for the desktop go past the routes."""

    def __init__(self, app: ASGIApp, upgrade: ASGIApp) -> None:
        self._app = app
        self._upgrade = upgrade

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "websocket" and scope["path"] == DEFAULT_PATH
        await (self._upgrade if ours else self._app)(scope, receive, send)


class _Endpoint:
    """An ASGI application that Starlette does not take for a function of a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def create_workspace_agent_app(workspace: Workspace, secret: Password | None) -> FastAPI:
    """The application in front of `workspace`, which stays its maker's to close."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    install_error_handlers(app)

    async def action(request: Request) -> Response:
        wanted = parse(await read_body(request, BODY_BYTES))
        answer = await _unless_left(request, partial(workspace.act, wanted))
        return ReadyJSONResponse(_with_picture(answer))

    async def health(_request: Request) -> Response:
        return PlainTextResponse("OK")

    app.router.routes += [
        Route(ACTION_PATH, action, methods=["POST"]),
        Route(DEFAULT_PATH, _Endpoint(workspace.upgrade)),
        Route(HEALTH_PATH, health, methods=["GET"]),
    ]
    app.router.default = no_route
    app.add_middleware(_UpgradesFirst, upgrade=workspace.upgrade)
    app.add_middleware(_Secret, secret=secret)
    app.add_middleware(Guard, site=None)
    app.add_middleware(AccessLog)
    app.add_middleware(SafeHeaders)  # the last one added is the outermost
    return app


def _with_picture(answer: dict[str, Any]) -> bytes:
    """An answer as JSON. Base64 needs no escapes, and to look for what does takes 30 ms for a
    picture of 3 MB."""
    picture = answer.pop(PICTURE, None)
    body = safe_json(answer)
    if picture is None:
        return body
    return b'%b,"%b":"%b"}' % (body[:-1], PICTURE.encode(), picture.encode("ascii"))


async def _unless_left(
    request: Request, work: Callable[[], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """What `work` returns or, as ApiError, raises; cancelled when the client leaves, so that no key
    is held for nobody. Owns a nursery with the watch over the client."""
    outcome: dict[str, Any] | ApiError = ApiError(503, "Action was cancelled.")

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            outcome = await work()
        except ApiError as error:
            outcome = error
        nursery.cancel_scope.cancel()
    if isinstance(outcome, ApiError):
        raise outcome
    return outcome


async def run_workspace_agent(
    settings: WorkspaceAgentSettings, started: Callable[[str], object]
) -> None:
    """Serves until SIGINT or SIGTERM; a second signal ends the process at once. Calls `started`
    with the URL when it serves.

    Raises SettingsProblem where the address can't be listened on.
    """
    await reap_leftovers()
    problem: OSError | None = None
    limits = Limits()
    async with trio.open_nursery() as desktops_nursery:
        make = partial(
            provider_for,
            geometry=settings.geometry,
            password=settings.password,
            limits=limits,
        )
        workspace = Workspace(Desktops(desktops_nursery, make), settings.desktop, limits)
        serving = partial(
            serve_app,
            create_workspace_agent_app(workspace, settings.secret),
            bind=[settings.bind],
            limit=reserve_capacity() + SPARE_CONNECTIONS,
            end=workspace.end,
            tls=settings.tls,
            read_timeout_s=ANSWER_S,
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(end_on_signal, nursery.cancel_scope)
                try:
                    urls = await nursery.start(serving)
                except OSError as error:
                    problem = error
                    nursery.cancel_scope.cancel()
                else:
                    started(urls[0])
        finally:
            await workspace.aclose()
        desktops_nursery.cancel_scope.cancel()
    if problem is not None:
        text = problem.strerror or str(problem)
        raise SettingsProblem(f"cannot listen on {settings.bind}: {text}")
