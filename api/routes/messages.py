"""What is said in a chat, over HTTP: say something, read, follow as it happens, interrupt."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import trio
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.agents.runs import NO_MODEL, Busy
from api.agents.watch import Words
from api.http.auth import Identity, authenticate
from api.http.budgets import address_of
from api.http.errors import NOT_FOUND, SEE_LOG, ApiError, error_responses, escaped
from api.http.pages import LISTED_LIMIT, PAGES, Limit, list_response
from api.http.site import site_of
from api.http.takeover import current_connection
from api.routes.chats import (
    CHAT_PATH,
    ChatBody,
    ChatId,
    Follower,
    SignedIn,
    find_chat,
    read_json,
)
from api.services import Services, services_of
from api.store import Chat, MessageText, Page, StoreError

__all__ = ["router"]

TEXT_CHARS: Final = 32_000
"""Of one message: some 8,000 tokens. More belongs into a file of the workspace."""

BODY_BYTES: Final = 12 * TEXT_CHARS + 1024
"""Of such a message: a character may be two \\uXXXX in JSON."""

LAST_ID: Final = 2**31 - 1
"""Of PostgreSQL's integers; it and SQLite fail over larger ones."""

PIECE_CHARS: Final = 4_096
"""Of what a model is saying, in one event: 48 KiB in JSON at the most."""

ALIVE_S: Final = 15.0
"""So often a stream says something where nothing happens: proxies end what is silent for 60 s. And
so often it is looked whether its token is still good."""


class SayBody(BaseModel):
    """Something said to a chat's model."""

    text: Annotated[str, Field(min_length=1, max_length=TEXT_CHARS, pattern=r"\S")]


class MessageBody(BaseModel):
    """A message of a chat."""

    id: int
    role: Annotated[str, Field(description="user (tools' results too) or assistant.")]
    content: Annotated[
        list[dict[str, Any]],
        Field(
            description="Blocks of the Messages API. The source of an image has the type `stored` "
            "and a `file_id`, for `GET .../files/{file_id}`."
        ),
    ]
    created_at: datetime


router = APIRouter(tags=["messages"])

_SAY_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": SayBody.model_json_schema()}},
    }
}


@router.post(
    f"{CHAT_PATH}/messages",
    status_code=202,
    summary="Say something",
    responses=error_responses(400, 401, 403, 404, 408, 409, 413, 429, 500, 503),
    openapi_extra=_SAY_BODY,
    response_model_exclude_defaults=True,
)
async def say(request: Request, identity: SignedIn, chat: ChatId) -> ChatBody:
    """Tells the chat's model something; where it is at work, it hears it when it is done with the
    tools it uses."""
    body = await read_json(request, SayBody, BODY_BYTES)
    services = services_of(request)
    found = await find_chat(services, identity, chat)
    if found.archived:
        raise ApiError(400, "Chat is archived.", "Unarchive it first.")
    if not services.runs.available:
        raise ApiError(400, NO_MODEL, "Set model.api_key_file in the server's settings.")
    try:
        await services.runs.say(found.id, body.text)
    except Busy as busy:
        raise ApiError(409, str(busy)) from None
    except StoreError as error:
        raise ApiError(500, "Failed to save the message.", SEE_LOG) from error
    return ChatBody.of(await find_chat(services, identity, chat), services)


def _made(message: MessageText) -> bytes:
    """As `MessageBody`. What is stored is JSON already, and is neither parsed nor made anew: that
    takes no time, and nothing in it can fail."""
    # Between tokens alone JSON has line breaks, and an event must not.
    content = message.content.replace("\r", " ").replace("\n", " ")
    created_at = message.created_at.isoformat().replace("+00:00", "Z")
    return escaped(
        f'{{"id":{message.id},"role":{json.dumps(message.role)},"content":{content},'
        f'"created_at":"{created_at}"}}'
    )


async def _messages(services: Services, chat: Chat, after: int, limit: int) -> Page:
    try:
        return await services.conversations.messages_page(chat, _made, after=after, limit=limit)
    except StoreError as error:
        raise ApiError(500, "Internal error fetching messages.", SEE_LOG) from error


@router.get(
    f"{CHAT_PATH}/messages",
    summary="Read what was said",
    response_model=list[MessageBody],
    responses=PAGES | error_responses(400, 401, 404, 500),
)
async def list_messages(
    request: Request,
    identity: SignedIn,
    chat: ChatId,
    after: Annotated[int, Query(ge=0, le=LAST_ID, description="Only those behind this id.")] = 0,
    limit: Limit = LISTED_LIMIT,
) -> Response:
    """The messages, oldest first."""
    services = services_of(request)
    found = await find_chat(services, identity, chat)
    return list_response(await _messages(services, found, after, limit), limit=limit)


@router.get(
    f"{CHAT_PATH}/files/{{file}}",
    summary="A message's picture",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}, "image/jpeg": {}}},
        **error_responses(400, 401, 404, 500),
    },
)
async def get_file(
    request: Request,
    identity: SignedIn,
    chat: ChatId,
    file: Annotated[UUID, Path(description="The picture's UUID.")],
) -> Response:
    """A screenshot, as the model has seen it."""
    services = services_of(request)
    found = await find_chat(services, identity, chat)
    try:
        picture = await services.conversations.picture(file)
    except StoreError as error:
        raise ApiError(500, "Internal error fetching the file.", SEE_LOG) from error
    if picture is None or picture.chat_id != found.id:
        raise ApiError(404, NOT_FOUND)
    # It never changes, and is nobody else's.
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    return Response(picture.data, media_type=picture.media_type, headers=headers)


