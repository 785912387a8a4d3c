"""The server as people reach it: which names, origins, cookies and addresses are its own.

Where `public_url` is set, all of that follows from it alone, whatever a proxy forwards. Where it is
not, `Host` says what the server is called, and the scheme is known only if a trusted proxy tells
(api/http/proxies.py): otherwise one that ends TLS may stand in front and say nothing of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, cast
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import Response

from api.settings import Settings

__all__ = ["COOKIE", "Site", "own_origin", "same_origin", "site_of"]

COOKIE: Final = "coder_session_token"
"""The page's cookie where nothing is encrypted; and what clients of this API send everywhere."""

_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/?#@\s]+)(:[0-9]{0,5})?")
_HTTPS: Final = ("https", "wss")


@dataclass(frozen=True, slots=True)
class Site:
    """See the module. One without fields is a server that has no settings."""

    origin: str | None = None
    """Of `public_url`: the only one whose pages are this server's. None where it is not set."""

    path: str = ""
    """Where a proxy has put the server: "" or, say, "/desk"."""

    allowed_origins: frozenset[str] = frozenset()
    """Others' whose pages may use the session cookie."""

    public_hosts: frozenset[str] = frozenset()
    """`Host` for `public_url`: as browsers write it, and without its port."""

    names: frozenset[str | None] = frozenset()
    """Further names that `Host` may have, with any port."""

    @classmethod
    def of(cls, settings: Settings) -> Site:
        """The site that `settings` make."""
        further = [*settings.allowed_origins]
        further += [f"http://{bind}" for bind in settings.bind if "/" not in bind]
        names = frozenset(urlsplit(origin).hostname for origin in further)
        allowed = frozenset(settings.allowed_origins)
        if settings.public_url is None:
            return cls(allowed_origins=allowed, names=names)
        parts = urlsplit(settings.public_url)
        name = parts.netloc.removesuffix(f":{parts.port}")
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        return cls(
            origin=f"{parts.scheme}://{parts.netloc}",
            path=parts.path,
            allowed_origins=allowed,
            public_hosts=frozenset((name, f"{name}:{port}")),
            names=names,
        )

    @property
    def https(self) -> bool:
        """Whether people are known to reach the server by TLS."""
        return self.origin is not None and self.origin.startswith("https:")

    @property
    def cookie(self) -> str:
        """What the page's cookie is called. Browsers take one with a prefix from no other host
        (`__Host-`), or at least from TLS alone (`__Secure-`)."""
        if not self.https:
            return COOKIE
        return f"__Secure-{COOKIE}" if self.path else f"__Host-{COOKIE}"

    def is_host(self, host: str) -> bool:
        """Whether a request's `Host` is this server's. Against DNS rebinding: a page's own name
        that points at this machine.

        An address can't be rebound; no `Host` at all (HTTP/1.0) is no browser.
        """
        host = host.lower()
        if not host or host in self.public_hosts:
            return True
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]")
        if name == "localhost" or name in self.names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def set_cookie(self, connection: HTTPConnection, response: Response, token: str) -> None:
        """Has `response` sign a browser in; the request was `connection`."""
        # No expiry: the token's own, in the store, is what counts.
        response.set_cookie(
            self.cookie,
            token,
            path=f"{self.path}/",
            secure=self.https or (self.origin is None and _told_https(connection)),
            httponly=True,
            samesite="lax",
        )

    def clear_cookies(self, response: Response) -> None:
        """Has the browser forget every cookie that would sign it in."""
        for name in {self.cookie, COOKIE}:
            response.delete_cookie(
                name, path=f"{self.path}/", secure=self.https, httponly=True, samesite="lax"
            )


def site_of(connection: HTTPConnection) -> Site:
    """The site of the server that took `connection`."""
    return cast(Site, connection.app.state.site)


def _told_https(connection: HTTPConnection) -> bool:
    return connection.scope.get("scheme") in _HTTPS


def own_origin(connection: HTTPConnection, site: Site) -> bool:
    """Whether `Origin` names this server itself. False without an `Origin`.

    Without a `public_url` it is compared with `Host`, which has been checked by then
    (api/http/guard.py).
    """
    origin = connection.headers.get("Origin", "")
    if site.origin is not None:
        return origin == site.origin
    scheme, _, host = origin.lower().partition("://")
    schemes = ("https",) if _told_https(connection) else ("http", "https")
    return bool(host) and scheme in schemes and host == connection.headers.get("Host", "").lower()


def same_origin(connection: HTTPConnection, site: Site) -> bool:
    """Whether `Origin` names this server or one of `allowed_origins`. False without one."""
    allowed = connection.headers.get("Origin") in site.allowed_origins
    return allowed or own_origin(connection, site)
