"""Chats over HTTP: create, list, look, archive, unarchive. Only its owner sees a chat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import PydanticCustomError
from starlette.convertors import Convertor, register_url_convertor

from api.http.auth import Identity, require_same_origin, sign_in
from api.http.body import read_body
from api.http.errors import (
    NOT_FOUND,
    SEE_LOG,
    ApiError,
    error_responses,
    safe_json,
    validation_failed,
)
from api.http.pages import LISTED_LIMIT, PAGES, Limit, list_response
from api.http.site import site_of
from api.services import Services, services_of
from api.store import Chat, StoreError
from relay.controls import CONTROLS, refuse_controls
from relay.rfb.errors import CloseCode

__all__ = [
    "CHAT_PATH",
    "ChatBody",
    "ChatId",
    "Follower",
    "SignedIn",
    "check_title",
    "find_chat",
    "parse_chat_id",
    "read_json",
    "router",
]

TITLE_CHARS: Final = 256

BODY_BYTES: Final = 65_536
"""A new chat's body. The largest legal one is a title of `TITLE_CHARS`."""

_SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")


class _Segment(Convertor[str]):
    # Starlette's own wants one character; an empty id has an error of its own here.
    regex = "[^/]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("segment", _Segment())

CHAT_PATH: Final = "/chats/{chat:segment}"
"""Matches an empty id too; `find_chat` tells what is wrong with it."""


def check_title(text: str) -> None:
    """Raises ValueError for what is no title of a chat."""
    if len(text) > TITLE_CHARS:
        raise ValueError(f"A title has at most {TITLE_CHARS} characters.")
    refuse_controls(text, "A title")


def _title(text: str) -> str:
    try:
        check_title(text)
    except ValueError as error:
        raise PydanticCustomError("title", "{problem}", {"problem": str(error)}) from None
    return text


class CreateChat(BaseModel):
    """What a new chat is made of."""

    title: Annotated[
        str,
        Field(json_schema_extra={"maxLength": TITLE_CHARS, "pattern": f"^[^{CONTROLS}]*$"}),
        AfterValidator(_title),
    ] = ""
    workspace_id: UUID | None = None


class ChatBody(BaseModel):
    """A chat."""

    id: UUID
    owner_id: UUID
    workspace_id: UUID | None
    title: str
    archived: bool
    created_at: datetime
    updated_at: datetime
    parent_id: Annotated[
        UUID | None, Field(description="Of an agent: the chat that has spawned it.")
    ] = None
    mode: Annotated[str, Field(description="chat, or computer_use for an agent.")] = "chat"
    status: Annotated[str, Field(description="waiting, pending, running or error.")] = "waiting"
    last_error: Annotated[str | None, Field(description="Why the status is error.")] = None
    # A browser hides from its pages why an upgrade was refused, so the reason stands here too.
    desktop_problem: Annotated[
        str | None,
        Field(description="Why its desktop could not be opened, if it could not the last time."),
    ] = None

    @classmethod
    def of(cls, chat: Chat, services: Services) -> ChatBody:
        """As clients see `chat`."""
        body = cls.model_validate(chat, from_attributes=True)
        if chat.workspace_id is not None:
            body.desktop_problem = services.desktop_problems.get(chat.workspace_id)
        return body


async def _identify(request: Request) -> Identity:
    services = services_of(request)
    identity = await sign_in(request, services)
    if request.method not in _SAFE_METHODS:
        require_same_origin(request, identity, site_of(request))
    return identity


Follower = Annotated[Identity, Depends(_identify)]
"""Who asks, for an answer that has no end: it has a place of another kind."""


async def _signed_in(request: Request, identity: Follower) -> AsyncIterator[Identity]:
    # Until the answer has been sent: a body that comes slowly is held, and an answer that is not
    # read, of a MiB or more.
    with services_of(request).budgets.requests_at_once.place(("user", identity.user_id)):
        yield identity


SignedIn = Annotated[Identity, Depends(_signed_in)]
ChatId = Annotated[str, Path(description="The chat's UUID.", json_schema_extra={"format": "uuid"})]


def parse_chat_id(text: str) -> UUID | None:
    """The id in a chat's address; None for what is none."""
    try:
        chat_id = UUID(text)
    except ValueError:
        return None
    # UUID() also takes braces, "urn:uuid:" and hyphens anywhere: one chat, one address.
    return chat_id if str(chat_id) == text.lower() else None


async def find_chat(services: Services, identity: Identity, text: str) -> Chat:
    """The chat of that id, if `identity` may see it. Raises ApiError (400, 404, 500)."""
    if not text:
        raise ApiError(400, "Missing UUID in URL.", "The chat's UUID is empty.")
    chat_id = parse_chat_id(text)
    if chat_id is None:
        raise ApiError(
            400,
            'Invalid UUID "chat".',
            "A UUID has the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx, in hexadecimal digits.",
        )
    try:
        chat = await services.store.chat(chat_id)
    except StoreError as error:
        raise ApiError(500, "Internal error fetching chat.", SEE_LOG) from error
    if chat is None or chat.owner_id != identity.user_id:
        raise ApiError(404, NOT_FOUND)
    return chat


