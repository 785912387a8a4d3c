"""A language model's computer tool on a desktop: it looks at the screen, and uses mouse and keys.

One executor with two front ends. In the versions computer_20241022, computer_20250124 and
computer_20251124 there is one tool, and its input names the action (`Computer.run`). In
computer_toolset_20260801 each action is a member tool. The calls of a turn are one
batch in all of them (`Computer.run_batch`).

Whatever happens in an action (an error, a cancellation), no key and no button stays down after it,
except the button of a left_mouse_down that went well. Nothing is logged here: texts and pictures
may hold secrets.

Needs NumPy and Pillow (the extra `client`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import trio

from relay.computer.actions import Actions, text_block
from relay.computer.desktop import Desktop
from relay.computer.geometry import fitted
from relay.computer.input import Refused, listed, shown
from relay.computer.pictures import Block
from relay.computer.settings import Settings
from relay.computer.versions import NOT_EXECUTED, TOOLSET, VERSIONS
from relay.errors import DesktopError

__all__ = ["Computer", "Result"]

Result = dict[str, Any]
"""A tool_result block of the Messages API."""


def _result(blocks: list[Block], *, is_error: bool = False) -> Result:
    return {"type": "tool_result", "is_error": is_error, "content": blocks}


class Computer:
    """The tool on one desktop, for one conversation with a model. Calls wait for each other.

    `async with` lets go of every key and button at the end. Raises ValueError for a version, or a
    disabled action, that there is not.
    """

    def __init__(
        self, desktop: Desktop, version: str = TOOLSET, settings: Settings | None = None
    ) -> None:
        if version not in VERSIONS:
            raise ValueError(f"version must be one of {listed(VERSIONS)}, not {version!r}")
        self.version = VERSIONS[version]
        self.settings = settings or Settings()
        unknown = self.settings.disabled.difference(self.version.actions)
        if unknown:
            raise ValueError(f"{version} has no action {listed(sorted(unknown))} to disable")
        self._actions = Actions(desktop, self.version.pictures, self.settings)
        self._lock = trio.Lock()

    async def __aenter__(self) -> Computer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.release()

    # For the model's request.

    @property
    def beta_header(self) -> str | None:
        """The value of `anthropic-beta` that the version needs."""
        return self.version.beta_header

    @property
    def actions(self) -> list[str]:
        """The names of those that the model may use."""
        return [name for name in self.version.actions if name not in self.settings.disabled]

    def definition(self, width: int, height: int) -> dict[str, Any]:
        """The entry of a request's `tools`, for a desktop of that many pixels.

        Make it anew for each request: the older versions have the size of the screenshots in it,
        and the desktop may have been resized.
        """
        self._actions.declare((width, height))
        if self.version.name == TOOLSET:
            off = {name: {"enabled": False} for name in sorted(self.settings.disabled)}
            return {"type": TOOLSET, "configs": off} if off else {"type": TOOLSET}
        declared_width, declared_height = fitted((width, height), self.version.pictures)
        entry = {
            "type": self.version.name,
            "name": "computer",
            "display_width_px": declared_width,
            "display_height_px": declared_height,
        }
        return {**entry, "enable_zoom": True} if "zoom" in self.actions else entry

    # The two front ends.

    async def run(self, tool_input: object) -> Result:
        """What a tool_use with this input does; the caller adds its `tool_use_id` to the result.

        Every action that may have changed the screen answers with a screenshot. Whatever the model
        got wrong, and a desktop that is gone, is a result with `is_error`. Raises ValueError in a
        version whose actions are member tools.
        """
        if self.version.name == TOOLSET:
            raise ValueError(f"in {TOOLSET} actions are run by run_batch")
        async with self._lock:
            self._actions.begin()
            return await self._guarded(partial(self._run, tool_input))

    async def _run(self, tool_input: object) -> list[Block]:
        if not isinstance(tool_input, Mapping):
            raise Refused(f"the input must be an object with an action, not {shown(tool_input)}")
        action = tool_input.get("action")
        choice = f"Choose one of: {listed(self.actions)}"
        if action is None:
            raise Refused(f"action is required. {choice}")
        if not isinstance(action, str) or action not in self.version.actions:
            raise Refused(f"Invalid action: {shown(action)}. {choice}")
        if action in self.settings.disabled:
            raise Refused(f"The action {action!r} is not available in this environment. {choice}")
        given = {name: value for name, value in tool_input.items() if name != "action"}
        return await self._actions.do(action, given, look=True)

    async def run_batch(self, tool_uses: Sequence[Mapping[str, Any]]) -> list[Result]:
        """One result for each of the tool's tool_use blocks in a turn; those of the toolset have
        `toolset_name` "computer".

        They are done in order until one fails. If the toolset's last did not look at the screen,
        its result has a screenshot beside its text; in the older versions each has.
        """
        results: list[Result] = []
        family = {"toolset_name": "computer"} if self.version.name == TOOLSET else {}
        async with self._lock:
            self._actions.begin()
            for number, block in enumerate(tool_uses, 1):
                if results and results[-1]["is_error"]:
                    result = _result([text_block(NOT_EXECUTED)], is_error=True)
                else:
                    result = await self._guarded(self._work(block, number == len(tool_uses)))
                results.append(result | {"tool_use_id": block["id"]} | family)
        return results

    def _work(self, block: Mapping[str, Any], last: bool) -> Callable[[], Awaitable[list[Block]]]:
        if self.version.name != TOOLSET:
            return partial(self._run, block["input"])
        return partial(self._run_member, block["name"], block["input"], look=last)

    async def _run_member(self, name: str, given: object, *, look: bool) -> list[Block]:
        choice = f"Choose one of: {listed(self.actions)}"
        if name not in self.version.actions:
            raise Refused(f"Error: unknown computer toolset member {shown(name)}. {choice}")
        if name in self.settings.disabled:
            raise Refused(
                f"The computer toolset member {name!r} is not available in this environment. "
                f"{choice}"
            )
        return await self._actions.do(name, given, look=look)

    async def release(self) -> None:
        """Lets go of every key and button: at the end, and before a person takes over.

        Does so although its caller is cancelled, for at most `Settings.release_timeout_s`.
        """
        await self._actions.release()

    # What both have in common.

    async def _guarded(self, work: Callable[[], Awaitable[list[Block]]]) -> Result:
        try:
            return _result(await work())
        except Refused as refused:
            text = str(refused)
        except DesktopError as error:
            text = (
                f"The desktop failed: {error}. Take a screenshot to see whether it is back; "
                "if that fails too, stop and report it"
            )
        except BaseException:
            await self.release()
            raise
        if self._actions.left_is_down:
            text += ". The left mouse button was down, and has been released"
        await self.release()
        return _result([text_block(text)], is_error=True)
