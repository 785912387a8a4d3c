"""Counts of what begins and ends."""

from __future__ import annotations

import pytest

from api.budgets import EVERYBODY, BudgetSettings, Held, OverBudget

ALL = (EVERYBODY, EVERYBODY)


def test_where_one_place_is_full_none_is_taken() -> None:
    held = Held("chats_at_work", {"user": 2, EVERYBODY: 3})
    for user in ("alice", "alice", "bob"):
        held.take(("user", user), ALL)
    with pytest.raises(OverBudget) as over:
        held.take(("user", "carol"), ALL)
    assert (over.value.budget, over.value.for_all) == ("chats_at_work", True)
    with pytest.raises(OverBudget) as over:
        held.take(("user", "alice"), ALL)
    assert (over.value.budget, over.value.key) == ("chats_at_work_per_user", "alice")
    held.release(("user", "alice"), ALL)
    held.take(("user", "alice"), ALL)
    assert (held.count(("user", "carol")), held.count(ALL)) == (0, 3)


def test_nobody_has_no_place() -> None:
    held = Held("sessions", {"address": 1})
    for _ in range(3):
        held.take(("address", None))
    held.release(("address", None))
    assert held.count(("address", None)) == 0


def test_one_user_may_have_everything_but_connections() -> None:
    usual, alone = BudgetSettings(), BudgetSettings.of_one_user()
    same = [name for name, value in usual.model_dump().items() if getattr(alone, name) == value]
    assert same == ["chats_at_work", "idle_connections_per_address", "connections_per_address"]
