"""All budgets of a server that are counted in memory, and who is told when one is used up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from api.budgets.guesses import Guesses
from api.budgets.held import Held
from api.budgets.over import EVERYBODY, OverBudget
from api.budgets.rates import Rates
from api.budgets.recent import Recent
from api.budgets.settings import BudgetSettings

__all__ = ["Budgets"]

TELL_EVERY_S: Final = 10.0
"""A line in the log for each budget and each whose it is, however many are refused."""

TOLD_LIMIT: Final = 1_000

_log = logging.getLogger(__name__)


class Budgets:
    """`count` is called with a budget's name for each refusal."""

    def __init__(
        self, settings: BudgetSettings, count: Callable[[str], object] = lambda _budget: None
    ) -> None:
        self._count = count
        self._told: Recent[float] = Recent(TOLD_LIMIT)
        self.settings = settings
        # How many sessions and streams there may be of all users is LiveSessions' to say.
        self.sessions = Held(
            "sessions",
            {
                "user": settings.sessions_per_user,
                "desktop": settings.sessions_per_desktop,
                "address": settings.sessions_per_address,
            },
        )
        self.streams = Held(
            "streams",
            {
                "user": settings.streams_per_user,
                "chat": settings.streams_per_chat,
                "address": settings.streams_per_address,
            },
        )
        self.chats_at_work = Held(
            "chats_at_work",
            {"user": settings.chats_at_work_per_user, EVERYBODY: settings.chats_at_work},
        )
        self.requests_at_once = Held(
            "requests_at_once", {"user": settings.requests_at_once_per_user}
        )
        self.requests = Rates(
            "requests_per_s",
            {
                "user": settings.requests_per_s_per_user,
                "address": settings.requests_per_s_per_address,
            },
            settings.requests_burst_s,
        )
        self.log_ins = Guesses("failed_log_ins")
        self.links = Guesses("failed_links")

    def refused(self, over: OverBudget) -> None:
        """Counts a refusal, and tells of it in the log."""
        self._count(over.budget)
        now = trio.current_time()
        told_at = self._told.get((over.budget, over.key))
        if told_at is None or now - told_at >= TELL_EVERY_S:
            self._told.put((over.budget, over.key), now)
            whose = "everybody" if over.for_all else over.key
            _log.warning("budget %s is used up by %s", over.budget, whose)
