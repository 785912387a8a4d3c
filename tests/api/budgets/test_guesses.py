"""Who fails to log in, and is made to wait."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from api.budgets import Guesses, OverBudget
from api.budgets import guesses as module


def fail(guesses: Guesses, address: str | None = "a", token_id: str | None = None) -> int:
    """Seconds to wait, as whoever fails is told; 0 for the failure itself."""
    try:
        guesses.check(address, "wrong")
        guesses.failed(address, "wrong", token_id)
    except OverBudget as over:
        return over.retry_after_s
    return 0


async def test_the_wait_grows_while_failures_go_on(autojump_clock: MockClock) -> None:
    guesses = Guesses("failed_log_ins")
    assert [fail(guesses) for _ in range(11)] == [0] * 10 + [60]
    for wait_s in (60, 120, 240, 480, 900, 900):
        assert fail(guesses) == wait_s
        await trio.sleep(wait_s)
        assert fail(guesses) == 0
    await trio.sleep(1799)
    assert fail(guesses) == 0
    assert fail(guesses) == 900
    await trio.sleep(1800)
    assert [fail(guesses) for _ in range(11)] == [0] * 10 + [60]


async def test_a_few_failures_a_minute_are_nobodys_business(autojump_clock: MockClock) -> None:
    guesses = Guesses("failed_log_ins")
    for _ in range(100):
        assert fail(guesses) == 0
        await trio.sleep(6.7)


async def test_what_was_good_from_there_goes_on(autojump_clock: MockClock) -> None:
    guesses = Guesses("failed_log_ins")
    guesses.succeeded("a", "good")
    guesses.succeeded("b", "better")
    for _ in range(11):
        fail(guesses)
    guesses.check("a", "good")
    for address, token in (("a", "better"), ("a", "goods"), ("a", "")):
        with pytest.raises(OverBudget):
            guesses.check(address, token)
    guesses.check("b", "whatever")
    # Revoked: it is as bad as any other then.
    with pytest.raises(OverBudget):
        guesses.failed("a", "good", "id")
    with pytest.raises(OverBudget):
        guesses.check("a", "good")


async def test_an_id_that_many_guess_at_locks_nobody_out(autojump_clock: MockClock) -> None:
    guesses = Guesses("failed_log_ins")
    waits = [fail(guesses, f"address {number}", "id") for number in range(12)]
    assert waits == [0] * 10 + [60] * 2
    guesses.check("elsewhere", "id-and-secret")
    assert fail(guesses, "address 1", "another") == 0


async def test_without_an_address_only_ids_are_counted(autojump_clock: MockClock) -> None:
    guesses = Guesses("failed_log_ins")
    assert [fail(guesses, None, f"{number}") for number in range(30)] == [0] * 30
    assert [fail(guesses, None, "id") for _ in range(11)] == [0] * 10 + [60]


async def test_no_table_grows_without_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLACES", 5)
    guesses = Guesses("failed_log_ins")
    for number in range(50):
        guesses.succeeded(f"{number}", "token")
        fail(guesses, f"{number}", f"{number}")
    assert (len(guesses._failures), len(guesses._good)) == (5, 5)
