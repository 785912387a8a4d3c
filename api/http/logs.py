"""Logging: the lines of requests and sessions (structlog) and all others (logging) in one form.

They go to stderr: readable lines on a terminal, JSON lines otherwise. Query strings, link codes
and tokens are never logged, and tracebacks hold no local variables. What clients and desktops say
cannot steer the terminal of who reads it: control characters are escaped.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import Any, Final, TextIO

import structlog
import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.errors import INTERNAL_ERROR, ApiError
from api.http.headers import STATUS_MESSAGES
from relay.controls import escaped

__all__ = ["AccessLog", "configure_logging", "loggable_path"]

_log = structlog.stdlib.get_logger("api.access")

PATH_CHARS: Final = 200
"""Of a path in the access line; ours are shorter."""


class _Stderr:
    """Writes finished lines. By way of `logging`, each would cost three times as much."""

    def __init__(self, name: str) -> None:
        self.name = name

    def info(self, line: str) -> None:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except OSError:
            pass  # A full disk: as with `logging`, what cannot be told of it goes on.

    warning = error = exception = info


def _escape(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Of structlog: what is another's in a line, and ends none."""
    for key, value in event.items():
        # Nearly all are, and this is for each line.
        if isinstance(value, str) and not value.isprintable():
            event[key] = escaped(value)
    return event


def _traceback(out: TextIO, exc_info: Any) -> None:
    # The default shows local variables wherever rich is installed: secrets among them.
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write("\n".join(map(escaped, text.getvalue().split("\n"))))


def configure_logging() -> None:
    """Sends everything to stderr. Call once, before the first line."""
    shared: list[Any] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _escape,
    ]
    final: list[Any]
    if sys.stderr.isatty():
        final = [structlog.dev.ConsoleRenderer(exception_formatter=_traceback)]
    else:
        final = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *final],
        logger_factory=_Stderr,
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # three lines at each start otherwise


def loggable_path(scope: Scope) -> str:
    """The path as it came, without the query and without a login link's code."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    path = raw.partition(b"?")[0].decode("ascii", "backslashreplace")
    if re.match("/+open/", scope["path"]):
        return "/open/..."
    return path if len(path) <= PATH_CHARS else path[:PATH_CHARS] + "..."


class AccessLog:
    """ASGI middleware, the outermost: one line per request, and 500 for what is a bug."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        began_s = trio.current_time()
        status: int | None = None
        request: dict[str, Any] = {
            "method": scope.get("method", "GET"),  # an upgrade request has none in ASGI
            "path": loggable_path(scope),
            "client": (scope.get("client") or ("unknown",))[0],
        }

        async def watch(message: Message) -> None:
            nonlocal status
            found = None
            if message["type"] in STATUS_MESSAGES:
                found = message["status"]
            elif message["type"] == "websocket.accept":
                found = 101
            if status is None and found is not None:
                status = found
                # To the response's start: a session after the 101 has a line of its own.
                duration_ms = round((trio.current_time() - began_s) * 1000)
                _log.info("request", **request, status=status, duration_ms=duration_ms)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:  # noqa: BLE001 - a bug in one request is logged and answered, here only
            _log.exception("a request failed unexpectedly", **request)
            if status is None:
                await ApiError(500, INTERNAL_ERROR).response()(scope, receive, watch)
