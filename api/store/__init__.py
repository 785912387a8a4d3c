"""What must survive a restart, in SQL: users, tokens, workspaces, chats and what was said there,
login links."""

from __future__ import annotations

from api.store.conversations import Conversations
from api.store.database import StoreError
from api.store.records import (
    Access,
    Chat,
    File,
    Item,
    Message,
    MessageText,
    Page,
    Token,
    User,
    Workspace,
)
from api.store.store import Clock, Store, utc_now

__all__ = [
    "Access",
    "Chat",
    "Clock",
    "Conversations",
    "File",
    "Item",
    "Message",
    "MessageText",
    "Page",
    "Store",
    "StoreError",
    "Token",
    "User",
    "Workspace",
    "utc_now",
]
