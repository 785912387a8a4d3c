"""How often something is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from api.budgets.held import Place
from api.budgets.over import OverBudget
from api.budgets.recent import Recent

__all__ = ["Rates"]

PLACES: Final = 10_000
"""Those of whom it is known what they have done lately. Who is forgotten has a full bucket again,
which nearly all have anyway."""


class Rates:
    """A token bucket for each place, kept as the one moment at which it is full again.
    `rates_per_s` is by scope; a bucket holds `burst_s` seconds' worth, one at the least."""

    def __init__(self, what: str, rates_per_s: Mapping[str, float], burst_s: float) -> None:
        self._what = what
        self._rates_per_s = rates_per_s
        self._burst_s = burst_s
        self._full_at: Recent[float] = Recent(PLACES)

    def take(self, place: Place) -> None:
        """One token out of the place's bucket. Raises OverBudget."""
        scope, key = place
        if key is None:
            return
        rate_per_s = self._rates_per_s[scope]
        now, each_s = trio.current_time(), 1 / rate_per_s
        full_at = max(self._full_at.get(place) or now, now) + each_s
        late_s = full_at - now - max(self._burst_s, each_s)
        if late_s > 1e-9:
            raise OverBudget(self._what, scope, key, rate_per_s, late_s)
        self._full_at.put(place, full_at)
