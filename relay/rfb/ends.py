"""EndOfContinuousUpdates: which are due, and what holds from each on (community specification,
EnableContinuousUpdates and EndOfContinuousUpdates).

A desktop sends one to announce that it can do it, and one for each time that it is told to stop.
"""

from __future__ import annotations

from relay.rfb.errors import Violation
from relay.rfb.pixel_format import PixelFormat

ENDS_LIMIT = 256
"""EndOfContinuousUpdates that may be due at a time: a viewer's switching off costs memory until the
desktop has answered it."""


class End:
    """One that is due: the format that holds from it on, and whether the relay asked for it, not
    the viewer."""

    __slots__ = ("ours", "pixel_format")

    def __init__(self, pixel_format: PixelFormat | None, *, ours: bool) -> None:
        self.pixel_format = pixel_format
        self.ours = ours


class Ends:
    """`due` are those that the desktop owes, in order; `enables` counts the
    EnableContinuousUpdates that went up to it."""

    __slots__ = ("_seen", "due", "enables")

    def __init__(self) -> None:
        self.due: list[End] = []
        self.enables = 0
        self._seen = 0

    @property
    def last_format(self) -> PixelFormat | None:
        """What holds when all have come; None where none of them brings a format."""
        coming = [due.pixel_format for due in self.due if due.pixel_format is not None]
        return coming[-1] if coming else None

    def check_room(self, more: int) -> None:
        """Raises Violation where so many more would be too many."""
        if len(self.due) + more > ENDS_LIMIT:
            raise Violation("continuous-updates-flood", f"{ENDS_LIMIT} ends are due already")

    def come(self) -> End | None:
        """One has come: which of those that were due, or None where none was. Raises Violation."""
        # The first one announces that the desktop can do it.
        self._seen += 1
        if self._seen > self.enables + 1:
            raise Violation("continuous-updates-end", "one more end than there can be")
        return self.due.pop(0) if self.due else None
