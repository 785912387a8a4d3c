"""The tables. Migrations in `migrations/` build them; a test compares the two.

Nothing here is particular to SQLite or PostgreSQL.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
)

__all__ = [
    "UtcDateTime",
    "chats",
    "files",
    "login_links",
    "messages",
    "metadata",
    "tokens",
    "users",
    "waiting_messages",
    "workspaces",
]


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no time zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database. A naive datetime is a bug."""
        if value is None:
            return None
        assert value.tzinfo is not None, "a datetime without a time zone"
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Names for constraints, so that a later migration can drop them on any database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("status", String(16), nullable=False),  # active | suspended
    Column("created_at", UtcDateTime, nullable=False),
    # How much there is that is the user's, see api/store/spent.py.
    Column("chats", Integer, nullable=False, server_default="0"),
    Column("waiting_messages", Integer, nullable=False, server_default="0"),
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(10), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("secret_hash", LargeBinary(32), nullable=False),  # SHA-256; 131 random bits need no salt
    Column("lifetime_s", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime, nullable=False),  # to the hour, see Store.touch_token
    Column("expires_at", UtcDateTime, nullable=False),
)

workspaces = Table(
    "workspaces",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner_id", ForeignKey("users.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("desktop", String(512), nullable=False),  # pattern | xvnc | tcp://HOST:PORT | ...
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("owner_id", "name"),
)

chats = Table(
    "chats",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner_id", ForeignKey("users.id"), nullable=False),
    Column("workspace_id", ForeignKey("workspaces.id")),
    Column("title", String(256), nullable=False),
    Column("archived", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("parent_id", ForeignKey("chats.id")),  # whose agent this chat is
    Column("mode", String(16), nullable=False),  # chat | computer_use
    Column("status", String(16), nullable=False),  # waiting | pending | running | error
    Column("last_error", Text),
    Column("running_until", UtcDateTime),  # by then whoever runs it has said so again
    Column("run_id", Uuid),  # of whoever runs it
    Column("interruption", String(16)),  # asked | answer, see Conversations.interrupt
    Index(None, "owner_id", "created_at", "id"),
    Index(None, "parent_id"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("chat_id", ForeignKey("chats.id"), nullable=False),
    Column("role", String(16), nullable=False),  # user | assistant
    Column("content", JSON, nullable=False),  # blocks of the Messages API; pictures are files
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "chat_id", "id"),
    sqlite_autoincrement=True,  # who reads from an id on must not miss what takes a freed one
)

# What the user has said while the model was at work: it goes behind the tools' results.
waiting_messages = Table(
    "waiting_messages",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("chat_id", ForeignKey("chats.id"), nullable=False),
    Column("content", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "chat_id"),
)

files = Table(
    "files",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("chat_id", ForeignKey("chats.id"), nullable=False),
    Column("media_type", String(64), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "chat_id"),
)

login_links = Table(
    "login_links",
    metadata,
    Column("code_hash", LargeBinary(32), primary_key=True),  # SHA-256
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("path", String(512), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
)
