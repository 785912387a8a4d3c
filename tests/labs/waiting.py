"""Waits for what other processes do in their own time, in tests that are not async."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T | None], what: str, *, within_s: float = 20.0, every_s: float = 0.05
) -> T:
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(every_s)
    return answer
