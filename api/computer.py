"""The computer tool on a connection of its own to a desktop that may end and come back: an agent's
in a chat, or an MCP client's."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import trio

from relay.computer.versions import NOT_EXECUTED, TOOLSET
from relay.desktops import Desktops
from relay.limits import Limits

if TYPE_CHECKING:
    from relay.client import Desktop
    from relay.computer import Computer, Settings

__all__ = ["VOID", "OwnComputer", "result_of"]

VOID: Final = (
    "The connection to the desktop was lost and is new, so earlier screenshots are void. "
    "Take a screenshot, then act by what it shows."
)

# What may be done before the model has seen the desktop that came after one that was lost.
_BLIND: Final = ("screenshot", "wait")

Block = dict[str, Any]


class OwnComputer:
    """Coordinates are those of its owner's newest screenshot. Calls wait for each other.

    Needs the extra `client` once it is connected.
    """

    def __init__(
        self,
        desktops: Desktops,
        limits: Limits,
        version: str = TOOLSET,
        settings: Settings | None = None,
    ) -> None:
        self._desktops = desktops
        self._settings = settings
        self._limits = limits
        self._version = version
        self._connecting = trio.Lock()
        self._open = AsyncExitStack()
        # Kept when the desktop has gone: a request needs the tool all the same.
        self._own: tuple[Desktop, Computer] | None = None
        # The desktop is another than the one whose screenshots the model has seen.
        self._void = False

    @property
    def connected(self) -> bool:
        return self._own is not None and not self._own[0].gone

    async def connect(self, key: Hashable, spec: str, owner: str = "") -> None:
        """Connects to the desktop of `key`, which is `owner`'s, where that has not been done or the
        connection was lost. Raises DesktopError."""
        # NumPy and Pillow, which a server without agents need not have.
        from relay.client import connect
        from relay.computer import Computer

        async with self._connecting:
            if self.connected:
                return
            await self._open.aclose()
            desktop = await self._desktops.reach(
                key,
                spec,
                lambda running: self._open.enter_async_context(
                    connect(running, limits=self._limits)
                ),
                owner,
            )
            self._void = self._own is not None
            self._own = desktop, Computer(desktop, self._version, self._settings)

    def definition(self) -> Block | None:
        """The tool, for a request; None where there has been no connection yet."""
        if self._own is None:
            return None
        desktop, computer = self._own
        return computer.definition(desktop.width, desktop.height)

    def _action(self, call: Block) -> object:
        if self._version == TOOLSET:
            return call["name"]
        # What a model gives as input need not be an object; the tool tells it so.
        return call["input"].get("action") if isinstance(call["input"], dict) else None

    async def run(self, calls: Sequence[Block]) -> list[Block]:
        """One result for each of a turn's calls; behind a connection. What goes wrong, a desktop
        that has gone too, is a result with `is_error`."""
        assert self._own is not None
        desktop, computer = self._own
        actions = [self._action(call) for call in calls]
        known = len(calls)
        if self._void:
            known = next((n for n, action in enumerate(actions) if action not in _BLIND), known)
        done = calls[:known]
        try:
            results = await computer.run_batch(done)
        finally:
            if desktop.gone:
                # Cut in the middle of a message, nothing more can be said on it, and keys go up
                # when it closes.
                await desktop.aclose()
        failed = any(result["is_error"] for result in results)
        for call in calls[known:]:
            results.append(result_of(call, NOT_EXECUTED if failed else VOID, is_error=True))
            failed = True
        # The model sees it with this turn's results, so what is behind it in the turn is too early.
        seen = zip(actions, results, strict=True)
        if any(action == "screenshot" and not result["is_error"] for action, result in seen):
            self._void = False
        return results

    async def release(self) -> None:
        """Lets go of every key and button."""
        if self._own is not None:
            await self._own[1].release()

    async def aclose(self) -> None:
        """Lets go of every key and button, and of the desktop. Never raises."""
        await self._open.aclose()


def result_of(call: Block, text: str, *, is_error: bool = False) -> Block:
    """A tool_result block of nothing but text, for a tool_use block."""
    result = {
        "type": "tool_result",
        "tool_use_id": call["id"],
        "is_error": is_error,
        "content": [{"type": "text", "text": text}],
    }
    # A member of a toolset that there is not wants its name in the result all the same.
    return result | ({"toolset_name": call["toolset_name"]} if "toolset_name" in call else {})
