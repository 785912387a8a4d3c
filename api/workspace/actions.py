"""What is done on a workspace's desktop by `POST /api/v0/desktop/action`.

A body is checked whole before a desktop is started for it. Numbers may have fractions; a null is as
good as nothing; names that no action knows are passed over, as clients of the interface expect.
`Actor` keeps one connection to the desktop. Neither texts nor pictures are logged.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

import trio

from api.http.errors import ApiError
from relay.client.pictures import png
from relay.computer import Settings, hands
from relay.computer.desktop import Desktop
from relay.computer.geometry import Point, Region, Size, filling, mapped, mapped_region
from relay.computer.input import (
    DIRECTIONS,
    SCROLL_LIMIT,
    Check,
    Refused,
    combination,
    combinations,
    listed,
    literal,
    modifiers,
    shown,
)
from relay.errors import DesktopError
from relay.rfb.pixels.canvas import Array

__all__ = ["PICTURE", "Action", "Actor", "Desktop", "parse"]

PICTURE: Final = "screenshot_data"
"""The field of an answer that has a picture, in base64."""

DURATION_LIMIT_MS: Final = 300_000
"""Of one wait or held key: five minutes, as the computer tool has it."""

DEFAULT_DURATION_MS: Final = 1_000
DEFAULT_SCROLL: Final = 3

SCALED_LIMIT_PX: Final = 4_096
"""A side of the declared size; a screenshot is made as large. Of twice this it took 6 s and 836 MB,
and 1.3 s in which nobody was served."""

NOT_KNOWN: Final = "Where the pointer is is not known yet."

_NUMBER_LIMIT: Final = 2**31
_SHOWN_CHARS: Final = 60

_settings: Final = Settings()


# The form of a body's fields, whatever the action. Each raises Refused.


def _number(name: str, value: object) -> float:
    # Compared and not converted: NaN compares with nothing, and a huge whole number has no float.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(f"{name} must be a number, not {shown(value)}")
    if not -_NUMBER_LIMIT < value < _NUMBER_LIMIT:
        raise Refused(f"{name} is out of range: {shown(value)}")
    return value


def _whole(name: str, value: object) -> int:
    return math.floor(_number(name, value) + 0.5)


def _wholes(count: int, name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise Refused(f"{name} must be a list of {count} numbers, not {shown(value)}")
    return tuple(_whole(name, number) for number in value)


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise Refused(f"{name} must be a string")
    return value


_FORMS: Final[Mapping[str, Check]] = {
    "action": _string,
    "coordinate": partial(_wholes, 2),
    "start_coordinate": partial(_wholes, 2),
    "region": partial(_wholes, 4),
    "text": _string,
    "duration": _number,
    "scroll_amount": _whole,
    "scroll_direction": _string,
    "scaled_width": _whole,
    "scaled_height": _whole,
}


@dataclass(frozen=True, slots=True)
class Action:
    """One action, checked. `scaled` is the declared width and height, in whose pixels coordinates
    are, each None for the desktop's own. `keys` and `combos` come of `text`."""

    name: str
    scaled: tuple[int | None, int | None] = (None, None)
    coordinate: Point | None = None
    start_coordinate: Point | None = None
    region: Region | None = None
    text: str = ""
    keys: Sequence[int] = ()
    combos: Sequence[Sequence[int]] = ()
    duration_s: float = 0.0
    scroll_amount: int = 0
    scroll_direction: str = ""

    def declared(self, size: Size) -> Size:
        """The declared size, for a desktop of `size`."""
        return self.scaled[0] or size[0], self.scaled[1] or size[1]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Of action: what does it, which fields it must have, and what its `text` is."""

    run: Callable[[Desktop, Action], Awaitable[None]]
    needs: tuple[str, ...] = ()
    text: Check | None = None
    text_is: str = "keys"


def parse(body: bytes) -> Action:
    """The action that a body asks for. Raises ApiError (400)."""
    given = _decoded(body)
    name: str = given.get("action", "")
    kind = _KINDS.get(name)
    if kind is None:
        text = f"Unknown action: {name[:_SHOWN_CHARS]}"
        raise ApiError(400, text, f"There is {listed(sorted(_KINDS))}.")
    _check_needs(name, kind, given)
    read: dict[str, Any] = {
        field: given[field] for field in ("coordinate", "start_coordinate") if field in given
    }
    if kind.text is not None and "text" in given:
        try:
            read[kind.text_is] = kind.text("text", given["text"])
        except Refused as refused:
            _invalid(name, "text", str(refused))
    if name == "scroll":
        read |= _scroll(given)
    if name in ("hold_key", "wait"):
        read["duration_s"] = _duration_s(given)
    if name == "zoom":
        read["region"] = _region(given["region"])
    scaled = tuple(_scaled(name, side, given) for side in ("scaled_width", "scaled_height"))
    return Action(name, (scaled[0], scaled[1]), **read)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body, parse_constant=_no_constant)
        if not isinstance(given, dict):
            raise Refused(f"the body must be an object with an action, not {shown(given)}")
        return {
            name: check(name, given[name])
            for name, check in _FORMS.items()
            if given.get(name) is not None
        }
    except Refused as refused:
        detail = str(refused)
    except (ValueError, RecursionError):
        # Their texts may show what was to be typed.
        detail = "The body must be JSON, in UTF-8."
    raise ApiError(400, "Failed to decode request body.", detail)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _invalid(action: str, field: str, detail: str) -> NoReturn:
    raise ApiError(400, f'Invalid "{field}" for {action} action.', detail)


def _check_needs(name: str, kind: _Kind, given: Mapping[str, Any]) -> None:
    missing = [field for field in kind.needs if field not in given]
    if not missing:
        return
    if name == "left_click_drag":
        raise ApiError(400, 'Missing "coordinate" or "start_coordinate" for left_click_drag.')
    raise ApiError(400, f'Missing "{missing[0]}" for {name} action.')


def _scroll(given: Mapping[str, Any]) -> dict[str, Any]:
    direction = given.get("scroll_direction") or "down"
    if direction not in DIRECTIONS:
        text = f"Invalid scroll direction: {direction[:_SHOWN_CHARS]}"
        raise ApiError(400, text, f"One of {listed(DIRECTIONS)}.")
    amount = given.get("scroll_amount", DEFAULT_SCROLL)
    if not 0 <= amount <= SCROLL_LIMIT:
        detail = f"From 0 to {SCROLL_LIMIT} clicks of the wheel; scroll_direction says which way."
        raise ApiError(400, f"Invalid scroll amount: {amount}", detail)
    return {"scroll_direction": direction, "scroll_amount": amount}


def _duration_s(given: Mapping[str, Any]) -> float:
    duration_ms: float = given.get("duration", DEFAULT_DURATION_MS)
    if not 0 <= duration_ms <= DURATION_LIMIT_MS:
        detail = f"From 0 to {DURATION_LIMIT_MS} milliseconds."
        raise ApiError(400, f"Invalid duration: {duration_ms:g}", detail)
    return duration_ms / 1000


def _region(region: Region) -> Region:
    x0, y0, x1, y1 = region
    if x0 >= x1 or y0 >= y1:
        _invalid("zoom", "region", "It is [x0, y0, x1, y1] with x0 < x1 and y0 < y1.")
    return region


def _scaled(action: str, field: str, given: Mapping[str, Any]) -> int | None:
    side_px: int = given.get(field, 0)
    if side_px > SCALED_LIMIT_PX:
        _invalid(action, field, f"At most {SCALED_LIMIT_PX} pixels.")
    return side_px if side_px > 0 else None


# What the actions do.


def _on_desktop(desktop: Desktop, action: Action, point: Point) -> Point:
    """A point of the declared space; one outside is taken to the nearest edge."""
    size = desktop.width, desktop.height
    return mapped(point, action.declared(size), size)


async def _point(desktop: Desktop, action: Action) -> None:
    if action.coordinate is not None:
        await desktop.move(*_on_desktop(desktop, action, action.coordinate))
    elif desktop.pointer is None:
        # A press says where it is: it would be in a corner.
        text = f'Missing "coordinate" for {action.name} action.'
        raise ApiError(400, text, NOT_KNOWN)


async def _click(button: int, times: int, desktop: Desktop, action: Action) -> None:
    await _point(desktop, action)
    await hands.click(desktop, button, times, action.keys)


async def _scrolled(desktop: Desktop, action: Action) -> None:
    button = hands.WHEEL[action.scroll_direction]
    await _click(button, action.scroll_amount, desktop, action)


async def _drag(desktop: Desktop, action: Action) -> None:
    assert action.start_coordinate is not None
    assert action.coordinate is not None
    start = _on_desktop(desktop, action, action.start_coordinate)
    await desktop.move(*start)
    await hands.drag(desktop, start, _on_desktop(desktop, action, action.coordinate), action.keys)


async def _button(down: bool, desktop: Desktop, action: Action) -> None:
    await _point(desktop, action)
    await (desktop.button_down(1) if down else desktop.button_up(1))


async def _type(desktop: Desktop, action: Action) -> None:
    if not await desktop.type(action.text):
        raise DesktopError(hands.NOT_PASTED)


async def _key(desktop: Desktop, action: Action) -> None:
    for keys in action.combos:
        await hands.hold(desktop, keys)


async def _key_down(desktop: Desktop, action: Action) -> None:
    for key in action.keys:
        await desktop.key_down(key)


async def _key_up(desktop: Desktop, action: Action) -> None:
    for key in reversed(action.keys):
        await desktop.key_up(key)


async def _hold_key(desktop: Desktop, action: Action) -> None:
    await hands.hold(desktop, action.keys, action.duration_s)


async def _nothing(_desktop: Desktop, _action: Action) -> None:
    """For what has more of an answer, which is `Actor`'s."""


