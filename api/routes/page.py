"""What a person's browser gets: viewer, list of chats, one-time link, and the files of these.

The pages are static shells which hold no data; they ask the API, with the session cookie, and so
need no authentication of their own. That cookie is set in one place, `open_link`.
"""

from __future__ import annotations

import html
from pathlib import Path
from string import Template

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from api.budgets import OverBudget
from api.http.auth import COOKIE
from api.http.budgets import address_of
from api.services import services_of

VIEWER = Path(__file__).parents[1] / "viewer"
NOVNC = VIEWER / "novnc/core/rfb.js"

HEADERS = {
    # noVNC draws JPEG and PNG rectangles, and cursors, from data: URLs. 'self' in connect-src
    # covers ws: and wss: of the same host (CSP 3).
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Kept, but asked for each time (304): an upgrade must not mix with files of before.
    "Cache-Control": "no-cache",
}
NOT_STORED = HEADERS | {"Cache-Control": "no-store"}

_files = StaticFiles(directory=VIEWER)


async def _file(request: Request, path: str) -> Response:
    response = await _files.get_response(path, request.scope)
    response.headers.update(HEADERS)
    return response


def _notice(title: str, text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    page = Template((VIEWER / "notice.html").read_text(encoding="utf-8"))
    content = page.substitute(title=html.escape(title), text=html.escape(text))
    return HTMLResponse(content, status, NOT_STORED | (headers or {}))


async def home(request: Request) -> Response:
    """The list of one's own chats, or how to sign in."""
    return await _file(request, "home.html")


async def viewer(request: Request) -> Response:
    """The page with the desktop. Whether the chat exists and may be seen it finds out itself."""
    if not NOVNC.is_file():
        return _notice(
            "noVNC is not set up",
            "This server has no noVNC to show a desktop with. Run “make setup” where the server"
            " runs, then reload this page.",
            503,
        )
    return await _file(request, "index.html")


async def _redeem(request: Request, code: str) -> tuple[str, str] | None:
    """As `Store.redeem_link`. Raises OverBudget for an address that has tried too many codes."""
    services, address = services_of(request), address_of(request.scope)
    services.budgets.links.check(address)
    redeemed = await services.store.redeem_link(code)
    if redeemed is None:
        services.budgets.links.failed(address)
    else:
        services.budgets.log_ins.succeeded(address, redeemed[0])
    return redeemed


async def open_link(request: Request) -> Response:
    """Trade a one-time link for the session cookie, and go on to the page the link is for."""
    # Mail scanners and browsers that look ahead must not use the link up: its person is still
    # to come. A browser drops a prefetched page whose status is not 2xx, and asks again.
    purpose = request.headers.get("sec-purpose") or request.headers.get("purpose") or ""
    if request.method == "HEAD" or "prefetch" in purpose:
        return Response(status_code=503, headers=NOT_STORED)
    try:
        redeemed = await _redeem(request, request.path_params["code"])
    except OverBudget as over:
        services_of(request).budgets.refused(over)
        text = "Wait some minutes, then open your link again."
        return _notice(over.message, text, 429, {"Retry-After": str(over.retry_after_s)})
    if redeemed is None:
        return _notice(
            "This link cannot be used",
            "It was used before, has expired, or is not complete. Each link works once; ask for a"
            " new one.",
            410,
        )
    token, path = redeemed
    response = RedirectResponse(path, 303, NOT_STORED)
    # No expiry: the token's own, in the store, is what counts.
    response.set_cookie(
        COOKIE, token, path="/", httponly=True, samesite="lax", secure=request.url.scheme == "https"
    )
    return response


async def static(request: Request) -> Response:
    """The files of the pages, noVNC among them."""
    return await _file(request, request.path_params["path"])


router = APIRouter(
    routes=[
        Route("/", home),
        Route("/chats/{chat}", viewer),
        Route("/open/{code}", open_link),
        Route("/viewer/{path:path}", static),
    ]
)
