"""Reads a request's body. FastAPI would do so before it asks who is there, without a bound."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

import trio
from starlette.requests import ClientDisconnect, Request

from api.http.errors import ApiError

__all__ = ["read_body"]


BODY_S: Final = 60.0
"""For a whole body: those that are read here have some hundred KiB at the most."""

# What was not read of a body is no request.
_CLOSE: Final = {"Connection": "close"}


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises ApiError: 413 where it is longer, 408 where it takes more than
    `BODY_S`, 400 where the client leaves before its end."""
    body = bytearray()
    try:
        with trio.fail_after(BODY_S):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > limit_bytes:
                        text = "Request body is too large."
                        detail = f"At most {limit_bytes} bytes are read."
                        raise ApiError(413, text, detail, headers=_CLOSE.copy())
    except trio.TooSlowError:
        detail = f"It has to be there within {BODY_S:g} s."
        raise ApiError(408, "Request body took too long.", detail, headers=_CLOSE.copy()) from None
    except ClientDisconnect:
        # For the access log: nobody reads it.
        raise ApiError(400, "Request body has no end.") from None
    return bytes(body)
