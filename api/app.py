"""The application: every route, what stands in front of them, and the schema that says so."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from starlette.responses import Response

from api.budgets import OverBudget
from api.http.auth import HEADER
from api.http.budgets import RequestBudget, refusal
from api.http.errors import (
    ErrorBody,
    SafeJSONResponse,
    error_responses,
    install_error_handlers,
    no_route,
)
from api.http.guard import Guard
from api.http.headers import SafeHeaders
from api.http.logs import AccessLog
from api.http.proxies import Proxies
from api.http.site import COOKIE, Site
from api.routes import chats, desktop, messages, ops, page, tokens
from api.services import Services

__all__ = ["PREFIXES", "create_app"]

PREFIXES: Final = ("/api/v2", "/api/experimental")
"""The API under its name, and under the one that older clients of it know."""

_SECURITY: Final[dict[str, dict[str, str]]] = {
    "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
    "query": {"type": "apiKey", "in": "query", "name": COOKIE},
    "header": {"type": "apiKey", "in": "header", "name": HEADER},
    "bearer": {"type": "http", "scheme": "bearer"},
}

_CHAT_PARAMETER: Final[dict[str, Any]] = {
    "name": "chat",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}

_VIEW_ONLY_PARAMETER: Final[dict[str, Any]] = {
    "name": "view_only",
    "in": "query",
    "description": "Look and touch nothing: keys, pointer, clipboard and resizing are dropped.",
    "schema": {"type": "boolean", "default": False},
}

_DESKTOP_TEXT: Final = """\
A WebSocket upgrade (RFC 6455, version 13, no subprotocol, no extensions). After the 101, binary \
messages carry RFB 3.8; the relay offers the security type None. A session that ends says why \
in its close frame: code and reason. Everything is checked before a desktop is started or \
dialled, and the desktop is dialled before the 101."""


def _desktop_operation() -> dict[str, Any]:
    """The upgrade is not FastAPI's, so its description is written by hand."""
    errors = error_responses(400, 401, 403, 404, 426, 429, 500, 503)
    return {
        "tags": ["chats"],
        "summary": "Open a chat's desktop",
        "description": _DESKTOP_TEXT,
        "parameters": [_CHAT_PARAMETER, _VIEW_ONLY_PARAMETER],
        "responses": {
            "101": {"description": "The desktop, as RFB over WebSocket."},
            **{str(status): response for status, response in errors.items()},
        },
    }


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """FastAPI's schema, the desktop's upgrade, and where the token goes."""
        if self.openapi_schema is None:
            schema = super().openapi()
            for path in desktop.PATHS:
                for prefix in PREFIXES:
                    operation_id = f"{prefix}{path}".strip("/").replace("/", "_")
                    operation = _desktop_operation() | {"operationId": operation_id}
                    schema["paths"][f"{prefix}{path}"] = {"get": operation}
            for path, operations in schema["paths"].items():
                if path.startswith((*PREFIXES, "/metrics")):
                    for operation in operations.values():
                        operation["security"] = [{name: []} for name in _SECURITY]
            components = schema["components"]
            components["securitySchemes"] = _SECURITY
            error = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
            components["schemas"] |= error.pop("$defs") | {"ErrorBody": error}
        assert self.openapi_schema is not None
        return self.openapi_schema


def _add_budgets(app: FastAPI, services: Services) -> None:
    async def on_over_budget(_request: object, over: Exception) -> Response:
        assert isinstance(over, OverBudget)
        return refusal(services.budgets, over).response()

    app.add_exception_handler(OverBudget, on_over_budget)
    app.add_middleware(RequestBudget, budgets=services.budgets)


def create_app(services: Services) -> FastAPI:
    """The application for `services`, which stay their maker's to close."""
    site = Site.of(services.settings)
    app = _Application(
        title="deskrelay",
        summary="Chats, and the live desktop of each over a WebSocket.",
        version=version("deskrelay"),
        # The documentation pages load their scripts from a CDN.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        default_response_class=SafeJSONResponse,
        servers=[{"url": site.path}] if site.path else None,
    )
    app.state.site = site
    app.state.services = services
    install_error_handlers(app)
    for prefix in PREFIXES:
        app.include_router(chats.router, prefix=prefix)
        app.include_router(messages.router, prefix=prefix)
        app.include_router(tokens.router, prefix=prefix)
        app.router.routes.extend(desktop.routes(prefix))
    app.include_router(ops.router)
    app.include_router(page.router)
    app.router.default = no_route
    app.add_middleware(desktop.UpgradesFirst, prefixes=PREFIXES)
    _add_budgets(app, services)
    app.add_middleware(Guard, site=site)
    app.add_middleware(AccessLog)
    app.add_middleware(SafeHeaders, https=site.https)
    if hops := services.settings.trusted_proxy_hops:
        app.add_middleware(Proxies, hops=hops, tells_scheme=site.origin is None)
    # The last one added is the outermost.
    return app
