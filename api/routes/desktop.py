"""A chat's desktop: every check, then the desktop, then the 101, then the session.

Plain ASGI below Starlette's routes: after the 101 nothing of a framework is left on the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Final
from uuid import UUID, uuid4

import structlog
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from api.budgets import EVERYBODY, OverBudget
from api.http.auth import SIGNED_OUT, Identity, sign_in
from api.http.budgets import address_of, refusal
from api.http.errors import INTERNAL_ERROR, SEE_LOG, ApiError, Validation
from api.http.site import same_origin, site_of
from api.http.takeover import Connection, NotUpgraded, current_connection
from api.http.upgrade import check_origin, upgrade_problem
from api.live import LiveSession, Opened
from api.routes.chats import find_chat, parse_chat_id
from api.services import Services, services_of
from api.store import Access, StoreError, Token, Workspace
from relay import (
    FULL,
    VIEW_ONLY,
    CloseCode,
    DesktopEnd,
    DesktopError,
    Direction,
    Ended,
    Rights,
    Session,
    WorkspaceAgentError,
    WorkspaceAgentStep,
)
from relay.errors import UNTOLD
from relay.net import streams

__all__ = ["PATHS", "UpgradesFirst", "routes"]

PATHS: Final = ("/chats/{chat}/desktop", "/chats/{chat}/stream/desktop")
"""The endpoint's path, and the one that newer clients know it by."""

_log = structlog.stdlib.get_logger("api.desktop")


# How a session is refused that was ended from outside before its 101.
_ENDINGS: Final[dict[CloseCode, tuple[int, str, str]]] = {
    CloseCode.ARCHIVED: (
        400,
        "Chat is archived.",
        "An archived chat has no desktop. Unarchive it first.",
    ),
    CloseCode.SIGNED_OUT: (401, SIGNED_OUT, "API key was revoked or has expired."),
    CloseCode.GOING_AWAY: (503, "Server is going away.", "Try again in a few seconds."),
}


# How a session is refused whose desktop was not reached: status and text.
_WORKSPACE_AGENT_ERRORS: Final[dict[WorkspaceAgentStep, tuple[int, str]]] = {
    WorkspaceAgentStep.DISCONNECTED: (400, 'Agent state is "disconnected", must be connected.'),
    WorkspaceAgentStep.TIMEOUT: (400, 'Agent state is "timeout", must be connected.'),
    WorkspaceAgentStep.DIAL: (500, "Failed to dial workspace agent."),
    WorkspaceAgentStep.DESKTOP: (500, "Failed to connect to agent desktop."),
}


def _ending(code: CloseCode) -> ApiError:
    return ApiError(*_ENDINGS[code])


class DesktopEndpoint:
    """ASGI application of the endpoint, for upgrades and for plain requests."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HTTPConnection(scope)
        try:
            try:
                await _serve(request, send)
            except OverBudget as over:
                raise refusal(services_of(request).budgets, over) from None
        except ApiError as error:
            # Whatever follows a refused upgrade on this connection, it is no request.
            error.headers.setdefault("Connection", "close")
            await error.response()(scope, receive, send)


_endpoint: Final = DesktopEndpoint()


def routes(prefix: str) -> list[BaseRoute]:
    """What answers the endpoint's plain requests under `prefix`, of every method."""
    # An empty id is answered as one, not as an unknown route.
    paths = (path.replace("{chat}", "{chat:segment}") for path in PATHS)
    return [Route(prefix + path, _endpoint, include_in_schema=False) for path in paths]


