"""The one JSON shape every failed request is answered with, and the texts several routes share.

`{"message", "detail"?, "validations"?: [{"field", "detail"}]}`, always
`application/json; charset=utf-8`, with `<`, `>` and `&` escaped so that a browser which
sniffs the body finds no markup in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPMethod, HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

__all__ = [
    "FORBIDDEN",
    "INTERNAL_ERROR",
    "NOT_FOUND",
    "ROUTE_NOT_FOUND",
    "SEE_LOG",
    "ApiError",
    "ErrorBody",
    "ReadyJSONResponse",
    "SafeJSONResponse",
    "Validation",
    "error_responses",
    "install_error_handlers",
    "no_route",
    "safe_json",
    "validation_failed",
    "without_markup",
]

NOT_FOUND: Final = "Resource not found or you do not have access to this resource"
"""Unknown and not permitted look the same, so that ids cannot be probed."""

ROUTE_NOT_FOUND: Final = "Route not found."
FORBIDDEN: Final = "Forbidden."
INTERNAL_ERROR: Final = (
    "An internal error occurred. Please try again or contact the system administrator."
)
SEE_LOG: Final = "The server's log has the cause."
"""Detail of a failure whose cause (a database's text, a path) is the operator's business."""


CONTENT_TYPE: Final = "application/json; charset=utf-8"


class Validation(BaseModel):
    """One field of the request that was not accepted."""

    field: str
    detail: str


class ErrorBody(BaseModel):
    """What every failed request is answered with."""

    message: str
    detail: str | None = None
    validations: list[Validation] | None = None


def safe_json(content: Any) -> bytes:
    """JSON as `SafeJSONResponse` has it."""
    return without_markup(json.dumps(content, allow_nan=False, separators=(",", ":")))


def without_markup(text: str) -> bytes:
    """JSON in which no markup is found."""
    # Only strings can hold these three in JSON, so replacing them in the text is safe.
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return text.encode()


class SafeJSONResponse(JSONResponse):
    """JSON with everything outside printable ASCII, and `<`, `>`, `&`, as \\u escapes."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Adds the character set, which is no part of the media type in the schema."""
        super().init_headers({"Content-Type": CONTENT_TYPE, **(headers or {})})

    def render(self, content: Any) -> bytes:
        """Serialises `content`."""
        return safe_json(content)


class ReadyJSONResponse(SafeJSONResponse):
    """The same of what `safe_json` or `without_markup` has made: of much, in a thread."""

    def render(self, content: bytes) -> bytes:
        """Nothing is left to be done."""
        return content


class ApiError(Exception):
    """A request that ends with an error status. Raise it anywhere below the application.

    Works for plain requests and, before the 101, for upgrade requests.
    """

    def __init__(
        self,
        status: int,
        message: str,
        detail: str | None = None,
        *,
        validations: Sequence[Validation] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.detail = detail
        self.validations = tuple(validations)
        self.headers = headers or {}

    def response(self) -> Response:
        """The answer, as an ASGI application for both `http` and `websocket` scopes."""
        body = ErrorBody(
            message=self.message, detail=self.detail, validations=list(self.validations) or None
        )
        return SafeJSONResponse(body.model_dump(exclude_none=True), self.status, self.headers)

    def json_body(self) -> bytes:
        """The body of `response()`."""
        return bytes(self.response().body)


def validation_failed(errors: Sequence[Any]) -> ApiError:
    """The 400 for pydantic's list of errors; names fields, never repeats their values."""
    return ApiError(
        400,
        "Validation failed.",
        validations=[
            Validation(field=".".join(map(str, error["loc"])) or "body", detail=error["msg"])
            for error in errors
        ],
    )


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the schema: the statuses a route itself answers with, and what any request can meet.

    `ErrorBody` is put into the schema's components by api/app.py: FastAPI's own way gives an
    error the media type of the route's success.
    """
    texts: dict[int | str, str] = {status: HTTPStatus(status).phrase for status in statuses}
    texts["default"] = "Refused as such (400, 421, 429, 431), or a bug was met (500)"
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    return {key: {"description": text, "content": content} for key, text in texts.items()}


async def _on_api_error(_connection: HTTPConnection, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _on_validation_error(_connection: HTTPConnection, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # FastAPI puts where the field was ("query", "path") in front of its name.
    return validation_failed([{**e, "loc": e["loc"][1:]} for e in error.errors()]).response()


async def _on_http_error(connection: HTTPConnection, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return ApiError(404, ROUTE_NOT_FOUND, headers=headers).response()
    if error.status_code == 405:
        # Starlette names the methods of one route only, and the list and creation of things are
        # two on one path.
        scope, routes = connection.scope, connection.app.routes
        tried = ((method, {**scope, "method": method}) for method in sorted(HTTPMethod))
        allow = ", ".join(
            method
            for method, asked in tried
            if any(route.matches(asked)[0] is Match.FULL for route in routes)
        )
        detail = f"This address takes {allow}."
        return ApiError(405, "Method not allowed.", detail, headers={"Allow": allow}).response()
    return ApiError(error.status_code, str(error.detail), headers=headers).response()


async def no_route(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """For `router.default`: Starlette's own answer to an upgrade request for an unknown path is a
    bare 403."""
    raise HTTPException(404)


def install_error_handlers(app: FastAPI) -> None:
    """Makes `app` answer every expected failure in the shape above.

    What is not expected is a bug: it passes through to the outermost layer (api/app.py),
    which logs it and answers 500.
    """
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