_Model = TypeVar("_Model", bound=BaseModel)


async def read_json(request: Request, model: type[_Model], limit_bytes: int = BODY_BYTES) -> _Model:
    """The body as `model`. Raises ApiError (400, 408, 413)."""
    body = await read_body(request, limit_bytes)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        if problems[0]["type"] == "json_invalid":
            text = "Request body must be valid JSON."
            raise ApiError(400, text, problems[0]["msg"]) from None
        raise validation_failed(problems) from None


_CREATE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": CreateChat.model_json_schema()}},
    }
}

router = APIRouter(tags=["chats"])


@router.post(
    "/chats",
    status_code=201,
    summary="Create a chat",
    responses=error_responses(400, 401, 403, 408, 413, 429, 500),
    openapi_extra=_CREATE_BODY,
    response_model_exclude_defaults=True,
)
async def create_chat(request: Request, identity: SignedIn) -> ChatBody:
    """A new chat of the caller's; with a workspace, it shows that workspace's desktop."""
    wanted = await read_json(request, CreateChat)
    services = services_of(request)
    store = services.store
    try:
        if wanted.workspace_id is not None:
            workspace = await store.workspace(wanted.workspace_id)
            if workspace is None or workspace.owner_id != identity.user_id:
                raise validation_failed([{"loc": ("workspace_id",), "msg": NOT_FOUND}])
        chat = await store.create_chat(
            identity.user_id,
            title=wanted.title,
            workspace_id=wanted.workspace_id,
            limit=services.settings.budgets.chats_per_user,
        )
    except StoreError as error:
        raise ApiError(500, "Failed to create chat.", SEE_LOG) from error
    return ChatBody.of(chat, services)


@router.get(
    "/chats",
    summary="List chats",
    responses=PAGES | error_responses(400, 401, 500),
    response_model=list[ChatBody],
)
async def list_chats(
    request: Request,
    identity: SignedIn,
    archived: Annotated[bool, Query(description="Archived chats too.")] = False,
    after: Annotated[UUID | None, Query(description="Only those behind this chat.")] = None,
    limit: Limit = LISTED_LIMIT,
) -> Response:
    """The caller's chats, newest first."""
    services = services_of(request)
    store = services.store

    def made(chat: Chat) -> bytes:
        body = ChatBody.of(chat, services)
        return safe_json(body.model_dump(mode="json", exclude_defaults=True))

    try:
        last = None if after is None else await store.chat(after)
        if after is not None and (last is None or last.owner_id != identity.user_id):
            raise validation_failed([{"loc": ("after",), "msg": "No chat of yours has this id."}])
        page = await store.chats_page(
            identity.user_id, made, limit=limit, archived=archived, after=last
        )
    except StoreError as error:
        raise ApiError(500, "Internal error fetching chats.", SEE_LOG) from error
    return list_response(page, limit=limit, **({"archived": "true"} if archived else {}))


@router.get(
    CHAT_PATH,
    summary="Get a chat",
    responses=error_responses(400, 401, 404, 500),
    response_model_exclude_defaults=True,
)
async def get_chat(request: Request, identity: SignedIn, chat: ChatId) -> ChatBody:
    """One of the caller's chats."""
    services = services_of(request)
    return ChatBody.of(await find_chat(services, identity, chat), services)


async def _set_archived(
    request: Request, identity: Identity, chat_text: str, archived: bool
) -> Response:
    services = services_of(request)
    chat = await find_chat(services, identity, chat_text)
    try:
        # Nothing is asked of the database behind the change, which its agents are part of.
        family = [chat, *await services.conversations.children(chat.id)]
        changed = await services.store.set_archived(chat.id, archived)
    except StoreError as error:
        verb = "archive" if archived else "unarchive"
        raise ApiError(500, f"Failed to {verb} chat.", SEE_LOG) from error
    if archived:
        # Also where it was archived already: that request may have come no further.
        chat_ids = [chat.id for chat in family]
        for chat_id in chat_ids:
            services.live.end_chat(chat_id, CloseCode.ARCHIVED, "chat archived")
        await services.runs.archived(chat_ids)
    if not changed:
        raise ApiError(400, f"Chat is {'already' if archived else 'not'} archived.")
    return Response(status_code=204)


_ARCHIVE: Final[dict[str, Any]] = {
    "status_code": 204,
    "response_class": Response,
    "responses": error_responses(400, 401, 403, 404, 500),
}


@router.post(f"{CHAT_PATH}/archive", summary="Archive a chat", **_ARCHIVE)
async def archive_chat(request: Request, identity: SignedIn, chat: ChatId) -> Response:
    """Archives a chat and its agents, ends the live sessions on their desktop and what their model
    does; in other servers within 30 s."""
    return await _set_archived(request, identity, chat, True)


@router.post(f"{CHAT_PATH}/unarchive", summary="Unarchive a chat", **_ARCHIVE)
async def unarchive_chat(request: Request, identity: SignedIn, chat: ChatId) -> Response:
    """Makes an archived chat and its agents usable again."""
    return await _set_archived(request, identity, chat, False)
