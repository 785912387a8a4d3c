"""Token buckets, and tables that anybody can write into."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from api.budgets import OverBudget
from api.budgets.rates import Rates
from api.budgets.recent import Recent

USER = ("user", "alice")


async def test_a_bucket_is_filled_again_as_fast_as_its_rate(autojump_clock: MockClock) -> None:
    rates = Rates("requests_per_s", {"user": 2}, burst_s=3)
    for _ in range(6):
        rates.take(USER)
    for left_s in (0.4, 0.2, 0.1):
        with pytest.raises(OverBudget) as over:
            rates.take(USER)
        assert over.value.retry_after_s == 1
        assert over.value.detail == "One user has 2 a second at the most."
        await trio.sleep(0.1 if left_s > 0.1 else 0.31)
    rates.take(USER)
    with pytest.raises(OverBudget):
        rates.take(USER)
    rates.take(("user", "bob"))
    await trio.sleep(60)
    for _ in range(6):
        rates.take(USER)
    with pytest.raises(OverBudget):
        rates.take(USER)


async def test_a_rate_below_one_a_second_lets_one_through(autojump_clock: MockClock) -> None:
    rates = Rates("requests_per_s", {"user": 0.1}, burst_s=1)
    rates.take(USER)
    with pytest.raises(OverBudget) as over:
        rates.take(USER)
    assert over.value.retry_after_s == 10
    await trio.sleep(10)
    rates.take(USER)


async def test_nobody_is_not_bounded(autojump_clock: MockClock) -> None:
    rates = Rates("requests_per_s", {"address": 1}, burst_s=1)
    for _ in range(10):
        rates.take(("address", None))


def test_a_table_keeps_the_newest() -> None:
    table: Recent[int] = Recent(2)
    for key in "abac":
        table.put(key, 1)
    assert [key for key in "abc" if table.get(key)] == ["a", "c"]
    assert len(table) == 2
