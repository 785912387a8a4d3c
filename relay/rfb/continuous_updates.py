"""Continuous updates (community specification, EnableContinuousUpdates): whether they are on, and
which of their ends are due.

Each EnableContinuousUpdates that switches them off is answered by an EndOfContinuousUpdates, in
order, so an end is a byte that both sides know.
"""

from __future__ import annotations

import struct

from relay.rfb.area import Area
from relay.rfb.errors import Violation
from relay.rfb.pixel_format import PixelFormat
from relay.rfb.state import State

_enable = struct.Struct(">BBHHHH").pack

ENDS_LIMIT = 256
"""EndOfContinuousUpdates that may be due at a time: a viewer's switching off costs memory until the
desktop has answered it."""


class End:
    """An EndOfContinuousUpdates that is due: the format that holds from it on, and whether the
    relay asked for it, not the viewer."""

    __slots__ = ("ours", "pixel_format")

    def __init__(self, pixel_format: PixelFormat | None, *, ours: bool) -> None:
        self.pixel_format = pixel_format
        self.ours = ours


class ContinuousUpdates:
    """`on` says whether the viewer has them on, and `paused` whether the desktop has been told to
    stop them all the same, until the viewer is not behind any more. `ends` are those that are due,
    the next one first.
    """

    __slots__ = ("_area", "_enables", "_ends_seen", "_held", "ends", "on", "paused")

    def __init__(self) -> None:
        self.on = False
        self.paused = False
        self.ends: list[End] = []
        self._area: Area = (0, 0, 0, 0)
        self._held: tuple[tuple[bool, Area], ...] = ()
        self._enables = 0
        self._ends_seen = 0

    def enable(self, on: bool, area: Area) -> None:
        """An EnableContinuousUpdates of the viewer's goes up. Raises Violation."""
        self._enables += 1
        self.on = on
        self.paused = False
        if on:
            self._area = area
        else:
            self._expect_end(None, ours=False)

    def hold(self, on: bool, area: Area) -> None:
        """One that does not go up before `release`. Raises Violation."""
        if not on:
            # Each is answered by an end, which the viewer waits for; and the format that they wait
            # for may bring another.
            self._check_room(2)
        elif self._held and self._held[-1][0]:
            self._held = self._held[:-1]
        self._held += ((on, area),)

    def release(self) -> tuple[tuple[bool, Area], ...]:
        """Those that were held; `enable` is to be called for each."""
        held, self._held = self._held, ()
        return held

    def toggle(self, wanted: PixelFormat, between: bytes) -> bytes:
        """While they are on: off, the messages `between`, and on again. `wanted` holds from the end
        that answers the first. Raises Violation."""
        self._expect_end(wanted, ours=True)
        self._enables += 2
        self.paused = False
        return enable_message(False, self._area) + between + enable_message(True, self._area)

    def pause(self, behind: bool, state: State) -> bytes:
        """Stops them while the viewer is behind, or has them go on: the desktop's socket would fill
        with them. Not again before the end of the last stop has come."""
        if behind:
            if self.ends:
                return b""
            self._expect_end(None, ours=True)
        self.paused = behind
        self._enables += 1
        return enable_message(not behind, state.crop(*self._area))

    def end(self) -> End | None:
        """An EndOfContinuousUpdates has come; None is one that announces that the desktop can do
        them. Raises Violation."""
        # There may be one more than were asked for: the first announces that the desktop can.
        self._ends_seen += 1
        if self._ends_seen > self._enables + 1:
            raise Violation("continuous-updates-end", "one more end than there can be")
        return self.ends.pop(0) if self.ends else None

    @property
    def coming_format(self) -> PixelFormat | None:
        """The last of the formats that hold from an end on."""
        coming = [end.pixel_format for end in self.ends if end.pixel_format is not None]
        return coming[-1] if coming else None

    def _expect_end(self, pixel_format: PixelFormat | None, *, ours: bool) -> None:
        self._check_room(1)
        self.ends.append(End(pixel_format, ours=ours))

    def _check_room(self, ends: int) -> None:
        held = sum(not on for on, _ in self._held)
        if len(self.ends) + held + ends > ENDS_LIMIT:
            raise Violation("continuous-updates-flood", f"{ENDS_LIMIT} ends are due already")


def enable_message(on: bool, area: Area) -> bytes:
    """An EnableContinuousUpdates."""
    return _enable(150, on, *area)
