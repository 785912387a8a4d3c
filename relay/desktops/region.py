"""Rectangles in pixels, and the bounded set of them that an update still has to send."""

from __future__ import annotations

from typing import NamedTuple

RECTANGLES_MAX = 16
"""Rectangles in one region; beyond that their bounding box costs less than the bookkeeping."""


class Rect(NamedTuple):
    """`x`, `y` is the corner at the top left; the rectangle ends before `right` and `bottom`."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    def intersect(self, other: Rect) -> Rect | None:
        return _between(
            max(self.x, other.x),
            max(self.y, other.y),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def bound(self, other: Rect) -> Rect:
        """The smallest rectangle around both."""
        x, y = min(self.x, other.x), min(self.y, other.y)
        return Rect(x, y, max(self.right, other.right) - x, max(self.bottom, other.bottom) - y)

    def without(self, cut: Rect) -> list[Rect]:
        """What is left when `cut`, a rectangle inside this one, is taken away."""
        pieces = (
            _between(self.x, self.y, self.right, cut.y),
            _between(self.x, cut.y, cut.x, cut.bottom),
            _between(cut.right, cut.y, self.right, cut.bottom),
            _between(self.x, cut.bottom, self.right, self.bottom),
        )
        return [piece for piece in pieces if piece is not None]


def _between(x: int, y: int, right: int, bottom: int) -> Rect | None:
    return Rect(x, y, right - x, bottom - y) if right > x and bottom > y else None


class Region:
    """At most RECTANGLES_MAX rectangles that do not overlap."""

    def __init__(self) -> None:
        self._rects: list[Rect] = []

    def add(self, rect: Rect) -> None:
        self.take(rect)
        self._rects.append(rect)
        if len(self._rects) > RECTANGLES_MAX:
            box = rect
            for other in self._rects:
                box = box.bound(other)
            self._rects = [box]

    def take(self, window: Rect) -> list[Rect]:
        """Removes what lies inside `window`, and returns it."""
        taken, kept = [], []
        for rect in self._rects:
            inside = rect.intersect(window)
            if inside is None:
                kept.append(rect)
            else:
                taken.append(inside)
                kept += rect.without(inside)
        self._rects = kept
        return taken

    def clear(self) -> None:
        self._rects.clear()
