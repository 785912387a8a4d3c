"""One's own tokens and live sessions over HTTP: list them, revoke, sign out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from api.http.errors import (
    NOT_FOUND,
    SEE_LOG,
    ApiError,
    SafeJSONResponse,
    error_responses,
    safe_json,
    validation_failed,
)
from api.http.pages import LISTED_LIMIT, PAGES, Limit, list_response
from api.http.site import site_of
from api.routes.chats import SignedIn
from api.services import Services, services_of
from api.store import StoreError, Token
from relay.rfb.errors import CloseCode

__all__ = ["end_tokens", "router"]


class TokenBody(BaseModel):
    """A token, without its secret, which nobody has but its holder."""

    id: str
    created_at: datetime
    last_used_at: Annotated[datetime, Field(description="To the hour.")]
    expires_at: Annotated[datetime, Field(description="If it is not used until then.")]
    current: Annotated[bool, Field(description="Whether this request is signed in by it.")]


class SessionBody(BaseModel):
    """A live session on a desktop, on this server."""

    chat_id: str
    token_id: Annotated[str, Field(description="Which token has opened it.")]
    since: datetime
    address: Annotated[str, Field(description="Where the viewer is.")]
    view_only: bool


class Done(BaseModel):
    """What was done."""

    message: str


router = APIRouter(tags=["tokens"])


def end_tokens(services: Services, token_ids: Iterable[str]) -> None:
    """Ends what tokens that are revoked have open here: sessions and streams."""
    for token_id in token_ids:
        services.live.end_token(token_id, CloseCode.SIGNED_OUT, "signed out")
        services.followers.end_token(token_id)


@router.get(
    "/tokens",
    summary="List one's tokens",
    responses=PAGES | error_responses(400, 401, 500),
    response_model=list[TokenBody],
)
async def list_tokens(
    request: Request,
    identity: SignedIn,
    after: Annotated[str | None, Query(description="Only those behind the one of this id.")] = None,
    limit: Limit = LISTED_LIMIT,
) -> Response:
    """The caller's tokens, newest first."""
    store = services_of(request).store

    def made(token: Token) -> bytes:
        body = TokenBody(
            id=token.id,
            created_at=token.created_at,
            last_used_at=token.last_used_at,
            expires_at=store.ends_at(token),
            current=token.id == identity.token_id,
        )
        return safe_json(body.model_dump(mode="json"))

    try:
        last = await store.token(after) if after and _is_id(after) else None
        if after is not None and (last is None or last.user_id != identity.user_id):
            raise validation_failed([{"loc": ("after",), "msg": "No token of yours has this id."}])
        page = await store.tokens_page(identity.user_id, made, limit=limit, after=last)
    except StoreError as error:
        raise ApiError(500, "Internal error fetching tokens.", SEE_LOG) from error
    return list_response(page, limit=limit)


def _is_id(text: str) -> bool:
    """Whether a token may have this id. No database is asked about U+0000."""
    return text.isascii() and text.isalnum()


@router.delete(
    "/tokens/{token}",
    status_code=204,
    summary="Revoke a token",
    response_class=Response,
    responses=error_responses(401, 403, 404, 500),
)
async def revoke_token(
    request: Request,
    identity: SignedIn,
    token: Annotated[str, Path(description="The token's id, its first part.")],
) -> Response:
    """Revokes one of the caller's tokens and ends what it has open; in other servers within
    30 s."""
    services = services_of(request)
    if not _is_id(token):
        raise ApiError(404, NOT_FOUND)
    try:
        revoked = await services.store.revoke_tokens_of(identity.user_id, token)
    except StoreError as error:
        raise ApiError(500, "Failed to revoke the token.", SEE_LOG) from error
    if not revoked:
        raise ApiError(404, NOT_FOUND)
    end_tokens(services, revoked)
    return Response(status_code=204)


@router.get("/sessions", summary="List one's live sessions", responses=error_responses(401, 500))
async def list_sessions(request: Request, identity: SignedIn) -> list[SessionBody]:
    """The caller's live sessions on this server, newest first: 200 at the most."""
    sessions = services_of(request).live.of_user(identity.user_id)[:LISTED_LIMIT]
    return [
        SessionBody(
            chat_id=session.chat_id,
            token_id=session.token_id,
            since=opened.since,
            address=opened.address,
            view_only=opened.view_only,
        )
        for session, opened in sessions
    ]


_LOGOUT: Final[dict[str, Any]] = {
    "response_class": SafeJSONResponse,
    "response_model": Done,
    "responses": error_responses(400, 401, 403, 500),
}


@router.post("/users/logout", summary="Sign out", **_LOGOUT)
async def logout(
    request: Request,
    identity: SignedIn,
    everywhere: Annotated[bool, Query(description="All of the caller's tokens.")] = False,
) -> Response:
    """Revokes the token that signs this request in, ends what it has open (in other servers within
    30 s), and takes the cookie away."""
    services = services_of(request)
    which = None if everywhere else identity.token_id
    try:
        revoked = await services.store.revoke_tokens_of(identity.user_id, which)
    except StoreError as error:
        raise ApiError(500, "Failed to sign out.", SEE_LOG) from error
    end_tokens(services, revoked)
    response = SafeJSONResponse({"message": "Logged out!"})
    site_of(request).clear_cookies(response)
    return response
