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
import logging
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import trio
from mcp.server.streamable_http import LAST_EVENT_ID_HEADER, MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    UNSUPPORTED_PROTOCOL_VERSION,
    JSONRPCRequest,
    jsonrpc_message_adapter,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.budgets import Budgets, BudgetSettings, OverBudget
from api.http.body import read_body
from api.http.budgets import address_of, refusal
from api.http.errors import FORBIDDEN, ROUTE_NOT_FOUND, ApiError
from api.http.guard import Guard
from api.http.headers import SafeHeaders
from api.http.logs import AccessLog
from api.http.serve import serve_app
from api.http.site import Site, same_origin
from api.mcp.server import MESSAGE_BYTES, Context, MakeSession, make_server
from api.mcp.session import ComputerSession
from api.mcp.sessions import LISTENING, Busy, Full, Session, Sessions
from api.settings import SettingsProblem
from relay.computer import Result

__all__ = ["HttpFront"]

PATH: Final = "/mcp"

SESSIONS_LIMIT: Final = 32
"""Each has a connection to the desktop and, while it looks, some pictures of it."""

IDLE_S: Final = 1800.0
"""Without a request and without an open stream; models may think, and people may leave."""

CONNECTIONS_LIMIT: Final = 8 * SESSIONS_LIMIT
"""A client has its stream, a call, and what cancels it; the clients on one machine together have
half of them."""

READ_TIMEOUT_S: Final = 900.0
"""Without a byte from a client that has a request: the longest action takes 300 s, and the stream
that a client listens on is opened anew when it ends."""

END_S: Final = 2.0
"""For what is in work in a session that ends."""

RETRY_S: Final = 10
"""What a client is told to wait for a session, where something is in work in all of them."""

METHODS: Final = ("DELETE", "GET", "POST")

TOLD: Final = """\
clients must send the header  Authorization: Bearer {}
this token is new at each start; --token-file FILE sets one that stays
"""

ENDED: Final = "There is no such session, or it has ended; open one with initialize"
ID_IN_WORK: Final = "A request of this id is in work in this session"
STREAM_OPEN: Final = "This session has a stream open; there is one at a time"

GOING: Final = ApiError(503, "The server is not ready, or going away.")

_CALL: Final = "deskrelay.call"

_log = logging.getLogger(__name__)


