"""One desktop per key, started on first use and shared.

Each desktop is one task in the nursery that `Desktops` was given; that nursery's owner ends
them all by cancelling it. The task owns a nursery with the provider's run in it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

import trio

from relay.desktops.provider import Provider, RunningDesktop
from relay.dialling.login import DesktopEnd
from relay.errors import DesktopError
from relay.limits import Limits

T = TypeVar("T")

logger = logging.getLogger("relay.desktops")

NOTICE_S = 1.0
"""For a provider to notice that its desktop has ended. A closed port shows in milliseconds."""


class _Desktop:
    """One start of one desktop: `settled` when it runs or has failed, `ended` when it is gone."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.settled = trio.Event()
        self.ended = trio.Event()
        self.running: RunningDesktop | None = None
        self.failure = DesktopError("the desktop was stopped while it started")


class Desktops:
    """The running desktops. `make_provider` turns a spec and the desktop's owner into a provider,
    or raises ValueError."""

    def __init__(
        self, nursery: trio.Nursery, make_provider: Callable[[str, str], Provider]
    ) -> None:
        self._nursery = nursery
        self._make_provider = make_provider
        self._desktops: dict[Hashable, _Desktop] = {}

    async def get(self, key: Hashable, spec: str, owner: str = "") -> RunningDesktop:
        """The running desktop of `key`, started with `spec` for `owner` where none runs yet.

        Callers at the same time share one start, and the start goes on when one of them is
        cancelled. A failed start is told to all who wait for it, and tried again by the next
        call; so is a desktop that has ended. Raises DesktopError, and ValueError for a wrong
        spec. The spec of a desktop that runs already is not compared.
        """
        desktop = self._desktops.get(key)
        if desktop is None or (desktop.running and desktop.running.ended.is_set()):
            provider = self._make_provider(spec, owner)
            desktop = self._desktops[key] = _Desktop()
            self._nursery.start_soon(self._run, key, desktop, provider)
        if not desktop.settled.is_set():
            await desktop.settled.wait()
        if desktop.running is None:
            raise DesktopError(str(desktop.failure), told=desktop.failure.told)
        return desktop.running

    async def open(self, key: Hashable, spec: str, limits: Limits, owner: str = "") -> DesktopEnd:
        """The desktop of `key`, logged in to; one that has just ended is started again.

        Raises DesktopError, and ValueError for a wrong spec.
        """
        return await self.reach(key, spec, lambda running: running.open(limits), owner)

    async def reach(
        self,
        key: Hashable,
        spec: str,
        way: Callable[[RunningDesktop], Awaitable[T]],
        owner: str = "",
    ) -> T:
        """What `way` makes of the desktop of `key`. Where it raises DesktopError because the
        desktop has just ended, that is started again, and the way is gone once more.

        Raises DesktopError, and ValueError for a wrong spec.
        """
        running = await self.get(key, spec, owner)
        try:
            return await way(running)
        except DesktopError:
            if running.doubt is None:
                raise
            running.doubt()
            with trio.move_on_after(NOTICE_S):
                await running.ended.wait()
            if not running.ended.is_set():
                raise
        running = await self.get(key, spec, owner)
        return await way(running)

    async def stop(self, key: Hashable) -> None:
        """Stops the desktop of `key` and returns when it is gone. Nothing to do is no error."""
        desktop = self._desktops.get(key)
        if desktop is not None:
            self._forget(key, desktop)
            desktop.scope.cancel()
            await desktop.ended.wait()

    async def _run(self, key: Hashable, desktop: _Desktop, provider: Provider) -> None:
        try:
            with desktop.scope:
                async with trio.open_nursery() as nursery:
                    try:
                        desktop.running = await nursery.start(provider.run)
                    except DesktopError as error:
                        desktop.failure = error
                        self._forget(key, desktop)
                    desktop.settled.set()
        except* Exception:
            # No process, no descriptor, a full disk, or a bug: one desktop is not worth the others.
            logger.exception("the provider of a %s desktop failed", provider.name)
            text = "the desktop failed in the relay, whose log has the cause"
            desktop.failure = DesktopError(text, told=text)
            if desktop.running is not None:
                desktop.running.ended.set()
                desktop.running = None
        finally:
            self._forget(key, desktop)
            desktop.settled.set()
            desktop.ended.set()

    def _forget(self, key: Hashable, desktop: _Desktop) -> None:
        # After stop() the key may already belong to a newer start.
        if self._desktops.get(key) is desktop:
            del self._desktops[key]
