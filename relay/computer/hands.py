"""Mouse and keys of the computer tool, in desktop pixels.

What goes down here comes up again, unless an error or a cancellation is in the way: then it is the
caller who calls the desktop's `release_all`. All raise `relay.DesktopError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from relay.client.desktop import CLICK_PAUSE_S
from relay.computer.desktop import Desktop
from relay.computer.geometry import Point

WHEEL: Final = {"up": 4, "down": 5, "left": 6, "right": 7}

NOT_PASTED: Final = (
    "No program asked for the characters that this keyboard lacks, which are pasted. Click where "
    "text can be pasted and try again; what comes before them has been typed"
)

DRAG_MOVES: Final = 8
"""A drag is more than a jump: GTK and Qt begin one with the motion that passes a threshold, and
tell what lies below of those after it."""

ARRIVAL_PX: Final = 4
"""The last of it is moved pixel by pixel. Chromium asks a target of three motions over it whether
it takes what is dragged, and drops nothing where they were fewer."""

DRAG_PAUSE_S: Final = 0.01
"""Between the motions of a drag. A browser begins one in another process than the page's."""

ALIVE_S: Final = 0.5
"""So often a desktop is asked for a sign of life while time passes; not in the last of it, whose
end the answer of one far away would put off."""


async def _down(desktop: Desktop, keys: Sequence[int]) -> None:
    for key in keys:
        await desktop.key_down(key)


async def _up(desktop: Desktop, keys: Sequence[int]) -> None:
    for key in reversed(keys):
        await desktop.key_up(key)


async def hold(desktop: Desktop, keys: Sequence[int], duration_s: float = 0) -> None:
    """Presses keys in order, and lets go of them in the opposite one."""
    await _down(desktop, keys)
    if duration_s:
        await wait(desktop, duration_s)
    await _up(desktop, keys)


async def wait(desktop: Desktop, duration_s: float) -> None:
    """Lets time pass, as long as the desktop is there: nobody would notice its end otherwise."""
    until = trio.current_time() + duration_s
    while until - trio.current_time() > 2 * ALIVE_S:
        await trio.sleep(ALIVE_S)
        await desktop.sync()
    await trio.sleep_until(until)


async def click(desktop: Desktop, button: int, times: int, keys: Sequence[int]) -> None:
    """Where the pointer is, with `keys` held."""
    await _down(desktop, keys)
    for number in range(times):
        if number and button not in WHEEL.values():
            await desktop.sync()
            await trio.sleep(CLICK_PAUSE_S)
        await desktop.button_down(button)
        await desktop.button_up(button)
    await _up(desktop, keys)


async def glide(desktop: Desktop, start: Point, end: Point) -> None:
    """From `start`, where the pointer is, as something is dragged."""
    x, y = (
        there - max(-ARRIVAL_PX, min(there - here, ARRIVAL_PX))
        for here, there in zip(start, end, strict=True)
    )
    for begin, to, moves in ((start, (x, y), DRAG_MOVES), ((x, y), end, ARRIVAL_PX)):
        for step in range(1, moves + 1):
            await trio.sleep(DRAG_PAUSE_S)
            await desktop.move(
                begin[0] + (to[0] - begin[0]) * step // moves,
                begin[1] + (to[1] - begin[1]) * step // moves,
            )
    await trio.sleep(DRAG_PAUSE_S)


async def drag(desktop: Desktop, start: Point, end: Point, keys: Sequence[int]) -> None:
    """From `start`, where the pointer is, with the left button and `keys` held."""
    await _down(desktop, keys)
    await desktop.button_down(1)
    await glide(desktop, start, end)
    await desktop.button_up(1)
    await _up(desktop, keys)
