"""A language model's computer tool on a desktop: it looks at the screen, and uses mouse and keys.

One executor with two front ends. In the versions computer_20241022, computer_20250124 and
computer_20251124 there is one tool, and its input names the action (`Computer.run`). In
computer_toolset_20260801 each action is a member tool. The calls of a turn are one
batch in all of them (`Computer.run_batch`).

The model's coordinates are those of the newest screenshot that it had seen when it asked. They are
refused once the desktop has another size. Whatever happens in an action (an error, a cancellation),
no key and no button stays down after it, except the button of a left_mouse_down that went well.
Nothing is logged here: texts and pictures may hold secrets.

Needs NumPy and Pillow (the extra `client`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final

import trio

from relay.computer import hands
from relay.computer.desktop import Desktop
from relay.computer.geometry import Point, Region, Size, filling, fitted, mapped, mapped_region
from relay.computer.input import Refused, arguments, listed, shown
from relay.computer.pictures import Block, image
from relay.computer.versions import NOT_EXECUTED, TOOLSET, VERSIONS, Version
from relay.errors import DesktopError
from relay.rfb.pixels.canvas import Array

__all__ = ["LOOKS", "TOOLSET", "VERSIONS", "Computer", "Desktop", "Result", "Settings", "Version"]

Result = dict[str, Any]
"""A tool_result block of the Messages API."""

LOOKS: Final = frozenset({"screenshot", "zoom", "cursor_position"})
"""Actions that change nothing on the screen."""

_WITHOUT_POINTER: Final = frozenset({"screenshot", "zoom", "type", "key", "hold_key", "wait"})

APART_S: Final = 0.51
"""From the end of a click to the next press of the same button in another action, so that no
program takes the two for one double click. xterm (0.25 s) and st (0.3 s) do so wherever they are,
GTK and Qt (0.4 s) and Chromium (0.5 s) where they are close."""

BETWEEN_LIMIT_S: Final = 0.5
"""Within a batch an action waits at most so long until the screen has settled after the one before
it: what is typed at once after a click goes where the focus was (Chromium), and what follows a key
that opens a window goes to the old one."""


@dataclass(frozen=True, slots=True)
class Settings:
    quiet_s: float = 0.08
    """After an action a screenshot waits until nothing has changed for so long: five frames at
    60 Hz. Programs draw at once, or animate."""

    settle_limit_s: float = 2.0
    """And so long at most; a video never settles. The model is told then."""

    release_timeout_s: float = 2.0
    """For letting go of keys and buttons, also where everything has been cancelled."""

    disabled: frozenset[str] = frozenset()
    """Actions that the model may not use, by name."""


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


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
        self._desktop = desktop
        self._lock = trio.Lock()
        # The desktop's size in the newest picture, and in the one that the model asks by.
        self._shown: Size | None = None
        self._known: Size = (desktop.width, desktop.height)
        # Something was done since the screen was last looked at.
        self._acted = False
        self._left_is_down = False
        # When a button may be pressed again, by button.
        self._apart_at: dict[int, float] = {}
        self._handlers: Mapping[str, Callable[..., Awaitable[str | list[Block]]]] = {
            "screenshot": self._screenshot,
            "zoom": self._zoom,
            "cursor_position": self._cursor_position,
            "mouse_move": self._mouse_move,
            "left_click": partial(self._click, 1, 1),
            "right_click": partial(self._click, 3, 1),
            "middle_click": partial(self._click, 2, 1),
            "double_click": partial(self._click, 1, 2),
            "triple_click": partial(self._click, 1, 3),
            "left_click_drag": self._drag,
            "left_mouse_down": self._left_mouse_down,
            "left_mouse_up": self._left_mouse_up,
            "scroll": self._scroll,
            "type": self._type,
            "key": self._key,
            "hold_key": self._hold_key,
            "wait": self._wait,
        }

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
        self._shown = self._shown or (width, height)
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
            self._begin()
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
        return await self._act(action, given, look=True)

    async def run_batch(self, tool_uses: Sequence[Mapping[str, Any]]) -> list[Result]:
        """One result for each of the tool's tool_use blocks in a turn; those of the toolset have
        `toolset_name` "computer".

        They are done in order until one fails. If the toolset's last did not look at the screen,
        its result has a screenshot beside its text; in the older versions each has.
        """
        results: list[Result] = []
        family = {"toolset_name": "computer"} if self.version.name == TOOLSET else {}
        async with self._lock:
            self._begin()
            for number, block in enumerate(tool_uses, 1):
                if results and results[-1]["is_error"]:
                    result = _result([_text(NOT_EXECUTED)], is_error=True)
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
        return await self._act(name, given, look=look)

    async def release(self) -> None:
        """Lets go of every key and button: at the end, and before a person takes over.

        Does so although its caller is cancelled, for at most `Settings.release_timeout_s`.
        """
        self._left_is_down = False
        deadline = trio.current_time() + self.settings.release_timeout_s
        with trio.CancelScope(deadline=deadline, shield=True):
            try:
                await self._desktop.release_all()
            except DesktopError:
                # What is gone holds nothing.
                pass

    # What both have in common.

    def _begin(self) -> None:
        # Pictures taken in this turn are not what the model has its coordinates from.
        self._known = self._shown or (self._desktop.width, self._desktop.height)

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
        if self._left_is_down:
            text += ". The left mouse button was down, and has been released"
        await self.release()
        return _result([_text(text)], is_error=True)

    async def _act(self, action: str, given: object, *, look: bool) -> list[Block]:
        found = arguments(action, given)
        if action not in LOOKS:
            if self._acted:
                limit_s = min(BETWEEN_LIMIT_S, self.settings.settle_limit_s)
                await self._desktop.settled(quiet_s=self.settings.quiet_s, limit_s=limit_s)
            self._acted = True
        if action not in _WITHOUT_POINTER:
            # While the model thought, a person may have changed it, or moved the pointer.
            await self._desktop.read_size()
        outcome = await self._handlers[action](**found)
        blocks = [_text(outcome)] if isinstance(outcome, str) else outcome
        if look and self._acted:
            blocks += await self._screenshot()
        return blocks

    # Looking.

    async def _look(self) -> tuple[Array, list[Block]]:
        """What the screen shows, when it has settled, and what there is to say about it."""
        notes = []
        if self._acted:
            limit_s = self.settings.settle_limit_s
            if not await self._desktop.settled(quiet_s=self.settings.quiet_s, limit_s=limit_s):
                notes.append(_text(f"The screen was still changing after {limit_s:g} s."))
            self._acted = False
        return await self._desktop.picture(cursor=True), notes

    async def _screenshot(self) -> list[Block]:
        pixels, notes = await self._look()
        height, width, _ = pixels.shape
        picture = await image(pixels, fitted((width, height), self.version.pictures))
        self._shown = (width, height)
        return [*notes, picture]

    async def _zoom(self, region: Region) -> list[Block]:
        declared = self._declared()
        x0, y0, x1, y1 = region
        if not (x0 >= 0 and y0 >= 0 and x1 <= declared[0] and y1 <= declared[1]):
            raise Refused(
                f"region {shown(list(region))} is out of bounds: the screen is "
                f"{declared[0]}x{declared[1]}, so x is 0 to {declared[0]} and y 0 to {declared[1]}"
            )
        pixels, notes = await self._look()
        height, width, _ = pixels.shape
        self._check_size((width, height))
        x0, y0, x1, y1 = mapped_region(region, declared, (width, height))
        size = filling((x1 - x0, y1 - y0), declared)
        return [*notes, await image(pixels[y0:y1, x0:x1], size)]

    async def _cursor_position(self) -> str:
        x, y = mapped(self._pointer(), self._known, self._declared())
        return f"X={x}, Y={y}"

    # Coordinates.

    def _check_size(self, now: Size) -> None:
        if now != self._known:
            raise Refused(
                f"The desktop was resized from {self._known[0]}x{self._known[1]} to "
                f"{now[0]}x{now[1]}, so coordinates from earlier screenshots are void. "
                "Take a screenshot alone, then act by what it shows"
            )

    def _declared(self) -> Size:
        """The size of the screenshot that the model's coordinates are in."""
        self._check_size((self._desktop.width, self._desktop.height))
        return fitted(self._known, self.version.pictures)

    def _on_desktop(self, point: Point, name: str = "coordinate") -> Point:
        declared = self._declared()
        (x, y), (width, height) = point, declared
        if not (0 <= x < width and 0 <= y < height):
            raise Refused(
                f"{name} {shown(list(point))} is out of bounds: the screen is {width}x{height}, "
                f"so x is 0 to {width - 1} and y 0 to {height - 1}"
            )
        return mapped(point, declared, self._known)

    def _pointer(self) -> Point:
        # Nobody can ask a desktop. X servers put it in the middle at their start, and there the
        # first press without a coordinate is.
        return self._desktop.pointer or (self._desktop.width // 2, self._desktop.height // 2)

    # Mouse and keys.

    async def _point(self, point: Point | None, name: str = "coordinate") -> None:
        """Moves the pointer; to None: it stays where it is."""
        if point is not None:
            await self._desktop.move(*self._on_desktop(point, name))

    async def _mouse_move(self, coordinate: Point) -> str:
        if self._left_is_down:
            await self._gliding(hands.glide, self._on_desktop(coordinate))
        else:
            await self._point(coordinate)
        return "OK"

    async def _gliding(self, glide: Callable[..., Awaitable[None]], *to: Any) -> None:
        try:
            await glide(self._desktop, self._pointer(), *to)
        except ValueError:
            # A desktop that others read of too may have become smaller meanwhile.
            self._declared()
            raise

    async def _click(
        self,
        button: int,
        times: int,
        coordinate: Point | None = None,
        text: Sequence[int] = (),
    ) -> str:
        await self._point(coordinate)
        await self._apart(button)
        await hands.click(self._desktop, button, times, text)
        await self._pressed(button)
        return "OK"

    async def _apart(self, button: int) -> None:
        await trio.sleep_until(self._apart_at.get(button, -math.inf))

    async def _pressed(self, button: int) -> None:
        """After a button has gone up again."""
        # A desktop that is busy may take it much later than it was sent.
        await self._desktop.sync()
        self._apart_at[button] = trio.current_time() + APART_S
        self._left_is_down = self._left_is_down and button != 1

    async def _scroll(
        self,
        scroll_direction: str,
        scroll_amount: int,
        coordinate: Point | None = None,
        text: Sequence[int] = (),
    ) -> str:
        await self._point(coordinate)
        await hands.click(self._desktop, hands.WHEEL[scroll_direction], scroll_amount, text)
        return "OK"

    async def _drag(
        self,
        coordinate: Point,
        start_coordinate: Point | None = None,
        text: Sequence[int] = (),
    ) -> str:
        end = self._on_desktop(coordinate)
        await self._point(start_coordinate, "start_coordinate")
        await self._apart(1)
        await self._gliding(hands.drag, end, text)
        await self._pressed(1)
        return "OK"

    async def _left_mouse_down(self) -> str:
        await self._apart(1)
        self._left_is_down = True
        await self._desktop.button_down(1)
        return "OK"

    async def _left_mouse_up(self) -> str:
        await self._desktop.button_up(1)
        await self._pressed(1)
        return "OK"

    async def _type(self, text: str) -> str:
        if not await self._desktop.type(text):
            raise Refused(hands.NOT_PASTED)
        return "OK"

    async def _key(self, text: Sequence[Sequence[int]], repeat: int = 1) -> str:
        for _ in range(repeat):
            for keys in text:
                await hands.hold(self._desktop, keys)
        return "OK"

    async def _hold_key(self, text: Sequence[int], duration: float) -> str:
        await hands.hold(self._desktop, text, duration)
        return "OK"

    async def _wait(self, duration: float) -> str:
        await hands.wait(self._desktop, duration)
        return "OK"
