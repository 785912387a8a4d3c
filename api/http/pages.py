"""Lists in pages: plain JSON lists, and a `Link` to what is behind them (RFC 8288).

The items of a page come from the store's threads as they are sent (`Database.page`): nothing that
grows with the data is made into JSON on Trio's thread.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Query

from api.http.errors import ReadyJSONResponse
from api.store import Page

__all__ = ["LISTED_LIMIT", "PAGES", "Limit", "list_response"]

LISTED_LIMIT: Final = 200
"""Items in one answer, whatever their size; pictures are not in them."""

Limit = Annotated[
    int,
    Query(ge=1, le=LISTED_LIMIT, description="At most so many; fewer where they have over 1 MiB."),
]

PAGES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "headers": {
            "Link": {
                "description": '`<?after=...>; rel="next"`, relative to this address: where the '
                "list goes on. Missing on the last page.",
                "schema": {"type": "string"},
            }
        }
    }
}
"""For the schema of a route that answers with a `list_response`."""


def list_response(page: Page, **query: object) -> ReadyJSONResponse:
    """The answer with a page, of which each item is JSON; `query` are the parameters that the next
    page is asked for with, beside `after`."""
    headers = {}
    if page.more:
        # Relative, so that it holds behind every proxy; and without a token of the query's.
        link = urlencode({"after": page.items[-1].id, **query})
        headers["Link"] = f'<?{link}>; rel="next"'
    return ReadyJSONResponse(
        b"[" + b",".join(item.data for item in page.items) + b"]", headers=headers
    )
