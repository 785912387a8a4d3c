"""The headers that every answer has, whatever the route, errors and refused upgrades included."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["STATUS_MESSAGES", "SafeHeaders"]

STATUS_MESSAGES: Final = ("http.response.start", "websocket.http.response.start")
"""Those of an answer that is no 101."""

_ALWAYS: Final = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
_HSTS: Final = {b"strict-transport-security": b"max-age=31536000"}
"""For a year; only for the host itself, as others of its domain are not this server's business."""


class SafeHeaders:
    """ASGI middleware: adds what an answer does not say itself. `https`: people reach the server
    by TLS and are to keep to it."""

    def __init__(self, app: ASGIApp, *, https: bool = False) -> None:
        self._app = app
        self._headers = _ALWAYS | (_HSTS if https else {})

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        async def add(message: Message) -> None:
            if message["type"] in STATUS_MESSAGES:
                said = list(message.get("headers", ()))
                names = {name.lower() for name, _ in said}
                added = [pair for pair in self._headers.items() if pair[0] not in names]
                message = {**message, "headers": said + added}
            await send(message)

        return self._app(scope, receive, add)
