"""What the reverse proxies in front tell: the client's address, and whether TLS ended there."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from ipaddress import IPv6Address, ip_address
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Proxies"]

# Some write the client's port behind it.
_ADDRESS: Final = re.compile(
    r"\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+)(?::[0-9]+)?|([0-9A-Fa-f:.]+)"
)


class Proxies:
    """ASGI middleware: takes from X-Forwarded-For what the outermost of `hops` trusted proxies saw.

    What is no address is not believed, nor is what an untrusted client wrote. X-Forwarded-Proto is
    looked at only where `tells_scheme`, and X-Forwarded-Host never: proxies pass a client's own on.
    """

    def __init__(self, app: ASGIApp, hops: int, *, tells_scheme: bool) -> None:
        self._app = app
        self._hops = hops
        self._tells_scheme = tells_scheme

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] in ("http", "websocket"):
            address = _address(self._told(scope, b"x-forwarded-for"))
            if address is not None:
                scope["client"] = (address, 0)
            if self._tells_scheme:
                scheme = self._told(scope, b"x-forwarded-proto").lower()
                if scheme in ("http", "https"):
                    scope["scheme"] = scheme
        return self._app(scope, receive, send)

    def _told(self, scope: Scope, name: bytes) -> str:
        """What the outermost trusted proxy has appended; "" where that is not there."""
        # Some append to the line, others (HAProxy) add another one.
        values = b",".join(value for key, value in scope["headers"] if key == name).split(b",")
        if len(values) < self._hops:
            return ""
        return values[-self._hops].decode("latin-1").strip()


def _address(text: str) -> str | None:
    found = _ADDRESS.fullmatch(text)
    try:
        address = ip_address(next(filter(None, found.groups()))) if found else None
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return None if address is None else str(address)
