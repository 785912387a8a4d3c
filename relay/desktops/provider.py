"""What every provider has in common: the protocol, and what it says of a running desktop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from relay.dialling.addresses import Address
from relay.dialling.login import DesktopEnd, open_desktop
from relay.dialling.passwords import PasswordSource
from relay.errors import DesktopError
from relay.limits import Limits

LOGINS_AT_ONCE = 3
"""TigerVNC's server shuts a host out that has five handshakes it did not finish, and on a unix
socket all the relay's are of one host."""


@dataclass(frozen=True, slots=True)
class RunningDesktop:
    """Where a desktop answers, and how to log in to it.

    `environment` is what a program needs to draw on it (DISPLAY and XAUTHORITY); empty where
    this machine does not know. `ended` is set as soon as the desktop is known to have ended by
    itself, which is before its provider has cleaned up after it. `doubt` is called by who could
    not log in: its provider then looks at once whether it has ended. A desktop that was not
    started here has none.
    """

    address: Address
    password: PasswordSource | None = field(default=None, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)
    ended: trio.Event = field(default_factory=trio.Event, compare=False, repr=False)
    doubt: Callable[[], object] | None = field(default=None, compare=False, repr=False)
    _logins: trio.CapacityLimiter = field(
        default_factory=partial(trio.CapacityLimiter, LOGINS_AT_ONCE), compare=False, repr=False
    )

    async def open(self, limits: Limits) -> DesktopEnd:
        """Logs in, after those who came before. Raises DesktopError."""
        wait_s = limits.dial_timeout_s + limits.handshake_timeout_s
        try:
            self._logins.acquire_nowait()
        except trio.WouldBlock:
            try:
                with trio.fail_after(wait_s):
                    await self._logins.acquire()
            except trio.TooSlowError:
                text = f"{self.address} keeps others waiting for {wait_s:g} s"
                told = text.replace(str(self.address), "the desktop")
                raise DesktopError(text, told=told) from None
        try:
            return await open_desktop(self.address, password=self.password, limits=limits)
        finally:
            self._logins.release()


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
