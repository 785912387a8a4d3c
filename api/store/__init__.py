"""What must survive a restart, in SQL: users, tokens, workspaces, chats, login links."""

from __future__ import annotations

from api.store.records import Access, Chat, Token, User, Workspace
from api.store.store import Clock, Store, StoreError, utc_now

__all__ = [
    "Access",
    "Chat",
    "Clock",
    "Store",
    "StoreError",
    "Token",
    "User",
    "Workspace",
    "utc_now",
]
