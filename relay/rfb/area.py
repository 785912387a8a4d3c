"""Areas of a framebuffer."""

from __future__ import annotations

Area = tuple[int, int, int, int]
"""x, y, width, height, in pixels."""


def contains(outer: Area, inner: Area) -> bool:
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and outer[0] + outer[2] >= inner[0] + inner[2]
        and outer[1] + outer[3] >= inner[1] + inner[3]
    )


def has_pixels(area: Area) -> bool:
    return area[2] > 0 and area[3] > 0


def union(a: Area | None, b: Area) -> Area:
    """The smallest area around both."""
    if a is None:
        return b
    x, y = min(a[0], b[0]), min(a[1], b[1])
    return x, y, max(a[0] + a[2], b[0] + b[2]) - x, max(a[1] + a[3], b[1] + b[3]) - y