@router.post(
    f"{CHAT_PATH}/interrupt",
    status_code=204,
    summary="Interrupt the model",
    response_class=Response,
    responses=error_responses(400, 401, 403, 404, 500),
)
async def interrupt(request: Request, identity: SignedIn, chat: ChatId) -> Response:
    """Stops what the chat's model does, at once; where another server runs it, within some seconds.
    Nothing to stop is no error."""
    services = services_of(request)
    found = await find_chat(services, identity, chat)
    try:
        await services.runs.interrupt(found.id)
    except StoreError as error:
        raise ApiError(500, "Failed to interrupt the chat.", SEE_LOG) from error
    return Response(status_code=204)


_STREAM_TEXT: Final = """\
Server-sent events: `message` (a message, as `GET .../messages` has it; its id is the event's), \
`status` (`{"status", "last_error"?}`), `text` (`{"text"}`, a piece of what the model is saying \
now; the message that it becomes has all of it) and `restart` (what came as text since the last \
message is void). A client that was cut off goes on behind the last message that it has, by \
`Last-Event-ID` or `after`."""


# Of one event: OpenAPI 3.1 has no word for a stream of them.
_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "event": {"enum": ["message", "status", "text", "restart"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string"},
    },
    "required": ["event", "data"],
}


class _EventStream(StreamingResponse):
    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[str | bytes],
        headers: dict[str, str],
        place: AbstractContextManager[None],
    ) -> None:
        super().__init__(events, headers=headers)
        self._events = events
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ever, in its place. Raises OverBudget where it has none, before anything is sent."""
        with self._place:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """As ever, but closes the events where the client has left in the middle of one."""
        async with aclosing(self._events):
            with current_connection().unhurried():
                await super().stream_response(send)


@router.get(
    f"{CHAT_PATH}/stream",
    summary="Follow a chat",
    description=_STREAM_TEXT,
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": _EVENT}}},
        **error_responses(400, 401, 404, 429, 500, 503),
    },
)
async def stream(
    request: Request,
    identity: Follower,
    chat: ChatId,
    after: Annotated[int, Query(ge=0, le=LAST_ID, description="Only messages behind this id.")] = 0,
) -> StreamingResponse:
    """The chat's messages, those there are and those to come."""
    services = services_of(request)
    found = await find_chat(services, identity, chat)
    last = request.headers.get("Last-Event-ID", "")
    if re.fullmatch("[0-9]{1,10}", last) and int(last) <= LAST_ID:
        after = max(after, int(last))
    # Proxies must not collect it: nginx has this header for that.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    place = _stream_place(request, services, identity, found)
    return _EventStream(_follow(request, services, identity, found, after), headers, place)


@contextmanager
def _stream_place(
    request: Request, services: Services, identity: Identity, chat: Chat
) -> Iterator[None]:
    streams, address = services.budgets.streams, address_of(request.scope)
    places = (("user", identity.user_id), ("chat", chat.id), ("address", address))
    with streams.place(*places), services.live.stream():
        yield


def _event(kind: str, data: object) -> str:
    # JSON has no line breaks of its own, so that it is one line of data.
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


def _events(words: Words) -> Iterator[str]:
    if words.restarted:
        yield _event("restart", {})
    for at in range(0, len(words.text), PIECE_CHARS):
        yield _event("text", {"text": words.text[at : at + PIECE_CHARS]})


async def _follow(
    request: Request, services: Services, identity: Identity, chat: Chat, after: int
) -> AsyncGenerator[str | bytes]:
    status: object = None
    alive_at = trio.current_time() + ALIVE_S
    with services.followers.watch(chat.id, identity.token_id) as watch:
        words = Words()
        while not watch.ended:
            try:
                found = await services.store.chat(chat.id)
                page = await _messages(services, chat, after, LISTED_LIMIT)
                while page.items:
                    after = page.items[0].id
                    # Taken out: while nothing happens, the stream holds nothing.
                    yield b"id: %d\nevent: message\ndata: %b\n\n" % page.items.pop(0)
                if trio.current_time() >= alive_at:
                    alive_at += ALIVE_S
                    await authenticate(request, services.store, cookie=site_of(request).cookie)
                    yield ": alive\n\n"
            except (ApiError, StoreError):
                # Signed out, or the store is away: who comes again is told which.
                return
            if page.more:
                continue
            # Otherwise the message that the words became has been sent.
            if words.behind == after:
                for event in _events(words):
                    yield event
            if found is None or found.archived or services.followers.closing:
                return
            now = {"status": found.status}
            if found.last_error is not None:
                now["last_error"] = found.last_error
            if now != status:
                status = now
                yield _event("status", now)
            while True:
                changed, words = await watch.wait()
                if changed or words.behind != after or trio.current_time() >= alive_at:
                    break
                # No look at the database for each piece of text.
                for event in _events(words):
                    yield event
