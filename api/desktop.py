"""A chat's desktop: every check, then the desktop, then the 101, then the session.

Plain ASGI below Starlette's routes: after the 101 nothing of a framework is left on the path.
`_open_unless_gone` owns one nursery, with the watch for a client that leaves before the 101.
"""

from __future__ import annotations

from typing import Final
from uuid import uuid4

import structlog
import trio
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from api.auth import authenticate, same_origin
from api.chats import find_chat
from api.errors import SEE_LOG, ApiError
from api.services import Services, services_of
from api.store import StoreError
from api.store.store import Chat, Workspace
from api.takeover import NotUpgraded, current_connection
from api.upgrade import check_origin, check_upgrade
from relay import CloseCode, DesktopEnd, DesktopError, Ended, Session, open_desktop

__all__ = ["PATHS", "routes"]

PATHS: Final = ("/chats/{chat}/desktop", "/chats/{chat}/stream/desktop")
"""The endpoint's path, and the one that newer clients know it by."""

_log = structlog.stdlib.get_logger("api.desktop")


class DesktopEndpoint:
    """ASGI application of the endpoint, for upgrades and for plain requests."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        try:
            chat, workspace, user_name = await _admit(connection)
            desktop = await _open_unless_gone(services_of(connection), workspace, receive)
        except ApiError as error:
            error.headers.setdefault("Connection", "close")
            await error.response()(scope, receive, send)
            return
        if desktop is not None:
            await _relay(services_of(connection), chat, user_name, desktop, send)


def routes(prefix: str) -> list[BaseRoute]:
    """The endpoint under `prefix`."""
    endpoint = DesktopEndpoint()
    return [
        route
        # An empty id is answered as one, not as an unknown route.
        for path in (path.replace("{chat}", "{chat:segment}") for path in PATHS)
        for route in (
            WebSocketRoute(prefix + path, endpoint),
            Route(prefix + path, endpoint, methods=["GET"], include_in_schema=False),
        )
    ]


async def _admit(connection: HTTPConnection) -> tuple[Chat, Workspace, str]:
    """Everything that can be refused without a desktop. Raises ApiError."""
    services = services_of(connection)
    check_upgrade(connection.scope)
    same = same_origin(connection, services.settings.origins)
    check_origin(connection, same, by_cookie=False)
    identity = await authenticate(connection, services.store)
    check_origin(connection, same, by_cookie=identity.place == "cookie")
    chat = await find_chat(services, identity, connection.path_params["chat"])
    _refuse_archived(chat)
    if chat.workspace_id is None:
        raise ApiError(400, "Chat has no workspace.")
    try:
        workspace = await services.store.workspace(chat.workspace_id)
    except StoreError as error:
        raise ApiError(500, "Internal error fetching chat workspace.", SEE_LOG) from error
    if workspace is None:
        raise ApiError(400, "Chat workspace not found.")
    return chat, workspace, identity.user_name


def _refuse_archived(chat: Chat) -> None:
    if chat.archived:
        raise ApiError(
            400, "Chat is archived.", "An archived chat has no desktop. Unarchive it first."
        )


async def _open_unless_gone(
    services: Services, workspace: Workspace, receive: Receive
) -> DesktopEnd | None:
    """The workspace's desktop, logged in to; None if the client left meanwhile."""
    opened: DesktopEnd | None = None
    problem: DesktopError | None = None

    async def watch(scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        try:
            running = await services.desktops.get(workspace.id, workspace.desktop)
            opened = await open_desktop(
                running.address, password=running.password, limits=services.limits
            )
        except DesktopError as error:
            problem = error
        nursery.cancel_scope.cancel()
    if problem is not None:
        _log.warning("desktop not reached", workspace=str(workspace.id), problem=str(problem))
        raise ApiError(500, "Failed to connect to agent desktop.", str(problem))
    return opened


async def _relay(
    services: Services, chat: Chat, user_name: str, desktop: DesktopEnd, send: Send
) -> None:
    """Takes the socket over and runs the session."""
    connection = current_connection()
    try:
        try:
            await connection.stop_reading()
            await send({"type": "websocket.accept"})
            viewer, early = connection.detach()
        except BaseException as error:
            await trio.aclose_forcefully(desktop.stream)
            if not isinstance(error, NotUpgraded):
                raise
            _log.info("upgrade failed", problem=str(error))
            return
        session = Session(viewer, desktop, limits=services.limits, early=early)
        log = _log.bind(session=uuid4().hex[:12], chat=str(chat.id), user=user_name)
        log.info("session begins", desktop=desktop.name, size=f"{desktop.width}x{desktop.height}")
        with services.live.add(chat.id, session):
            # Archiving ends the sessions it finds; this one was not listed until now.
            try:
                current = await services.store.chat(chat.id)
            except StoreError:
                session.stop(CloseCode.INTERNAL, "the server's database failed")
            else:
                if current is None or current.archived:
                    session.stop(CloseCode.ARCHIVED, "chat archived")
            ended = await session.run()
        _log_end(log, ended)
    finally:
        connection.release()


def _log_end(log: structlog.stdlib.BoundLogger, ended: Ended) -> None:
    log.info(
        "session ended",
        reason=ended.reason.value,
        close_code=int(ended.close_code),
        direction=ended.direction.value if ended.direction else None,
        offset=ended.offset,
        detail=ended.detail,
        bytes_down=ended.counters.bytes_down,
        bytes_up=ended.counters.bytes_up,
    )
