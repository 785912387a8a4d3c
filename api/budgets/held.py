"""How many there are of something that begins and ends, by whose they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager

from api.budgets.over import OverBudget

__all__ = ["Held", "Place"]

Place = tuple[str, Hashable]
"""A scope, and which one of its kind: ("user", an id). None is nobody's, and not counted."""


class Held:
    """Counts of `what`, against the limits of each scope. Taking and releasing are synchronous, so
    that no count is ever over its limit."""

    def __init__(self, what: str, limits: Mapping[str, int]) -> None:
        self._what = what
        self._limits = limits
        self._counts: Counter[Place] = Counter()

    def count(self, place: Place) -> int:
        """How many of that place there are now."""
        return self._counts[place]

    def take(self, *places: Place) -> None:
        """One more in each of those places, or in none. Raises OverBudget."""
        for place in places:
            scope, key = place
            if key is not None and self._counts[place] >= self._limits[scope]:
                raise OverBudget(self._what, scope, key, self._limits[scope])
        for place in places:
            if place[1] is not None:
                self._counts[place] += 1

    @contextmanager
    def place(self, *places: Place) -> Iterator[None]:
        """One more in each of those places while the block runs. Raises OverBudget."""
        self.take(*places)
        try:
            yield
        finally:
            self.release(*places)

    def release(self, *places: Place) -> None:
        """One fewer, of what `take` has taken."""
        for place in places:
            if place[1] is None:
                continue
            if self._counts[place] == 1:
                del self._counts[place]
            else:
                self._counts[place] -= 1
