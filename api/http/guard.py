"""What is refused whatever the route: absurd or ambiguous headers, and foreign host names."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.errors import ApiError
from api.settings import Settings

__all__ = ["Guard", "own_hosts"]

HEADERS_COUNT: Final = 100
HEADERS_BYTES: Final = 16_384
"""Names and values together. h11 bounds only what is incomplete: thousands of small headers
in one segment pass it."""

_SINGLE: Final = (b"authorization", b"coder-session-token", b"cookie", b"origin")
"""Headers that decide who is asking: of two, a proxy may have judged the other one.
(h11 refuses two Hosts.)"""


def own_hosts(settings: Settings) -> frozenset[str | None]:
    """The names that are this server's."""
    binds = (f"http://{bind}" for bind in settings.bind if "/" not in bind)
    return frozenset(urlsplit(origin).hostname for origin in [*settings.origins, *binds])


class Guard:
    """ASGI middleware; refuses before any route is looked up. `hosts` are this server's names;
    None where no browser signs in to it."""

    def __init__(self, app: ASGIApp, hosts: Collection[str | None] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (error := self._refusal(scope)):
            # What follows on this connection is as doubtful as what was refused.
            error.headers["Connection"] = "close"
            await error.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        if scope["http_version"] not in ("1.0", "1.1"):
            # Hypercorn has begun to serve an h2c request by the time its 101 is stopped.
            return ApiError(505, "HTTP version not supported.", "This server speaks HTTP/1.1.")
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        size_bytes = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > HEADERS_COUNT or size_bytes > HEADERS_BYTES:
            return ApiError(
                431,
                "Request headers are too large.",
                f"At most {HEADERS_COUNT} headers of {HEADERS_BYTES} bytes together.",
            )
        names = [name.lower() for name, _ in headers]
        for name in _SINGLE:
            if names.count(name) > 1:
                return ApiError(400, "Ambiguous request.", f"Two {name.decode()} headers.")
        host = headers[names.index(b"host")][1] if b"host" in names else b""
        if not self._is_ours(host.decode("latin-1")):
            return ApiError(
                421,
                "This server does not answer for that host.",
                "Where the name is right, set public_url or allowed_origins to it.",
            )
        return None

    def _is_ours(self, host: str) -> bool:
        """Against DNS rebinding: a page's own name that points at this machine.

        An address in `Host` can't be rebound; no `Host` at all (HTTP/1.0) is no browser.
        """
        try:
            name = urlsplit(f"//{host}").hostname
            if self._hosts is None or name in (None, "localhost") or name in self._hosts:
                return True
            ip_address(name)
        except ValueError:
            return False
        return True
