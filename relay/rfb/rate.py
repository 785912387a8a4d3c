"""How often something may happen."""

from __future__ import annotations

from collections.abc import Callable


class Rate:
    """A token bucket: `per_second` on average, `burst` at once. `clock` tells seconds; without one
    there is no limit."""

    __slots__ = ("_burst", "_clock", "_left", "_per_second", "_seen")

    def __init__(self, per_second: int, burst: int, clock: Callable[[], float] | None) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._left = float(burst)
        self._seen = 0.0

    def allows(self) -> bool:
        """Whether it may happen once more; if so, it has."""
        if self._clock is None:
            return True
        now = self._clock()
        self._left = min(self._left + (now - self._seen) * self._per_second, self._burst)
        self._seen = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
