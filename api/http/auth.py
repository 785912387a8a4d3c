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

from api.http.budgets import address_of
from api.http.errors import FORBIDDEN, INTERNAL_ERROR, ApiError
from api.http.site import COOKIE, Site, same_origin, site_of
from api.services import Services
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
    "sign_in",
]

HEADER: Final = "Coder-Session-Token"

SIGNED_OUT: Final = (
    "You are signed out or your session has expired. Please sign in again to continue."
)


_OWS: Final = " \t"
"""Spaces, where HTTP has some."""


def _bearer(connection: HTTPConnection) -> str:
    scheme, _, token = connection.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _cookie(connection: HTTPConnection, page_cookie: str) -> str:
    # Browsers send the cookie of the longest path first; Starlette takes the last of a name. All of
    # our names end with COOKIE, and of others there may be thousands.
    parts = connection.headers.get("Cookie", "").split(";")
    pairs = [part.partition("=") for part in parts if COOKIE in part]
    for wanted in (page_cookie, COOKIE):
        # Of no other spaces: a browser lets others' hosts plant a name that begins with U+00A0 and
        # goes on as one that it keeps for us alone.
        found = [v for name, _, text in pairs if name.strip(_OWS) == wanted and (v := text.strip())]
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


_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}

_NO_HASH: Final = bytes(32)
"""Of a token that does not exist: it costs the same as one with another secret."""


def _signed_out(detail: str) -> ApiError:
    return ApiError(401, SIGNED_OUT, detail, headers=_CHALLENGE.copy())


class BadToken(ApiError):
    """401 for a token that is none, as a guess would be. `token_id` is None where it has no id."""

    def __init__(self, detail: str, token_id: str | None = None) -> None:
        super().__init__(401, SIGNED_OUT, detail, headers=_CHALLENGE.copy())
        self.token_id = token_id


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
    raise BadToken(f"Invalid API key format: {problem}")


FindToken = Callable[[str], Awaitable[Token | None]]


def _find(connection: HTTPConnection, cookie: str) -> tuple[str, str]:
    """Where the token is, and the token; empty where there is none."""
    found = ((name, find(connection, cookie)) for name, find in _PLACES)
    return next(((name, text) for name, text in found if text), ("", ""))


async def sign_in(
    request: HTTPConnection, services: Services, find_token: FindToken | None = None
) -> Identity:
    """As `authenticate`, for a request: it counts for its user's budget, and where it fails for
    what its address may fail. Raises OverBudget too."""
    budgets, address = services.budgets, address_of(request.scope)
    place, text = _find(request, site_of(request).cookie)
    if text:
        budgets.log_ins.check(address, text)
    try:
        identity = await _identity(place, text, services.store, find_token)
    except BadToken as error:
        budgets.log_ins.failed(address, text, error.token_id)
        raise
    budgets.log_ins.succeeded(address, text)
    budgets.requests.take(("user", identity.user_id))
    return identity


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
    return await _identity(*_find(connection, cookie), store, find_token)


async def _identity(place: str, text: str, store: Store, find_token: FindToken | None) -> Identity:
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
        raise BadToken("API key is invalid.")  # and no database is asked about U+0000
    token = await find_token(token_id)
    good_hash = _NO_HASH if token is None else token.secret_hash
    is_good = hmac.compare_digest(hash_secret(secret), good_hash)
    if token is None:
        raise BadToken("API key is invalid.", token_id)
    if not is_good:
        raise BadToken("API key secret is invalid.", token_id)
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
