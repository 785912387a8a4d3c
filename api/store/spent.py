"""What each user has used of the budgets that are counted in the database.

The counts stand in the user's row, and change in the transaction that writes what they count: a
budget takes one statement then, however much there is, and no two of many at once can both take
what is left of it, for the row is locked until the commit. Counting what there is instead would
read all chats, messages and pictures of a user for each that is written.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sqlalchemy import Column, Connection, ScalarSelect, select, update

from api.budgets import OverBudget
from api.store.schema import users

__all__ = ["CHATS", "STORED_BYTES", "WAITING_MESSAGES", "spend"]

CHATS: Final[Column[int]] = users.c.chats
WAITING_MESSAGES: Final[Column[int]] = users.c.waiting_messages
STORED_BYTES: Final[Column[int]] = users.c.stored_bytes


def spend(
    connection: Connection,
    owner_id: UUID | ScalarSelect[UUID],
    column: Column[int],
    amount: int,
    limit: int | None = None,
) -> None:
    """`amount` more of what `column` counts, or less. Raises OverBudget where that would be more
    than `limit`."""
    spending = update(users).where(users.c.id == owner_id).values({column: column + amount})
    if limit is not None:
        spending = spending.where(column + amount <= limit)
    if not connection.execute(spending).rowcount and limit is not None:
        owner = connection.execute(select(users.c.id).where(users.c.id == owner_id)).scalar()
        if owner is not None:
            raise OverBudget(column.name, "user", owner, limit)
