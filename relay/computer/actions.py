"""The actions of the computer tool: what each does on a desktop, whichever front end calls it.

The model's coordinates are those of the newest screenshot that it had seen when it asked. They are
refused once the desktop has another size.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import trio

from relay.computer import hands
from relay.computer.desktop import Desktop
from relay.computer.geometry import (
    PictureLimits,
    Point,
    Region,
    Size,
    filling,
    fitted,
    mapped,
    mapped_region,
)
from relay.computer.input import Refused, arguments, shown
from relay.computer.pictures import Block, image
from relay.computer.settings import Settings
from relay.errors import DesktopError
from relay.rfb.pixels.canvas import Array

__all__ = ["LOOKS", "Actions", "text_block"]

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


def text_block(text: str) -> Block:
    return {"type": "text", "text": text}


class Actions:
    """The actions on one desktop, for one conversation with a model. One at a time.

    `left_is_down` says whether a left_mouse_down holds the button.
    """

    def __init__(self, desktop: Desktop, pictures: PictureLimits, settings: Settings) -> None:
        self._desktop = desktop
        self._pictures = pictures
        self._settings = settings
        # The desktop's size in the newest picture, and in the one that the model asks by.
        self._shown: Size | None = None
        self._known: Size = (desktop.width, desktop.height)
        # Something was done since the screen was last looked at.
        self._acted = False
        self.left_is_down = False
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

    def declare(self, size: Size) -> None:
        """The model is told of a desktop of that size."""
        self._shown = self._shown or size

    def begin(self) -> None:
        """A turn of the model's: it has seen what was shown before."""
        # Pictures taken in this turn are not what the model has its coordinates from.
        self._known = self._shown or (self._desktop.width, self._desktop.height)

    async def do(self, action: str, given: object, *, look: bool) -> list[Block]:
        """An action with what was given for it; with `look` a screenshot behind it, where it may
        have changed the screen. Raises Refused, DesktopError."""
        found = arguments(action, given)
        if action not in LOOKS:
            if self._acted:
                limit_s = min(BETWEEN_LIMIT_S, self._settings.settle_limit_s)
                await self._desktop.settled(quiet_s=self._settings.quiet_s, limit_s=limit_s)
            self._acted = True
        if action not in _WITHOUT_POINTER:
            # While the model thought, a person may have changed it, or moved the pointer.
            await self._desktop.read_size()
        outcome = await self._handlers[action](**found)
        blocks = [text_block(outcome)] if isinstance(outcome, str) else outcome
        if look and self._acted:
            blocks += await self._screenshot()
        return blocks

    async def release(self) -> None:
        """Lets go of every key and button.

        Does so although its caller is cancelled, for at most `Settings.release_timeout_s`.
        """
        self.left_is_down = False
        deadline = trio.current_time() + self._settings.release_timeout_s
        with trio.CancelScope(deadline=deadline, shield=True):
            try:
                await self._desktop.release_all()
            except DesktopError:
                # What is gone holds nothing.
                pass

    # Looking.

    async def _look(self) -> tuple[Array, list[Block]]:
        """What the screen shows, when it has settled, and what there is to say about it."""
        notes = []
        if self._acted:
            limit_s = self._settings.settle_limit_s
            if not await self._desktop.settled(quiet_s=self._settings.quiet_s, limit_s=limit_s):
                notes.append(text_block(f"The screen was still changing after {limit_s:g} s."))
            self._acted = False
        return await self._desktop.picture(cursor=True), notes

    async def _screenshot(self) -> list[Block]:
        pixels, notes = await self._look()
        height, width, _ = pixels.shape
        picture = await image(pixels, fitted((width, height), self._pictures))
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
        return fitted(self._known, self._pictures)

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
        if self.left_is_down:
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
        self.left_is_down = self.left_is_down and button != 1

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
        self.left_is_down = True
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