class UpgradesFirst:
    """ASGI middleware, the innermost: takes the endpoint's upgrade requests out before the routes,
    of which the framework would try a dozen, each with its own wrapping."""

    def __init__(self, app: ASGIApp, prefixes: Iterable[str]) -> None:
        self._app = app
        paths = (prefix + path for prefix in prefixes for path in PATHS)
        self._path = re.compile("|".join(paths).replace("{chat}", "([^/]*)"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._path.fullmatch(scope["path"]) if scope["type"] == "websocket" else None
        if found is None:
            await self._app(scope, receive, send)
        else:
            scope["path_params"] = {"chat": found[found.lastindex or 0]}
            await _endpoint(scope, receive, send)


async def _serve(request: HTTPConnection, send: Send) -> None:
    """Everything, in the order it must be in. Raises ApiError, only before the 101."""
    services = services_of(request)
    chat_text: str = request.path_params["chat"].lower()
    identity, access = await _identify(request, services, chat_text)
    rights = _rights(request)
    address = (request.scope.get("client") or ("unknown",))[0]
    opened = Opened(identity.user_id, services.store.now(), address, rights is VIEW_ONLY)
    with services.live.enter(chat_text, identity.token_id, opened) as live:
        connection = current_connection()
        connection.when_viewer_leaves(live.starting.cancel)
        sessions = services.budgets.sessions
        live.take(sessions, address_of(request.scope))
        connection.set_apart()
        workspace = await _workspace(services, identity, access, chat_text)
        if live.too_many:
            raise OverBudget("sessions", EVERYBODY, None, services.live.capacity)
        live.take_desktop(workspace.id)
        whose = {"session": uuid4().hex[:12], "chat": chat_text, "user": identity.user_name}
        log = _log.bind(**whose)
        desktop = await _open(services, workspace, live, log)
        if desktop is None:
            if live.ending is not None:
                raise _ending(live.ending[0])
            return  # The viewer has left: nobody is there to be told.
        session = await _take_over(services, connection, desktop, rights, send, log)
        if session is None:
            return
        # No checkpoint between here and the session's `run`, which closes both ends whatever
        # happens: the connection's task calls it, as soon as Hypercorn is done.
        live.attach(session)
        live.stay()
        connection.hand_over(partial(_carry, services, session, live, whose))


async def _identify(
    request: HTTPConnection, services: Services, chat_text: str
) -> tuple[Identity, Access | None]:
    """The shape of the request, where it comes from, and whose it is. Raises ApiError.

    The one look-up that this takes finds the workspace too; None where it could not.
    """
    scope = request.scope
    if scope["type"] != "websocket":
        # Only a good upgrade request arrives as anything else (api/http/http1.py).
        problem = upgrade_problem(scope["method"], scope["http_version"], scope["headers"])
        assert problem is not None
        raise problem
    site = site_of(request)
    same = same_origin(request, site)
    check_origin(request, same, by_cookie=False)
    store, chat_id = services.store, parse_chat_id(chat_text)
    access: Access | None = None

    async def find_token(token_id: str) -> Token | None:
        nonlocal access
        if chat_id is not None:
            try:
                access = await store.access(token_id, chat_id)
            except StoreError:
                pass  # What it is that cannot be read shows when it is looked up by itself.
        return await store.token(token_id) if access is None else access.token

    identity = await sign_in(request, services, find_token)
    check_origin(request, same, by_cookie=identity.place == "cookie")
    return identity, access


def _rights(request: HTTPConnection) -> Rights:
    """What the viewer may do: as the chat's owner everything, unless it asks for less."""
    texts = request.query_params.getlist("view_only")
    if not {"1", "true", "0", "false"}.issuperset(texts):
        problem = Validation(field="view_only", detail="Must be 1, true, 0 or false.")
        raise ApiError(400, "Validation failed.", validations=[problem])
    # Given twice, the lesser right counts.
    return VIEW_ONLY if {"1", "true"}.intersection(texts) else FULL


async def _workspace(
    services: Services, identity: Identity, access: Access | None, chat_text: str
) -> Workspace:
    """The workspace whose desktop is asked for. Raises ApiError."""
    # After a write of ours since that look it takes another: whoever archived the chat or revoked
    # the token before the session was listed has not found it.
    if access is not None and access.changes != services.store.database.changes:
        try:
            access = await services.store.access(identity.token_id, UUID(chat_text))
        except StoreError as error:
            raise ApiError(500, INTERNAL_ERROR) from error
        if access.token is None:
            raise _ending(CloseCode.SIGNED_OUT)
    if access is not None and access.workspace:
        return access.workspace
    chat = await find_chat(services, identity, chat_text)
    if chat.archived:
        raise _ending(CloseCode.ARCHIVED)
    if chat.workspace_id is None:
        raise ApiError(400, "Chat has no workspace.")
    try:
        workspace = await services.store.workspace(chat.workspace_id)
    except StoreError as error:
        raise ApiError(500, "Internal error fetching chat workspace.", SEE_LOG) from error
    if workspace is None:
        raise ApiError(400, "Chat workspace not found.")
    return workspace


async def _open(
    services: Services,
    workspace: Workspace,
    live: LiveSession,
    log: structlog.stdlib.BoundLogger,
) -> DesktopEnd | None:
    """The workspace's desktop, logged in to; None if the session ended before it began.

    Raises ApiError.
    """
    with live.starting:
        try:
            desktop = await services.desktops.open(
                workspace.id, workspace.desktop, services.limits, str(workspace.owner_id)
            )
            services.desktop_problems.pop(workspace.id, None)
            return desktop
        except (DesktopError, ValueError) as error:
            # A ValueError is a desktop's name that this version of the relay does not know.
            told = error.told if isinstance(error, DesktopError) else UNTOLD
            services.desktop_problems[workspace.id] = told
            fields: dict[str, object] = {}
            if isinstance(error, DesktopError) and (fault := error.fault):
                services.metrics.refused(fault.direction, fault.rule)
                fields = _fault_fields(fault.direction, fault.offset, fault.rule, fault.evidence)
            log.warning(
                "desktop not reached", workspace=str(workspace.id), problem=str(error), **fields
            )
            step = (
                error.step if isinstance(error, WorkspaceAgentError) else WorkspaceAgentStep.DESKTOP
            )
            raise ApiError(*_WORKSPACE_AGENT_ERRORS[step], told) from None
    return None


async def _take_over(
    services: Services,
    connection: Connection,
    desktop: DesktopEnd,
    rights: Rights,
    send: Send,
    log: structlog.stdlib.BoundLogger,
) -> Session | None:
    """The session on a connection's socket, which has had its 101; None if the viewer has left."""
    try:
        viewer, early = await connection.take_over(send)
    except NotUpgraded as error:
        await streams.cut(desktop.stream)
        log.info("upgrade failed", problem=str(error))
        return None
    except BaseException:
        await streams.cut(desktop.stream)
        raise
    log.info("session begins", desktop=desktop.name, size=f"{desktop.width}x{desktop.height}")
    return Session(
        viewer,
        desktop,
        limits=services.limits,
        early=early,
        rights=rights,
        let_through=services.settings.let_through,
    )


async def _carry(
    services: Services,
    session: Session,
    live: LiveSession,
    whose: dict[str, str],
) -> None:
    services.metrics.session_begins()
    try:
        ended = await session.run()
    finally:
        services.metrics.session_leaves()
        live.leave()
    services.metrics.session_ended(ended)
    _log_end(_log.bind(**whose), ended)


def _log_end(log: structlog.stdlib.BoundLogger, ended: Ended) -> None:
    log.info(
        "session ended",
        reason=ended.reason.value,
        close_code=int(ended.close_code),
        **_fault_fields(ended.direction, ended.offset, ended.rule, ended.evidence),
        detail=ended.detail,
        bytes_down=ended.counters.bytes_down,
        bytes_up=ended.counters.bytes_up,
    )


def _fault_fields(
    direction: Direction | None, offset: int | None, rule: str, evidence: bytes
) -> dict[str, object]:
    """A refusal in the log: who broke which rule where, and the first bytes of it."""
    if direction is None:
        return {}
    return {
        "direction": direction.value,
        "offset": offset,
        "rule": rule,
        "first_bytes": evidence.hex(),
    }
