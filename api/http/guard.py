"""What is refused whatever the route: absurd or ambiguous requests, and foreign host names."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.errors import ApiError
from api.http.site import Site

__all__ = ["Guard"]

HEADERS_COUNT: Final = 100
HEADERS_BYTES: Final = 16_384
"""Names and values together. h11 bounds only what is incomplete: thousands of small headers
in one segment pass it."""

PARAMETERS_COUNT: Final = 100
"""Of a query; no route has five. It takes longer to read many than to answer."""

_SINGLE: Final = (b"authorization", b"coder-session-token", b"cookie", b"origin")
"""Headers that decide who is asking: of two, a proxy may have judged the other one.
(h11 refuses two Hosts.)"""


class Guard:
    """ASGI middleware; refuses before any route is looked up. `site` is None where no browser signs
    in."""

    def __init__(self, app: ASGIApp, site: Site | None) -> None:
        self._app = app
        self._site = site

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] in ("http", "websocket") and (error := self._refusal(scope)):
            # What follows on this connection is as doubtful as what was refused.
            error.headers["Connection"] = "close"
            return error.response()(scope, receive, send)
        return self._app(scope, receive, send)

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
        if scope.get("query_string", b"").count(b"&") >= PARAMETERS_COUNT:
            return ApiError(
                400,
                "Too many query parameters.",
                f"A query has {PARAMETERS_COUNT} at the most.",
            )
        names = [name.lower() for name, _ in headers]
        for name in _SINGLE:
            if names.count(name) > 1:
                return ApiError(400, "Ambiguous request.", f"Two {name.decode()} headers.")
        host = headers[names.index(b"host")][1] if b"host" in names else b""
        if self._site is not None and not self._site.is_host(host.decode("latin-1")):
            return ApiError(
                421,
                "This server does not answer for that host.",
                "Where the name is right, set public_url or allowed_origins to it.",
            )
        return None
