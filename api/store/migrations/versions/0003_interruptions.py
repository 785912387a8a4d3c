"""Whose run of a chat it is, and that somebody wants it to stop."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Gives chats their columns. What runs has no id yet, and is found by its lease's end."""
    op.add_column("chats", sa.Column("run_id", sa.Uuid()))
    op.add_column("chats", sa.Column("interruption", sa.String(16)))