class HttpFront:
    """Serves at `bind`; with a `token`, only to whoever sends it. Without one `bind` must be a
    loopback address. `made`: nobody knows the token yet, so it is told with the address."""

    def __init__(self, bind: str, token: bytes | None, *, made: bool = False) -> None:
        self._bind = bind
        self._token = token
        self._made = made
        self._security = TransportSecurityMiddleware(self._security_settings())
        self._sessions = Sessions(SESSIONS_LIMIT)
        self._computers: dict[str | None, ComputerSession] = {}
        self._budgets = Budgets(BudgetSettings())

    async def serve(self, make_session: MakeSession) -> None:
        """Serves until cancelled. Raises SettingsProblem where `bind` cannot be listened on."""
        self._make_session = make_session
        self._manager: StreamableHTTPSessionManager | None = None
        self._ending = trio.Event()
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
                        end=self._ending.set,
                        read_timeout_s=READ_TIMEOUT_S,
                    )
                )
            except OSError as error:
                problem = error
            else:
                await nursery.start(self._hold)
                told = f"serving MCP at {urls[0]}{PATH}\n"
                if self._made and self._token is not None:
                    told += TOLD.format(self._token.decode())
                sys.stderr.write(told)
                sys.stderr.flush()
        if problem is not None:
            text = problem.strerror or str(problem)
            raise SettingsProblem(f"cannot listen on {self._bind}: {text}")

    async def _hold(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        manager = StreamableHTTPSessionManager(
            make_server(self._call),
            session_idle_timeout=IDLE_S,
            max_request_body_size=MESSAGE_BYTES,
            # It would count those that no `initialize` has opened; `Sessions` does not.
            max_sessions=None,
        )
        # Else the package would find its streams closed below requests that it answers: a
        # cancellation reaches its sessions at once, and requests only when they have been ended.
        with trio.CancelScope(shield=True) as scope:
            async with manager.run():
                self._manager = manager
                task_status.started()
                await self._ending.wait()
                self._manager = None
                scope.deadline = trio.current_time() + END_S
                for session in self._sessions.all():
                    await session.end()

    def _security_settings(self) -> TransportSecuritySettings:
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
        """One request. The package is given those alone that it has an answer to: a session's, one
        of each id at a time, and those that open one."""
        refusal = await self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, partial(_send_last, send))
            return
        try:
            body = await read_body(Request(scope, receive), MESSAGE_BYTES)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        session_id = Headers(scope=scope).get(MCP_SESSION_ID_HEADER)
        answer = self._open if not session_id else partial(self._go_on, session_id)
        await answer(scope, _replayed(body, receive), send, body)

    async def _open(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        message = _request_in(body) if scope["method"] == "POST" else None
        if message is None or message.method != "initialize":
            text = "Open a session with initialize, and send its Mcp-Session-Id"
            await _refused(400, text)(scope, receive, send)
            return

        try:
            with self._sessions.opening() as (evicted, add):

                async def watch(event: Message) -> None:
                    if event["type"] == "http.response.start" and event["status"] < 400:
                        add(Headers(raw=event["headers"])[MCP_SESSION_ID_HEADER])
                    await send(event)

                if evicted is not None:
                    idle_s = trio.current_time() - evicted.used_at
                    _log.info("a session that was idle for %.0f s made room for another", idle_s)
                    await self._end(evicted)
                await self._ask(scope, receive, watch)
        except Full:
            text = f"All {SESSIONS_LIMIT} sessions are at work; try again later"
            refusal = _refused(503, text, {"Retry-After": str(RETRY_S)}, INTERNAL_ERROR)
            await refusal(scope, receive, send)

    async def _go_on(
        self, session_id: str, scope: Scope, receive: Receive, send: Send, body: bytes
    ) -> None:
        session = self._sessions.get(session_id)
        if session is None:
            await _refused(404, ENDED)(scope, receive, send)
            return
        if scope["method"] == "DELETE":
            self._sessions.remove(session_id)
            await self._end(session)
            await Response()(scope, receive, send)
            return
        message = _request_in(body) if scope["method"] == "POST" else None
        key = None if message is None else str(message.id)
        if scope["method"] == "GET":
            key = LISTENING
        started = ended = False

        async def watch(event: Message) -> None:
            nonlocal started, ended
            started = True
            ended = event["type"] == "http.response.body" and not event.get("more_body", False)
            if event.get("status") == 404:  # idle for too long
                self._sessions.remove(session_id)
            # Cut in its middle, Hypercorn would not know how far an answer has come.
            with trio.CancelScope(shield=True):
                await send(event)

        try:
            with session.work(key) as work:
                await self._ask(scope, receive, watch)
        except Busy:
            is_get = scope["method"] == "GET"
            status, text = (409, STREAM_OPEN) if is_get else (400, ID_IN_WORK)
            await _refused(status, text)(scope, receive, send)
            return
        if work.cancelled_caught and not started:
            await _refused(404, ENDED)(scope, receive, send)
        elif work.cancelled_caught and not ended:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The package."""
        if self._manager is None:
            await GOING.response()(scope, receive, send)
            return
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
        computer = self._computers.get(session_id)
        if computer is not None:
            await computer.release()

    async def _end(self, session: Session) -> None:
        """Ends one that `Sessions` has given up. What it holds goes up, and its connection to the
        desktop closes, in the package's own task."""
        with trio.move_on_after(END_S, shield=True):
            await session.end()
            if self._manager is not None:
                headers = [(MCP_SESSION_ID_HEADER.encode(), session.id.encode())]
                scope = {"type": "http", "method": "DELETE", "path": PATH, "headers": headers}
                await self._manager.handle_request(scope, _replayed(b"", _nothing), _ignored)

    async def _refusal(self, scope: Scope) -> ASGIApp | None:
        """What a request is refused with before its body is read."""
        if scope["type"] != "http" or scope["path"] != PATH:
            return ApiError(404, ROUTE_NOT_FOUND, f"MCP is at {PATH}.").response()
        headers = Headers(scope=scope)
        if self._token is not None:
            if (unauthorized := self._unauthorized(scope, headers)) is not None:
                return unauthorized.response()
            if "origin" in headers and not same_origin(HTTPConnection(scope), Site()):
                return ApiError(403, FORBIDDEN, "Pages of other sites are not let in.").response()
        if scope["method"] not in METHODS:
            allow = ", ".join(METHODS)
            detail = f"This address takes {allow}."
            return ApiError(405, "Method not allowed.", detail, headers={"Allow": allow}).response()
        is_post = scope["method"] == "POST"
        insecure = await self._security.validate_request(Request(scope), is_post)
        if insecure is not None:
            return insecure
        if self._manager is None:
            return GOING.response()
        if LAST_EVENT_ID_HEADER in headers:
            text = "Streams are not resumed here, and no event has an id; leave Last-Event-ID out"
            return _refused(400, text)
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
        computer = self._computer(context)
        call: trio.CancelScope = context.request.scope[_CALL]
        with call:
            return await computer.call(name, given)
        # Nobody reads it any more.
        return {"is_error": True, "content": []}

    def _computer(self, context: Context) -> ComputerSession:
        # The package hands its handlers no other way to what lasts as long as a session.
        connection = context.session._connection
        computer: ComputerSession | None = connection.state.get(_CALL)
        if computer is None:
            computer = connection.state[_CALL] = self._make_session()
            self._computers[connection.session_id] = computer
            connection.exit_stack.push_async_callback(computer.aclose)
            connection.exit_stack.callback(self._computers.pop, connection.session_id)
        return computer


async def _send_last(send: Send, message: Message) -> None:
    """What is refused has its body left unread, so the connection ends. The client is told, or it
    would send its next request into that end."""
    if message["type"].endswith(".response.start"):
        message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
    await send(message)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What the package receives: a body that has been read, and then what comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _ignored(_message: Message) -> None:
    pass


def _request_in(body: bytes) -> JSONRPCRequest | None:
    """The request, if there is one in `body`, as the package reads it."""
    try:
        message = jsonrpc_message_adapter.validate_python(from_json(body), by_name=False)
    except ValueError:
        return None
    return message if isinstance(message, JSONRPCRequest) else None


def _refused(
    status: int,
    text: str,
    headers: Mapping[str, str] | None = None,
    code: int = INVALID_REQUEST,
    data: Mapping[str, Any] | None = None,
) -> Response:
    """In the form that MCP clients read."""
    error = {"code": code, "message": text, **({"data": data} if data else {})}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error})
    return Response(body, status, headers, "application/json")


def _unsupported(requested: str) -> Response:
    text = "Over HTTP this server speaks the revisions with sessions only"
    data = {"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": requested[:64]}
    return _refused(400, text, code=UNSUPPORTED_PROTOCOL_VERSION, data=data)
