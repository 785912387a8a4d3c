"""A desktop that notes what is done to it and shows a still picture, for the computer tool."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray
from PIL import Image

from relay import DesktopError
from relay.computer import TOOLSET, Computer, Result, Settings

Array = NDArray[np.uint8]

LATEST = "computer_20251124"

# X11's keysymdef.h.
SHIFT, CONTROL, ALT, SUPER = 0xFFE1, 0xFFE3, 0xFFE9, 0xFFEB
RETURN, TAB = 0xFF0D, 0xFF09

ALL_VERSIONS = ("computer_20241022", "computer_20250124", "computer_20251124", TOOLSET)


@lru_cache
def picture(width: int, height: int) -> Array:
    """No pixel is like its neighbours. Not to be written to."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x % 256, y % 256, (x // 256 + 16 * (y // 256)) % 256, np.full_like(x, 255)]
    pixels = np.stack(channels, axis=-1).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


class FakeDesktop:
    name = "fake"

    def __init__(self, width: int = 1280, height: int = 800) -> None:
        self.pixels = picture(width, height)
        self.pointer: tuple[int, int] | None = (0, 0)
        self.done: list[tuple[Any, ...]] = []
        """What was done, in order; `at` only has when."""
        self.at: list[float] = []
        self.held: set[tuple[str, int]] = set()
        self.gone = False
        self.fails_once = False
        self.stuck = False
        self.settles = True
        self.takes_pastes = True
        self.resized: Array | None = None
        self.before: Callable[[], None] = lambda: None
        """Called at the start of everything but `release_all`."""

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    def resize(self, width: int, height: int) -> None:
        """It is told at once."""
        self.pixels = picture(width, height)

    def resize_unseen(self, width: int, height: int) -> None:
        """It is told to who asks, as real desktops do."""
        self.resized = picture(width, height)

    async def _note(self, *what: Any) -> None:
        self.before()
        await trio.lowlevel.checkpoint()
        if self.gone or self.fails_once:
            self.fails_once = False
            raise DesktopError("the desktop closed the connection")
        self.done.append(what)
        self.at.append(trio.current_time())

    async def picture(self, *, cursor: bool = False) -> Array:
        await self._note("screenshot")
        assert cursor
        await self.read_size()
        return self.pixels.copy()

    async def move(self, x: int, y: int) -> None:
        if not (0 <= x < self.width and 0 <= y < self.height):
            raise ValueError(f"({x}, {y}) is not on the desktop")
        await self._note("move", x, y)
        self.pointer = (x, y)

    async def button_down(self, button: int) -> None:
        # What was cancelled may have reached the desktop all the same.
        self.held.add(("button", button))
        await self._note("button down", button)

    async def button_up(self, button: int) -> None:
        await self._note("button up", button)
        self.held.discard(("button", button))

    async def key_down(self, keysym: int) -> None:
        self.held.add(("key", keysym))
        await self._note("key down", keysym)

    async def key_up(self, keysym: int) -> None:
        await self._note("key up", keysym)
        self.held.discard(("key", keysym))

    async def type(self, text: str) -> bool:
        await self._note("type", text)
        return self.takes_pastes

    async def read_size(self) -> tuple[int, int]:
        await self.sync()
        self.pixels = self.resized if self.resized is not None else self.pixels
        return self.width, self.height

    async def sync(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise DesktopError("the desktop closed the connection")

    async def settled(self, *, quiet_s: float, limit_s: float) -> bool:
        await self._note("settled", quiet_s, limit_s)
        await trio.sleep(quiet_s if self.settles else limit_s)
        return self.settles

    async def release_all(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise DesktopError("the desktop closed the connection")
        if self.stuck:
            await trio.sleep_forever()
        self.held.clear()

    def input(self) -> list[tuple[Any, ...]]:
        """What was done to it, without looks."""
        return [what for what in self.done if what[0] not in ("screenshot", "settled")]


def click(button: int, times: int = 1) -> list[tuple[Any, ...]]:
    return [("button down", button), ("button up", button)] * times


def down(*keysyms: int) -> list[tuple[str, int]]:
    return [("key down", keysym) for keysym in keysyms]


def up(*keysyms: int) -> list[tuple[str, int]]:
    return [("key up", keysym) for keysym in keysyms]


POINT = {"coordinate": [10, 20]}
MOVE = ("move", 10, 20)

# Action, input, and what the desktop gets of it, after the tool's documentation.
EFFECTS: list[tuple[str, dict[str, Any], list[tuple[Any, ...]]]] = [
    ("mouse_move", POINT, [MOVE]),
    ("left_click", POINT, [MOVE, *click(1)]),
    ("right_click", POINT, [MOVE, *click(3)]),
    ("middle_click", POINT, [MOVE, *click(2)]),
    ("double_click", POINT, [MOVE, *click(1, 2)]),
    ("triple_click", POINT, [MOVE, *click(1, 3)]),
    ("left_click", {}, click(1)),
    ("triple_click", {"coordinate": None, "text": None}, click(1, 3)),
    (
        "left_click",
        {**POINT, "text": "ctrl+shift"},
        [MOVE, *down(CONTROL, SHIFT), *click(1), *up(SHIFT, CONTROL)],
    ),
    ("right_click", {"text": "alt"}, [*down(ALT), *click(3), *up(ALT)]),
    ("left_mouse_down", {}, [("button down", 1)]),
    ("left_mouse_up", {}, [("button up", 1)]),
    ("scroll", {"scroll_direction": "up", "scroll_amount": 2}, click(4, 2)),
    (
        "scroll",
        {"scroll_direction": "down", "scroll_amount": 3, **POINT},
        [MOVE, *click(5, 3)],
    ),
    ("scroll", {"scroll_direction": "left", "scroll_amount": 1}, click(6)),
    (
        "scroll",
        {"scroll_direction": "right", "scroll_amount": 1, "text": "shift"},
        [*down(SHIFT), *click(7), *up(SHIFT)],
    ),
    ("type", {"text": "Grüße\n\t☃ 😀"}, [("type", "Grüße\n\t☃ 😀")]),
    ("type", {"text": ""}, [("type", "")]),
    ("type", {"text": "x" * 10_000}, [("type", "x" * 10_000)]),
    ("key", {"text": "Return"}, [*down(RETURN), *up(RETURN)]),
    (
        "key",
        {"text": "ctrl+shift+Tab"},
        [*down(CONTROL, SHIFT, TAB), *up(TAB, SHIFT, CONTROL)],
    ),
    # Of older xdotools: several, one after the other.
    ("key", {"text": "Tab Return"}, [*down(TAB), *up(TAB), *down(RETURN), *up(RETURN)]),
    ("key", {"text": "Tab", "repeat": 3}, [*down(TAB), *up(TAB)] * 3),
    ("key", {"text": "Tab", "repeat": 100}, [*down(TAB), *up(TAB)] * 100),
    ("hold_key", {"text": "shift", "duration": 0.5}, [*down(SHIFT), *up(SHIFT)]),
    ("wait", {"duration": 1}, []),
    ("screenshot", {}, []),
    ("zoom", {"region": [0, 0, 100, 100]}, []),
    ("cursor_position", {}, []),
]


def member(name: str, given: dict[str, Any], number: int = 1) -> dict[str, Any]:
    """A tool_use block of the toolset."""
    return {
        "type": "tool_use",
        "id": f"toolu_{number}",
        "name": name,
        "toolset_name": "computer",
        "input": given,
    }


def batch(*calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [member(name, given, number) for number, (name, given) in enumerate(calls, 1)]


async def act(computer: Computer, action: str, **given: Any) -> Result:
    """One action by whichever front end the version has."""
    if computer.version.name == TOOLSET:
        (result,) = await computer.run_batch([member(action, given)])
        return result
    return await computer.run({"action": action, **given})


async def done(
    action: str,
    *,
    version: str = "computer_20251124",
    desktop: FakeDesktop | None = None,
    settings: Settings | None = None,
    **given: Any,
) -> FakeDesktop:
    """The desktop after an action that went well."""
    desktop = desktop or FakeDesktop()
    result = await act(Computer(desktop, version, settings), action, **given)
    assert not result["is_error"], result
    assert not desktop.held or action == "left_mouse_down"
    return desktop


def texts(result: Result) -> list[str]:
    return [block["text"] for block in result["content"] if block["type"] == "text"]


def error(result: Result) -> str:
    assert result["is_error"]
    (text,) = texts(result)
    assert len(result["content"]) == 1
    assert len(text) < 600
    return text


def images(result: Result) -> list[Array]:
    """(height, width, 3) RGB, decoded by Pillow."""
    found = []
    for block in result["content"]:
        if block["type"] == "image":
            source = block["source"]
            assert (source["type"], source["media_type"]) == ("base64", "image/png")
            png = base64.b64decode(source["data"], validate=True)
            found.append(np.asarray(Image.open(io.BytesIO(png), formats=["PNG"])))
    return found
