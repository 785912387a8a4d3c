"""What is raised where a budget is used up."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final

__all__ = ["EVERYBODY", "OverBudget"]

EVERYBODY: Final = "all"
"""The scope of a budget that all users share."""

# By what there is too much of: what is said, after how many seconds to ask again, and the unit.
_TEXTS: Final[dict[str, tuple[str, float, str]]] = {
    "sessions": ("Too many desktop sessions.", 10, ""),
    "streams": ("Too many streams.", 10, ""),
    "chats_at_work": ("Too many chats are at work.", 10, ""),
    "chats": ("Too many chats.", 3600, ""),
    "waiting_messages": ("Too many messages wait already.", 10, ""),
    "stored_bytes": ("Too much is stored.", 3600, " bytes"),
    "requests_per_s": ("Too many requests.", 1, " a second"),
    "requests_at_once": ("Too many requests at once.", 1, ""),
    "idle_connections": ("Too many idle connections.", 1, ""),
    "connections": ("Too many connections.", 1, ""),
    "failed_log_ins": ("Too many failed log-ins.", 60, " a minute"),
    "failed_links": ("Too many links that cannot be used.", 60, " a minute"),
}


class OverBudget(Exception):
    """There is as much of `what` as one `scope` (user, address, ...) may have; `key` says which.

    The text, `message` and `detail`, is for whoever asked.
    """

    def __init__(
        self,
        what: str,
        scope: str,
        key: Hashable,
        limit: float,
        retry_after_s: float | None = None,
    ) -> None:
        self.message, usual_s, unit = _TEXTS[what]
        self.for_all = scope == EVERYBODY
        self.budget = what if self.for_all else f"{what}_per_{scope}"
        self.key = key
        self.retry_after_s = max(1, math.ceil(usual_s if retry_after_s is None else retry_after_s))
        shown = int(limit) if limit == int(limit) else f"{limit:g}"
        self.detail = f"One {scope} has {shown}{unit} at the most."
        if self.for_all:
            self.detail = "This server has as many as it takes. Try again later."
        super().__init__(f"{self.message} {self.detail}")
