"""What the store hands out: plain values, detached from the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

__all__ = ["Access", "Chat", "Token", "User", "Workspace"]


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
    """A conversation, with the workspace whose desktop it shows."""

    id: UUID
    owner_id: UUID
    workspace_id: UUID | None
    title: str
    archived: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Access:
    """What a session on a chat's desktop starts with: the token, if there is one, and the chat's
    workspace, if the chat is the token's user's, not archived, and has one. `changes` is what
    `Store.changes` was before they were read."""

    token: Token | None
    workspace: Workspace | None
    changes: int
