"""Who is asking: session tokens, and whether a browser was sent by a page of ours.

The same functions serve plain requests and upgrade requests.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from starlette.requests import HTTPConnection

from api.http.errors import FORBIDDEN, INTERNAL_ERROR, ApiError
from api.http.site import COOKIE, Site, same_origin
from api.store import Store, StoreError, Token
from api.store.store import hash_secret

__all__ = [
    "HEADER",
    "SIGNED_OUT",
    "Identity",
    "authenticate",
    "browsers_token",
    "parse_token",
    "require_same_origin",
]

HEADER: Final = "Coder-Session-Token"

SIGNED_OUT: Final = (
    "You are signed out or your session has expired. Please sign in again to continue."
)


def _bearer(connection: HTTPConnection) -> str:
    scheme, _, token = connection.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _cookie(connection: HTTPConnection, page_cookie: str) -> str:
    # Browsers send the cookie of the longest path first; Starlette takes the last of a name.
    pairs = [part.partition("=") for part in connection.headers.get("Cookie", "").split(";")]
    for wanted in (page_cookie, COOKIE):
        found = [v for name, _, text in pairs if name.strip() == wanted and (v := text.strip())]
        if len(found) > 1 and wanted != COOKIE:
            # The page sets one. Another host of the domain may have planted the other one, with a
            # longer path, so that it comes first.
            raise _signed_out(f'There is more than one cookie "{wanted}".')
        if found:
            return found[0]
    return ""


def _query(connection: HTTPConnection) -> str:
    return next(filter(None, connection.query_params.getlist(COOKIE)), "")


# In order: the first that is not empty is the token, and no other is tried, so that which
# token a request counts for never depends on which of them happens to be valid.
_PLACES: Final[tuple[tuple[str, Callable[[HTTPConnection, str], str]], ...]] = (
    ("cookie", _cookie),
    ("query", lambda connection, _: _query(connection)),
    ("header", lambda connection, _: connection.headers.get(HEADER, "")),
    ("bearer", lambda connection, _: _bearer(connection)),
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose request this is. `place` is where the token was: cookie, query, header, bearer."""

    user_id: UUID
    user_name: str
    token_id: str
    expires_at: datetime
    place: str


def _signed_out(detail: str) -> ApiError:
    return ApiError(401, SIGNED_OUT, detail, headers={"WWW-Authenticate": "Bearer"})


def parse_token(text: str) -> tuple[str, str]:
    """Splits `<10 chars>-<22 chars>` into id and secret. Raises ApiError (401)."""
    parts = text.split("-")
    if len(parts) != 2:
        problem = f"incorrect amount of API key parts, expected 2 got {len(parts)}"
    elif len(parts[0]) != 10:
        problem = f"invalid API key ID length, expected 10 got {len(parts[0])}"
    elif len(parts[1]) != 22:
        problem = f"invalid API key secret length, expected 22 got {len(parts[1])}"
    else:
        return parts[0], parts[1]
    raise _signed_out(f"Invalid API key format: {problem}")


FindToken = Callable[[str], Awaitable[Token | None]]


async def authenticate(
    connection: HTTPConnection,
    store: Store,
    find_token: FindToken | None = None,
    *,
    cookie: str = COOKIE,
) -> Identity:
    """The user whose token `connection` carries, looked up by `find_token` or `Store.token`.

    `cookie` is what the page's is called (`Site.cookie`). Raises ApiError: 401, or 500 by the
    store.
    """
    place, text = next(
        ((name, text) for name, find in _PLACES if (text := find(connection, cookie))), ("", "")
    )
    if not text:
        raise _signed_out(f'Cookie "{COOKIE}" or query parameter must be provided.')
    try:
        token = await _good_token(text, store, find_token or store.token)
        expires_at = await store.touch_token(token)
    except StoreError as error:
        raise ApiError(500, INTERNAL_ERROR) from error
    return Identity(token.user_id, token.user_name, token.id, expires_at, place)


async def _good_token(text: str, store: Store, find_token: FindToken) -> Token:
    """Raises ApiError (401) and StoreError."""
    token_id, secret = parse_token(text)
    if not (token_id.isascii() and token_id.isalnum()):
        raise _signed_out("API key is invalid.")  # and no database is asked about U+0000
    token = await find_token(token_id)
    if token is None:
        raise _signed_out("API key is invalid.")
    if not hmac.compare_digest(hash_secret(secret), token.secret_hash):
        raise _signed_out("API key secret is invalid.")
    if store.expired(token):
        raise _signed_out(f'API key expired at "{store.ends_at(token).isoformat()}"')
    if token.user_status != "active":
        raise ApiError(
            401,
            f'User is not active (status = "{token.user_status}"). '
            "Contact an admin to reactivate your account.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return token


async def browsers_token(connection: HTTPConnection, store: Store, *, cookie: str) -> Token | None:
    """The token that a browser's cookie has, if it is good. It is not used by being looked at:
    nothing is written. Raises StoreError."""
    try:
        text = _cookie(connection, cookie)
        return await _good_token(text, store, store.token) if text else None
    except ApiError:
        return None


def require_same_origin(connection: HTTPConnection, identity: Identity, site: Site) -> None:
    """Refuses a change that another site's page sends with our cookie. Raises ApiError (403).

    A browser adds the cookie by itself; every other place of the token takes intent.
    """
    if identity.place != "cookie" or same_origin(connection, site):
        return
    fetch_site = connection.headers.get("Sec-Fetch-Site")
    if "Origin" not in connection.headers and fetch_site in ("same-origin", "none"):
        return
    raise ApiError(
        403,
        FORBIDDEN,
        "A request with the session cookie must come from a page of this server. Other clients "
        f"send the token in the {HEADER} header.",
    )
