"""Whether an upgrade request is one, judged before anything else is looked at or started.

RFC 6455, Section 4.2.1. Hypercorn's own checks are switched off in its favour: see
`api.serve`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import Scope

from api.errors import FORBIDDEN, ApiError

__all__ = ["check_origin", "check_upgrade"]

_CLOSE: Final = {"Connection": "close"}
_UPGRADE: Final = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Connection": "close"}


def _refused(status: int, detail: str) -> ApiError:
    message = {
        400: "Bad WebSocket upgrade request.",
        426: "WebSocket upgrade required.",
    }[status]
    return ApiError(status, message, detail, headers=_UPGRADE if status == 426 else _CLOSE)


def check_upgrade(scope: Scope) -> None:
    """Raises ApiError: 400 for a malformed request, 426 where no WebSocket 13 is asked for."""
    if scope["type"] != "websocket":
        raise _refused(426, "This address speaks WebSocket only.")
    if scope["http_version"] != "1.1":
        raise _refused(400, "A WebSocket starts from HTTP/1.1.")
    values: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        values.setdefault(name.lower(), []).append(value)
    if values.get(b"transfer-encoding") or values.get(b"content-length", [b"0"]) != [b"0"]:
        raise _refused(400, "An upgrade request has no body.")
    if values.get(b"sec-websocket-version", []) != [b"13"]:
        raise _refused(426, "Sec-WebSocket-Version must be 13.")
    keys = values.get(b"sec-websocket-key", [])
    if len(keys) != 1 or not _is_key(keys[0]):
        raise _refused(400, "Sec-WebSocket-Key must be there once, with 16 bytes in base64.")
    if len(values.get(b"host", [])) != 1:
        raise _refused(400, "There must be one Host.")


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
    raise ApiError(403, FORBIDDEN, detail, headers=_CLOSE)
