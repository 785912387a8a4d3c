"""How many chats, waiting messages and stored bytes each user has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COUNTS = """
UPDATE users SET
chats = (SELECT count(*) FROM chats WHERE chats.owner_id = users.id),
waiting_messages = (
    SELECT count(*) FROM waiting_messages JOIN chats ON chats.id = waiting_messages.chat_id
    WHERE chats.owner_id = users.id),
stored_bytes = (
    SELECT coalesce(sum(length(CAST(messages.content AS text))), 0)
    FROM messages JOIN chats ON chats.id = messages.chat_id
    WHERE chats.owner_id = users.id
) + (
    SELECT coalesce(sum(length(CAST(waiting_messages.content AS text))), 0)
    FROM waiting_messages JOIN chats ON chats.id = waiting_messages.chat_id
    WHERE chats.owner_id = users.id
) + (
    SELECT coalesce(sum(length(files.data)), 0)
    FROM files JOIN chats ON chats.id = files.chat_id
    WHERE chats.owner_id = users.id)
"""


def upgrade() -> None:
    """Gives users their columns, and counts what there is: the one time that all of it is read."""
    for name, kind in (
        ("chats", sa.Integer()),
        ("waiting_messages", sa.Integer()),
        ("stored_bytes", sa.BigInteger()),
    ):
        op.add_column("users", sa.Column(name, kind, nullable=False, server_default="0"))
    # What is said is kept in ASCII, so that characters are bytes.
    op.execute(_COUNTS)
