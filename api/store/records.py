"""What the store hands out: plain values, detached from the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

__all__ = [
    "Access",
    "Chat",
    "File",
    "Item",
    "Message",
    "MessageText",
    "Page",
    "Token",
    "User",
    "Workspace",
]


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who owns chats and workspaces. `status` is `active` or `suspended`."""

    id: UUID
    name: str
    status: str


@dataclass(frozen=True, slots=True)
class Token:
    """A session token as stored, with what its user is called and allowed."""

    id: str
    user_id: UUID
    user_name: str
    user_status: str
    secret_hash: bytes = field(repr=False)
    lifetime_s: int
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a desktop runs. `desktop` says which: see `api.settings.check_desktop`."""

    id: UUID
    owner_id: UUID
    name: str
    desktop: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, with the workspace whose desktop it shows.

    `mode` is `chat` or `computer_use`: an agent's, which another chat has spawned. `status` is
    `waiting` (for the user), `pending`, `running` or `error`; who runs it, as
    `run_id`, says so again before `running_until`, or ends where there is an `interruption`.
    """

    id: UUID
    owner_id: UUID
    workspace_id: UUID | None
    title: str
    archived: bool
    created_at: datetime
    updated_at: datetime
    parent_id: UUID | None = None
    mode: str = "chat"
    status: str = "waiting"
    last_error: str | None = None
    running_until: datetime | None = None
    run_id: UUID | None = None
    interruption: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What was said in a chat. `role` is `user` (tools' results too) or `assistant`; `content` are
    blocks of the Messages API, in which a picture's source is a file's id."""

    id: int
    chat_id: UUID
    role: Literal["user", "assistant"]
    content: list[dict[str, Any]] = field(repr=False)
    created_at: datetime


class MessageText(NamedTuple):
    """A message whose content is the JSON text that is stored."""

    id: int
    role: str
    content: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class File:
    """A picture of a chat's messages."""

    id: UUID
    chat_id: UUID
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Access:
    """What a session on a chat's desktop starts with: the token, if there is one, and the chat's
    workspace, if the chat is the token's user's, not archived, and has one. `changes` is what
    `Database.changes` was before they were read."""

    token: Token | None
    workspace: Workspace | None
    changes: int


class Item(NamedTuple):
    """One of a list, in the form in which it is handed out."""

    id: Any
    data: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list. `more`: there is something behind its last item."""

    items: list[Item] = field(repr=False)
    more: bool
