"""What one session may take before the others have their turn (docs/decisions/0005-fairness.md)."""

from __future__ import annotations

import math

UP_SLICE_S = 0.0002
"""Of what a viewer says, and one read too much. Time, not bytes: a message of one byte costs as
much as one of 64 KiB."""

DOWN_SLICE_S = 0.00002
"""Of what a desktop sends, and one read too much. A busy desktop has one after the other, and who
comes meanwhile waits for its end; ones of 0.2 ms were no cheaper."""

UP_READ_BYTES = 1_024
"""A read is not judged in parts: 64 KiB of a viewer's pointer events take 20 ms. noVNC hardly ever
sends more than this at once."""

DOWN_READ_LEAST_BYTES = 256
"""A desktop's reads shrink to this while they are full and take long to judge, and grow again:
4 KiB of bells take 11 ms. Also the least that the clock is asked about."""

FREE_SLICES = 100
"""The longest clipboard text took nine, and machines differ."""

FREE_AGAIN_S = 10.0

REST_S = 0.5
"""So long a peer that floods is not read, for each slice: others notice nothing of it in 99 of
100 round trips."""


class Allowance:
    """Of slices that a peer may use up without a rest: `FREE_SLICES` in `FREE_AGAIN_S`. Who
    always has more to say than a slice holds, floods; but not a desktop that shows something."""

    __slots__ = ("_left", "_since_s")

    def __init__(self) -> None:
        self._since_s = -math.inf
        self._left = 0

    def spend(self, now_s: float) -> bool:
        """Takes one; false where none is left."""
        if now_s - self._since_s > FREE_AGAIN_S:
            self._since_s = now_s
            self._left = FREE_SLICES
        if not self._left:
            return False
        self._left -= 1
        return True
