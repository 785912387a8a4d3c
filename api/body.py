"""Reads a request's body. FastAPI would do so before it asks who is there, without a bound."""

from __future__ import annotations

from contextlib import aclosing

from starlette.requests import Request

from api.errors import ApiError

__all__ = ["read_body"]


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises ApiError (413) where it is longer."""
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit_bytes:
                text = "Request body is too large."
                raise ApiError(413, text, f"At most {limit_bytes} bytes are read.")
    return bytes(body)
