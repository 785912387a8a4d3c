"""How the computer tool is used: how long it waits, and what a model may not do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one `Computer`."""

    quiet_s: float = 0.08
    """After an action a screenshot waits until nothing has changed for so long: five frames at
    60 Hz. Programs draw at once, or animate."""

    settle_limit_s: float = 2.0
    """And so long at most; a video never settles. The model is told then."""

    release_timeout_s: float = 2.0
    """For letting go of keys and buttons, also where everything has been cancelled."""

    disabled: frozenset[str] = frozenset()
    """Actions that the model may not use, by name."""