_TEXT, _POINT = ("text",), ("coordinate",)

_KINDS: Final[Mapping[str, _Kind]] = {
    "key": _Kind(_key, _TEXT, combinations, "combos"),
    "key_down": _Kind(_key_down, _TEXT, combination),
    "key_up": _Kind(_key_up, _TEXT, combination),
    "hold_key": _Kind(_hold_key, _TEXT, combination),
    "type": _Kind(_type, _TEXT, literal, "text"),
    "mouse_move": _Kind(_point, _POINT),
    # Without a coordinate they act where the pointer is; `text` names keys held meanwhile.
    "left_click": _Kind(partial(_click, 1, 1), text=modifiers),
    "right_click": _Kind(partial(_click, 3, 1), text=modifiers),
    "middle_click": _Kind(partial(_click, 2, 1), text=modifiers),
    "double_click": _Kind(partial(_click, 1, 2), text=modifiers),
    "triple_click": _Kind(partial(_click, 1, 3), text=modifiers),
    "scroll": _Kind(_scrolled, text=modifiers),
    "left_click_drag": _Kind(_drag, ("coordinate", "start_coordinate"), modifiers),
    "left_mouse_down": _Kind(partial(_button, True)),
    "left_mouse_up": _Kind(partial(_button, False)),
    "wait": _Kind(_nothing),
    "cursor_position": _Kind(_nothing),
    "screenshot": _Kind(_nothing),
    "zoom": _Kind(_nothing, ("region",)),
}

