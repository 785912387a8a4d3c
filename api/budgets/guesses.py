"""Who fails to log in, and is made to wait.

Of one address ten failures a minute are answered as what they are. After that none of its tokens is
looked at for a minute; if it then fails again, for two, and so on to a quarter of an hour, until it
was quiet for as long. But a token that was good from that address just now goes on being looked at:
one person's old cookie, or one who guesses, does not lock out the office that shares the address.
It has to be the same token, of which nothing is left to guess.

Failures are counted for each token's id too, wherever they come from. That makes further failures
be told to wait; a good token is let in all the same, if its address is. Otherwise whoever knows an
id, which is no secret, could lock its owner out by guessing; and 131 random bits are not guessed.

Attempts that are under way at once are all looked at, but no more than ten are told that they have
failed: the others are told to wait.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import trio

from api.budgets.held import Place
from api.budgets.over import OverBudget
from api.budgets.recent import Recent

__all__ = ["FAILURES_LIMIT", "Guesses"]

FAILURES_LIMIT: Final = 10
WINDOW_S: Final = 60.0

FIRST_WAIT_S: Final = 60.0
LONGEST_WAIT_S: Final = 900.0
"""And who was quiet for so long begins anew."""

PLACES: Final = 10_000
"""Those whose failures are known, and as many tokens that were good."""


@dataclass(slots=True)
class _Failures:
    since: float
    last: float
    count: int = 0
    wait_s: float = 0.0
    until: float = 0.0


class Guesses:
    """Failed log-ins (`what` in the budgets' names), by address and by token's id."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._failures: Recent[_Failures] = Recent(PLACES)
        self._good: Recent[bool] = Recent(PLACES)

    def check(self, address: str | None, token: str = "") -> None:
        """Before a token, or a code, is looked at. Raises OverBudget."""
        place = ("address", address)
        failures = self._failures.get(place)
        if failures is None or trio.current_time() >= failures.until:
            return
        if self._good.get(_credential(address, token)) is None:
            raise self._over(place, failures)

    def succeeded(self, address: str | None, token: str) -> None:
        """It was good."""
        self._good.put(_credential(address, token), True)

    def failed(self, address: str | None, token: str = "", token_id: str | None = None) -> None:
        """It was not. Raises OverBudget where that is not to be told any more."""
        self._good.drop(_credential(address, token))
        waiting = [
            self._over(place, failures)
            for place in (("address", address), ("token", token_id))
            if place[1] is not None and (failures := self._count(place)) is not None
        ]
        if waiting:
            raise waiting[0]

    def _count(self, place: Place) -> _Failures | None:
        """One more failure; the place's, if it had to wait already."""
        now = trio.current_time()
        failures = self._failures.get(place)
        if failures is None or now - max(failures.last, failures.until) >= LONGEST_WAIT_S:
            failures = _Failures(now, now)
        self._failures.put(place, failures)
        failures.last = now
        if now < failures.until:
            return failures
        if not failures.wait_s:
            if now - failures.since >= WINDOW_S:
                failures.since, failures.count = now, 0
            failures.count += 1
            if failures.count < FAILURES_LIMIT:
                return None
        failures.wait_s = min(max(FIRST_WAIT_S, 2 * failures.wait_s), LONGEST_WAIT_S)
        failures.until = now + failures.wait_s
        return None

    def _over(self, place: Place, failures: _Failures) -> OverBudget:
        left_s = failures.until - trio.current_time()
        return OverBudget(self._what, *place, FAILURES_LIMIT, left_s)


def _credential(address: str | None, token: str) -> tuple[str | None, bytes]:
    return address, hashlib.sha256(token.encode(errors="replace")).digest()
