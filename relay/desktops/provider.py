"""What every provider has in common: the protocol, and what it says of a running desktop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import trio

from relay.dial import Address
from relay.login import PasswordSource


@dataclass(frozen=True, slots=True)
class RunningDesktop:
    """Where a desktop answers, and how to log in to it.

    `environment` is what a program needs to draw on it (DISPLAY and XAUTHORITY); empty where
    this machine does not know. `ended` is set as soon as the desktop is known to have ended by
    itself, which is before its provider has cleaned up after it.
    """

    address: Address
    password: PasswordSource | None = field(default=None, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)
    ended: trio.Event = field(default_factory=trio.Event, compare=False, repr=False)


class Provider(Protocol):
    """Runs one desktop, once."""

    @property
    def name(self) -> str:
        """A word for logs, such as "xvnc"."""

    async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
        """Starts the desktop and stays with it: run it with `nursery.start`.

        Reports the desktop as started when it can be logged in to, returns when it has ended by
        itself, and on cancellation stops everything that it started. Raises DesktopError before
        it has reported the desktop as started, and nothing after that.
        """