# Those of the others are made of their names.
_FAILURES: Final[Mapping[str, str]] = {
    "key": "Key press failed.",
    "hold_key": "Key down failed.",
    "type": "Type action failed.",
}


def _failure(name: str) -> str:
    return _FAILURES.get(name, f"{name.replace('_', ' ').capitalize()} failed.")


Answer = dict[str, Any]


class Actor:
    """Acts on one desktop, one action after another. `connect` brings a connection to it, which
    is kept until it is found gone, and raises ApiError."""

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Desktop]]) -> None:
        self._connect = connect
        self._lock = trio.Lock()
        self._desktop: Desktop | None = None
        self._open = AsyncExitStack()
        # Something was done since the screen was last looked at.
        self._acted = False

    async def run(self, action: Action) -> Answer:
        """The answer's body. Raises ApiError.

        Where it fails or is cancelled, every key and button of the connection goes up.
        """
        if action.name == "wait":
            await trio.sleep(action.duration_s)
            return {"output": "wait action performed"}
        async with self._lock:
            desktop = await self._connected()
            try:
                return await self._run(desktop, action)
            except ApiError:
                raise
            except (DesktopError, ValueError) as error:
                # A ValueError is a point of a desktop that has just become smaller.
                await self._release(desktop)
                raise ApiError(500, _failure(action.name), str(error)) from None
            except BaseException:
                await self._release(desktop)
                raise

    async def aclose(self) -> None:
        """Lets go of every key and button, and of the desktop."""
        self._desktop = None
        await self._open.aclose()

    async def _connected(self) -> Desktop:
        if self._desktop is not None:
            try:
                # Asked before something is done, so that nothing is done twice; and a coordinate is
                # one of the desktop as it is.
                await self._desktop.read_size()
                return self._desktop
            except DesktopError:
                await self.aclose()
        self._acted = False
        self._desktop = await self._open.enter_async_context(self._connect())
        return self._desktop

    async def _release(self, desktop: Desktop) -> None:
        with trio.move_on_after(_settings.release_timeout_s, shield=True):
            try:
                await desktop.release_all()
            except DesktopError:
                # A desktop whose client has gone lets go of what that held.
                await self.aclose()

    async def _run(self, desktop: Desktop, action: Action) -> Answer:
        size = desktop.width, desktop.height
        if action.name == "cursor_position":
            if desktop.pointer is None:
                raise ApiError(500, _failure(action.name), NOT_KNOWN)
            x, y = mapped(desktop.pointer, size, action.declared(size))
            return {"output": f"x={x},y={y}"}
        if action.name == "screenshot":
            pixels, size = await self._look(desktop)
            return await _picture("screenshot", pixels, action.declared(size))
        if action.name == "zoom":
            return await self._zoom(desktop, action)
        self._acted = True
        await _KINDS[action.name].run(desktop, action)
        await desktop.sync()
        return {"output": f"{action.name} action performed"}

    async def _look(self, desktop: Desktop) -> tuple[Array, Size]:
        if self._acted:
            await desktop.settled(quiet_s=_settings.quiet_s, limit_s=_settings.settle_limit_s)
            self._acted = False
        pixels = await desktop.picture(cursor=True)
        return pixels, (pixels.shape[1], pixels.shape[0])

    async def _zoom(self, desktop: Desktop, action: Action) -> Answer:
        assert action.region is not None
        pixels, size = await self._look(desktop)
        declared = action.declared(size)
        x0, y0 = (max(0, edge) for edge in action.region[:2])
        x1, y1 = (min(edge, side) for edge, side in zip(action.region[2:], declared, strict=True))
        if x0 >= x1 or y0 >= y1:
            text = f"It is outside of the screen, which is {declared[0]}x{declared[1]}."
            _invalid("zoom", "region", text)
        x0, y0, x1, y1 = mapped_region((x0, y0, x1, y1), declared, size)
        return await _picture("zoom", pixels[y0:y1, x0:x1], filling((x1 - x0, y1 - y0), declared))


async def _picture(output: str, pixels: Array, size: Size) -> Answer:
    # In a thread: it takes longer than other tasks of the process should wait.
    data = await trio.to_thread.run_sync(lambda: base64.b64encode(png(pixels, size)))
    return {
        "output": output,
        PICTURE: data.decode("ascii"),
        "screenshot_width": size[0],
        "screenshot_height": size[1],
    }
