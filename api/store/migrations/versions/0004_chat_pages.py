"""A user's chats in the order in which they are listed, so that a page reads no others."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Widens the index over chats' owners."""
    op.drop_index("ix_chats_owner_id", "chats")
    op.create_index("ix_chats_owner_id", "chats", ["owner_id", "created_at", "id"])
