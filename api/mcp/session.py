"""What one MCP client has of the desktop: a connection and a computer tool of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from api.computer import OwnComputer
from relay.computer import Result, Settings
from relay.desktops import Desktops
from relay.errors import DesktopError
from relay.limits import Limits

__all__ = ["ComputerSession"]

KEY: Final = "mcp"
"""Of the one desktop that all clients of this process use."""


class ComputerSession(OwnComputer):
    """Opened by its first call, and opened anew after the desktop was lost."""

    def __init__(
        self, desktops: Desktops, spec: str, limits: Limits, settings: Settings | None = None
    ) -> None:
        super().__init__(desktops, limits, settings=settings)
        self._spec = spec

    async def call(self, name: str, given: Mapping[str, Any]) -> Result:
        """One action, with a screenshot behind it if it may have changed the screen. What goes
        wrong, a desktop that cannot be reached too, is a result with `is_error`."""
        try:
            await self.connect(KEY, self._spec)
        except DesktopError as error:
            text = f"The desktop cannot be reached: {error}"
            return {"is_error": True, "content": [{"type": "text", "text": text}]}
        (result,) = await self.run([{"id": "", "name": name, "input": given}])
        return result
