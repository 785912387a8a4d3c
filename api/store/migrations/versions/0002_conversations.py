"""What is said in chats: messages, their pictures, and who runs a chat."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables, and gives chats their columns."""
    moment = sa.DateTime(timezone=True)
    with op.batch_alter_table("chats") as batch:
        batch.add_column(sa.Column("parent_id", sa.Uuid()))
        batch.add_column(sa.Column("mode", sa.String(16), nullable=False, server_default="chat"))
        batch.add_column(
            sa.Column("status", sa.String(16), nullable=False, server_default="waiting")
        )
        batch.add_column(sa.Column("last_error", sa.Text()))
        batch.add_column(sa.Column("running_until", moment))
        batch.create_foreign_key("fk_chats_parent_id", "chats", ["parent_id"], ["id"])
        batch.create_index("ix_chats_parent_id", ["parent_id"])
    # For the chats that there were; from here on every chat is made with both.
    with op.batch_alter_table("chats") as batch:
        batch.alter_column("mode", server_default=None)
        batch.alter_column("status", server_default=None)
    op.create_table(
        "messages",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("chat_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name="fk_messages_chat_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_messages_chat_id", "messages", ["chat_id", "id"])
    op.create_table(
        "waiting_messages",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("chat_id", sa.Uuid(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_waiting_messages"),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name="fk_waiting_messages_chat_id"),
    )
    op.create_index("ix_waiting_messages_chat_id", "waiting_messages", ["chat_id"])
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("chat_id", sa.Uuid(), nullable=False),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
        sa.ForeignKeyConstraint(["chat_id"], ["chats.id"], name="fk_files_chat_id"),
    )
    op.create_index("ix_files_chat_id", "files", ["chat_id"])
