"""Budgets, as HTTP sees them: whose a request is, how many there may be, and what is refused."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import lru_cache
from ipaddress import IPv6Address, ip_network
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from api.budgets import Budgets, OverBudget
from api.http.errors import ApiError

__all__ = ["RequestBudget", "address_key", "address_of", "refusal"]

_HEALTH: Final = ("/healthz", "/readyz")
"""What asks for these must not be told that it asks too often: it would restart the server."""


def address_of(scope: Scope) -> str | None:
    """The address that a request counts for; None where nobody knows it (a unix socket without a
    trusted proxy's word)."""
    client: Any = scope.get("client")
    return address_key(client[0]) if client else None


def address_key(text: str) -> str:
    """An address as budgets count it: all of an IPv6 /64 are one, for one customer has as many."""
    return text if ":" not in text else _network(text)


@lru_cache(1_000)
def _network(text: str) -> str:
    try:
        address = IPv6Address(text.partition("%")[0])
    except ValueError:
        return text  # as a trusted proxy has written it
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, 64), strict=False))


def refusal(budgets: Budgets, over: OverBudget) -> ApiError:
    """How whoever asked is told that a budget is used up; it is counted and logged too."""
    budgets.refused(over)
    headers = {"Retry-After": str(over.retry_after_s)}
    return ApiError(503 if over.for_all else 429, over.message, over.detail, headers=headers)


class RequestBudget:
    """ASGI middleware: so many requests a second from one address."""

    def __init__(self, app: ASGIApp, budgets: Budgets) -> None:
        self._app = app
        self._budgets = budgets

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        app = self._app
        if scope["type"] in ("http", "websocket") and scope["path"] not in _HEALTH:
            try:
                self._budgets.requests.take(("address", address_of(scope)))
            except OverBudget as over:
                error = refusal(self._budgets, over)
                if scope["type"] == "websocket":
                    error.headers["Connection"] = "close"
                app = error.response()
        return app(scope, receive, send)
