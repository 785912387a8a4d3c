"""MCP's streamable HTTP at `/mcp`, served by Hypercorn's parts on Trio (api/http/serve.py).

`HttpFront.serve` owns a nursery with the server and the package's session manager, whose task group
has the sessions. A client has one session, from its `initialize` to its DELETE or until it was idle
for `IDLE_S`.

Revision 2026-07-28 of the protocol has no sessions over HTTP, and without one there is no newest
screenshot that coordinates could be of. Clients that offer it are told the revisions that have, and
take one of them.

A client that leaves before its answer, or ends the stream it listens on, has nobody who would let
go of what it holds: its action is cut, and keys and buttons go up. One that does neither is only
noticed after `IDLE_S`.
"""

from __future__ import annotations

import hmac
import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import trio
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types import UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.budgets import Budgets, BudgetSettings, OverBudget
from api.http.budgets import address_of, refusal
from api.http.errors import FORBIDDEN, ROUTE_NOT_FOUND, ApiError
from api.http.guard import Guard
from api.http.headers import SafeHeaders
from api.http.logs import AccessLog
from api.http.serve import serve_app
from api.http.site import Site, same_origin
from api.mcp.server import MESSAGE_BYTES, Context, MakeSession, make_server
from api.mcp.session import ComputerSession
from api.settings import SettingsProblem
from relay.computer import Result

__all__ = ["HttpFront"]

PATH: Final = "/mcp"

SESSIONS_LIMIT: Final = 32
"""Each has a connection to the desktop and, while it looks, some pictures of it."""

IDLE_S: Final = 1800.0
"""Without a request and without an open stream; models may think, and people may leave."""

CONNECTIONS_LIMIT: Final = 4 * SESSIONS_LIMIT
"""A client has its stream, a call, and what cancels it."""

READ_TIMEOUT_S: Final = 900.0
"""Without a byte from a client that has a request: the longest action takes 300 s, and the stream
that a client listens on is opened anew when it ends."""

_CALL: Final = "deskrelay.call"


class HttpFront:
    """Serves at `bind`; with a `token`, only to whoever sends it. Without one `bind` must be a
    loopback address."""

    def __init__(self, bind: str, token: bytes | None) -> None:
        self._bind = bind
        self._token = token
        self._sessions: dict[str | None, ComputerSession] = {}
        self._budgets = Budgets(BudgetSettings())

    async def serve(self, make_session: MakeSession) -> None:
        """Serves until cancelled. Raises SettingsProblem where `bind` cannot be listened on."""
        self._make_session = make_session
        self._manager: StreamableHTTPSessionManager | None = None
        problem: OSError | None = None
        async with trio.open_nursery() as nursery:
            try:
                app: ASGIApp = SafeHeaders(AccessLog(Guard(self._answer, None)))
                urls = await nursery.start(
                    partial(
                        serve_app,
                        app,
                        bind=[self._bind],
                        limit=CONNECTIONS_LIMIT,
                        read_timeout_s=READ_TIMEOUT_S,
                    )
                )
            except OSError as error:
                problem = error
            else:
                await nursery.start(self._hold)
                sys.stderr.write(f"serving MCP at {urls[0]}{PATH}\n")
                sys.stderr.flush()
        if problem is not None:
            text = problem.strerror or str(problem)
            raise SettingsProblem(f"cannot listen on {self._bind}: {text}")

    async def _hold(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        manager = StreamableHTTPSessionManager(
            make_server(self._call),
            security_settings=self._security(),
            session_idle_timeout=IDLE_S,
            max_request_body_size=MESSAGE_BYTES,
            max_sessions=SESSIONS_LIMIT,
        )
        async with manager.run():
            self._manager = manager
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._manager = None

    def _security(self) -> TransportSecuritySettings:
        """Against DNS rebinding: pages whose name was made to point at this machine.

        Where a token is needed, no such page has it, and the names that lead here are not known.
        """
        if self._token is not None:
            return TransportSecuritySettings(enable_dns_rebinding_protection=False)
        hosts = {"127.0.0.1", "localhost", "[::1]", self._bind.rpartition(":")[0]}
        names = [name for host in sorted(hosts) for name in (host, f"{host}:*")]
        return TransportSecuritySettings(
            allowed_hosts=names, allowed_origins=[f"http://{name}" for name in names]
        )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, partial(_send_last, send))
            return
        assert self._manager is not None
        call = scope[_CALL] = trio.CancelScope()
        answered = False

        async def watch(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                answered = True
            await send(message)

        try:
            await self._manager.handle_request(scope, receive, watch)
        finally:
            if not answered:
                call.cancel()
                await self._left(Headers(scope=scope).get(MCP_SESSION_ID_HEADER))

    async def _left(self, session_id: str | None) -> None:
        session = self._sessions.get(session_id)
        if session is not None:
            await session.release()

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        if scope["type"] != "http" or scope["path"] != PATH:
            return ApiError(404, ROUTE_NOT_FOUND, f"MCP is at {PATH}.").response()
        headers = Headers(scope=scope)
        if self._token is not None:
            if (unauthorized := self._unauthorized(scope, headers)) is not None:
                return unauthorized.response()
            if "origin" in headers and not same_origin(HTTPConnection(scope), Site()):
                return ApiError(403, FORBIDDEN, "Pages of other sites are not let in.").response()
        if self._manager is None:
            return ApiError(503, "The server is not ready, or going away.").response()
        requested = headers.get(MCP_PROTOCOL_VERSION_HEADER)
        if requested is not None and requested not in HANDSHAKE_PROTOCOL_VERSIONS:
            return _unsupported(requested)
        return None

    def _unauthorized(self, scope: Scope, headers: Headers) -> ApiError | None:
        values = headers.getlist("authorization")
        scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        given, address = token.strip(), address_of(scope)
        log_ins = self._budgets.log_ins
        try:
            if given:
                log_ins.check(address, given)
            good = hmac.compare_digest(given.encode("latin-1"), self._token or b"")
            if good and scheme.lower() == "bearer":
                log_ins.succeeded(address, given)
                return None
            if given:
                log_ins.failed(address, given)
        except OverBudget as over:
            return refusal(self._budgets, over)
        detail = "Send the token as Authorization: Bearer TOKEN."
        challenge = {"WWW-Authenticate": "Bearer"}
        return ApiError(401, "A token is required.", detail, headers=challenge)

    async def _call(self, context: Context, name: str, given: Mapping[str, Any]) -> Result:
        assert context.request is not None
        session = self._session(context)
        call: trio.CancelScope = context.request.scope[_CALL]
        with call:
            return await session.call(name, given)
        # Nobody reads it any more.
        return {"is_error": True, "content": []}

    def _session(self, context: Context) -> ComputerSession:
        # The package hands its handlers no other way to what lasts as long as a session.
        connection = context.session._connection
        session: ComputerSession | None = connection.state.get(_CALL)
        if session is None:
            session = connection.state[_CALL] = self._make_session()
            self._sessions[connection.session_id] = session
            connection.exit_stack.push_async_callback(session.aclose)
            connection.exit_stack.callback(self._sessions.pop, connection.session_id)
        return session


async def _send_last(send: Send, message: Message) -> None:
    """What is refused has its body left unread, so the connection ends. The client is told, or it
    would send its next request into that end."""
    if message["type"].endswith(".response.start"):
        message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
    await send(message)


def _unsupported(requested: str) -> Response:
    error = {
        "code": UNSUPPORTED_PROTOCOL_VERSION,
        "message": "Over HTTP this server speaks the revisions with sessions only",
        "data": {"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": requested[:64]},
    }
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error})
    return Response(body, 400, media_type="application/json")
