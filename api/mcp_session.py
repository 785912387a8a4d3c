"""What one MCP client has of the desktop: a connection and a computer tool of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import trio

from relay.client import RGBX, Desktop, encodings_for
from relay.computer import Computer, Result, Settings
from relay.desktops import Desktops
from relay.errors import DesktopError
from relay.limits import Limits

__all__ = ["ComputerSession"]

KEY: Final = "mcp"
"""Of the one desktop that all clients of this process use."""

# What may be done before the model has seen the desktop that came after one that was lost.
_BLIND: Final = frozenset({"screenshot", "wait"})

_VOID: Final = (
    "The connection to the desktop was lost and is new, so earlier screenshots are void. "
    "Take a screenshot, then act by what it shows"
)


def _failure(text: str) -> Result:
    return {"is_error": True, "content": [{"type": "text", "text": text}]}


class ComputerSession:
    """Opened by its first call, and opened anew after the desktop was lost.

    Coordinates are those of this client's newest screenshot. Calls wait for each other.
    """

    def __init__(
        self, desktops: Desktops, spec: str, limits: Limits, settings: Settings | None = None
    ) -> None:
        self._desktops = desktops
        self._spec = spec
        self._limits = limits
        self._settings = settings
        self._opening = trio.Lock()
        self._open: tuple[Desktop, Computer] | None = None
        self._void = False

    async def call(self, name: str, given: Mapping[str, Any]) -> Result:
        """One action, with a screenshot behind it if it may have changed the screen. What goes
        wrong, a desktop that cannot be reached too, is a result with `is_error`."""
        try:
            async with self._opening:
                desktop, computer = self._open = self._open or await self._connect()
        except DesktopError as error:
            return _failure(f"The desktop cannot be reached: {error}")
        if self._void and name not in _BLIND:
            return _failure(_VOID)
        try:
            (result,) = await computer.run_batch([{"id": "", "name": name, "input": given}])
        finally:
            if desktop.gone:
                # Cut in the middle of a message, nothing more can be said on it, and keys go up
                # when it closes.
                await self._close(desktop)
        if name == "screenshot" and not result["is_error"]:
            self._void = False
        return result

    async def _connect(self) -> tuple[Desktop, Computer]:
        # By way of `Desktops`, which starts one again that has ended.
        end = await self._desktops.open(KEY, self._spec, self._limits)
        address = (await self._desktops.get(KEY, self._spec)).address
        desktop = Desktop(end, RGBX, encodings_for(address), self._limits)
        try:
            await desktop.sync()
        except BaseException:
            await desktop.aclose()
            raise
        return desktop, Computer(desktop, settings=self._settings)

    async def _close(self, desktop: Desktop) -> None:
        if self._open is not None and self._open[0] is desktop:
            self._open = None
            self._void = True
        await desktop.aclose()

    async def release(self) -> None:
        """Lets go of every key and button."""
        if self._open is not None:
            await self._open[1].release()

    async def aclose(self) -> None:
        """Lets go of every key and button, and of the desktop. Never raises."""
        if self._open is not None:
            await self._close(self._open[0])
