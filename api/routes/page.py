"""What a person's browser gets: viewer, list of chats, one-time link, and the files of these.

The pages are static shells which hold no data; they ask the API, with the session cookie, and so
need no authentication of their own. That cookie is set in one place, `open_link`. What they name
is named relative to themselves: a proxy may have put the server under a path.
"""

from __future__ import annotations

import html
from pathlib import Path
from string import Template

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from api.budgets import OverBudget
from api.http.auth import browsers_token
from api.http.budgets import address_of
from api.http.site import Site, own_origin, site_of
from api.routes.tokens import end_tokens
from api.services import services_of
from api.store import StoreError

VIEWER = Path(__file__).parents[1] / "viewer"
PATH_CHARS = 200
"""Of a file's path; ours are shorter. Each directory of one that there is not is looked for."""
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
            "This server has no noVNC to show a desktop with. Whoever runs it has to run “make"
            " novnc” in the checkout, and to install it from there again.",
            503,
        )
    return await _file(request, "index.html")


async def open_link(request: Request) -> Response:
    """Ask whether a one-time link is to sign this browser in; POST, the page's button, does it.

    Only that button spends the link: mail scanners, previews, browsers that look ahead and pages
    of other sites do not.
    """
    services, site = services_of(request), site_of(request)
    code: str = request.path_params["code"]
    confirmed = request.method == "POST"
    if confirmed and not _from_own_page(request, site):
        return _notice(
            "Nobody was signed in",
            "The link has to be opened, and confirmed on the page that it shows.",
            403,
        )
    guesses, address = services.budgets.links, address_of(request.scope)
    try:
        guesses.check(address)
        user = await services.store.link_user(code)
        if user is None:
            guesses.failed(address)
            return _unusable()
        if user.status != "active":
            text = "The link is still good for when its user is active again: ask whoever runs this"
            return _notice("This user is suspended", f"{text} server.", 403)
        before = await browsers_token(request, services.store, cookie=site.cookie)
        if not confirmed:
            return _question(user.name, None if before is None else before.user_name)
        redeemed = await services.store.redeem_link(code, replacing=before.id if before else None)
    except OverBudget as over:
        services.budgets.refused(over)
        text = "Wait some minutes, then open your link again."
        return _notice(over.message, text, 429, {"Retry-After": str(over.retry_after_s)})
    except StoreError:
        # The store has logged it.
        return _notice("The server had a problem", "Reload the page to try again.", 500)
    if redeemed is None:
        return _unusable()
    if before is not None:
        end_tokens(services, [before.id])
    token, path = redeemed
    services.budgets.log_ins.succeeded(address, token)
    response = RedirectResponse(site.path + path, 303, NOT_STORED)
    site.set_cookie(request, response, token)
    return response


def _from_own_page(request: Request, site: Site) -> bool:
    if "Origin" in request.headers:
        return own_origin(request, site)
    return request.headers.get("Sec-Fetch-Site") == "same-origin"


def _unusable() -> Response:
    return _notice(
        "This link cannot be used",
        "It was used before, has expired, or is not complete. Each link works once; ask for a"
        " new one.",
        410,
    )


def _question(user: str, before: str | None) -> Response:
    text = "The link works once, for this browser."
    if before is not None:
        text = f"This browser is signed in as {before}; that ends, and so does what it has open."
    page = Template((VIEWER / "open.html").read_text(encoding="utf-8"))
    content = page.substitute(user=html.escape(user), text=html.escape(text))
    policy = HEADERS["Content-Security-Policy"].replace("form-action 'none'", "form-action 'self'")
    # Without any referrer a browser would send its form with the origin "null". The address, with
    # the code in it, is in none.
    own = {"Content-Security-Policy": policy, "Referrer-Policy": "strict-origin"}
    return HTMLResponse(content, headers=NOT_STORED | own)


async def static(request: Request) -> Response:
    """The files of the pages, noVNC among them."""
    path: str = request.path_params["path"]
    if len(path) > PATH_CHARS:
        raise HTTPException(404)
    return await _file(request, path)


router = APIRouter(
    routes=[
        Route("/", home),
        Route("/chats/{chat}", viewer),
        Route("/open/{code}", open_link, methods=["GET", "POST"]),
        Route("/viewer/{path:path}", static),
    ]
)
