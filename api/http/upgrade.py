"""Whether a request asks for a WebSocket, judged before anything else is looked at or started.

RFC 6455, Section 4.2.1. Hypercorn's own judgement checks the key for HTTP/1.1 only, takes the
last of duplicated headers, and refuses with an empty 400 that does not say which version it
speaks. So a request that fails here is a plain HTTP request for Hypercorn (api/http/http1.py),
and the endpoint answers it with what is returned here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Final

from starlette.requests import HTTPConnection

from api.http.errors import FORBIDDEN, ApiError

__all__ = ["check_origin", "upgrade_problem"]

# Closed, because a proxy in between may believe in an upgrade that failed, and would let the
# client's next bytes through as another request (WebSocket smuggling).
_CLOSE: Final = {"Connection": "close"}
_VERSION: Final = {"Sec-WebSocket-Version": "13"}
_UPGRADE: Final = {"Upgrade": "websocket", **_VERSION, "Connection": "Upgrade, close"}


def _bad(detail: str, **headers: str) -> ApiError:
    return ApiError(400, "Bad WebSocket upgrade request.", detail, headers=headers | _CLOSE)


def _required(detail: str) -> ApiError:
    return ApiError(426, "WebSocket upgrade required.", detail, headers=dict(_UPGRADE))


def upgrade_problem(
    method: str, http_version: str, headers: Iterable[tuple[bytes, bytes]]
) -> ApiError | None:
    """Why this is no request for a WebSocket; None if it is one. Names are in lower case.

    405 for another method than GET; 426 where no WebSocket is asked for, or not over HTTP/1.1; 400
    for a malformed request, or one for another version (RFC 6455 lets a server choose the status).
    """
    if method != "GET":
        return ApiError(
            405, "Method not allowed.", "This address takes GET.", headers={"Allow": "GET"} | _CLOSE
        )
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    if [value.lower() for value in values.get(b"upgrade", ())] != [b"websocket"]:
        return _required("This address speaks WebSocket only.")
    connection = b",".join(values.get(b"connection", ()))
    if b"upgrade" not in map(bytes.strip, connection.lower().split(b",")):
        return _required("This address speaks WebSocket only.")
    if http_version != "1.1":
        return _required("A WebSocket starts from HTTP/1.1.")
    if not connection.isascii():
        return _bad("Connection must be ASCII.")
    if b"transfer-encoding" in values or values.get(b"content-length", [b"0"]) != [b"0"]:
        return _bad("An upgrade request has no body.")
    if values.get(b"sec-websocket-version") != [b"13"]:
        return _bad("Sec-WebSocket-Version must be there once, and 13.", **_VERSION)
    keys = values.get(b"sec-websocket-key", ())
    if len(keys) != 1 or not _is_key(keys[0]):
        return _bad("Sec-WebSocket-Key must be there once, with 16 bytes in base64.")
    return None


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def check_origin(connection: HTTPConnection, same: bool, by_cookie: bool) -> None:
    """Refuses another site's page (403): browsers send the cookie with its upgrade too, and ask
    nobody. `same` says whether Origin names us; `by_cookie` whether a cookie signed in."""
    if "Origin" in connection.headers and not same:
        detail = "The Origin of this request is not one of this server's."
    elif "Origin" not in connection.headers and by_cookie:
        detail = "With the session cookie, a request must have an Origin."
    else:
        return
    raise ApiError(403, FORBIDDEN, detail, headers=dict(_CLOSE))
