"""Actions on a workspace's desktop, one by one: bodies, what is done, answers, refusals."""

from __future__ import annotations

import base64
import io
import itertools
import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from PIL import Image
from trio.testing import MockClock

from api.http.errors import ApiError
from api.workspace.actions import Actor, parse
from tests.labs.noting_desktop import ALT, CONTROL, RETURN, SHIFT, TAB, FakeDesktop, click, down, up

WIDTH, HEIGHT = 1280, 800


class Lab:
    """An actor, and the desktops that it was connected to."""

    def __init__(self, *screens: FakeDesktop) -> None:
        self.screens = list(screens) or [FakeDesktop(WIDTH, HEIGHT)]
        self.connections = 0
        self.open = 0
        self.actor = Actor(self._connect)

    @property
    def screen(self) -> FakeDesktop:
        return self.screens[max(self.connections, 1) - 1]

    def _connect(self) -> AbstractAsyncContextManager[FakeDesktop]:
        return _Connection(self)

    async def do(self, action: str, **given: Any) -> dict[str, Any]:
        body = json.dumps({"action": action, **given})
        return await self.actor.run(parse(body.encode()))


class _Connection(AbstractAsyncContextManager[FakeDesktop]):
    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def __aenter__(self) -> FakeDesktop:
        self._lab.connections += 1
        self._lab.open += 1
        return self._lab.screen

    async def __aexit__(self, *_exc: object) -> None:
        self._lab.open -= 1


POINT = {"coordinate": [10, 20]}
MOVE = ("move", 10, 20)
DRAG = {"start_coordinate": [0, 0], "coordinate": [40, 80]}
DRAGGED = [
    ("move", 0, 0),
    ("button down", 1),
    *(("move", 36 * step // 8, 76 * step // 8) for step in range(1, 9)),
    *(("move", 36 + step, 76 + step) for step in range(1, 5)),
    ("button up", 1),
]

EFFECTS: list[tuple[str, dict[str, Any], list[tuple[Any, ...]]]] = [
    ("mouse_move", POINT, [MOVE]),
    ("mouse_move", {"coordinate": [0, 0]}, [("move", 0, 0)]),
    # Outside: taken to the nearest edge.
    ("mouse_move", {"coordinate": [-5, 5000]}, [("move", 0, HEIGHT - 1)]),
    # Fractions are rounded.
    ("mouse_move", {"coordinate": [9.5, 20.4]}, [MOVE]),
    # ((c + 0.5) * to / from) - 0.5, rounded.
    (
        "mouse_move",
        {"coordinate": [100, 100], "scaled_width": 640, "scaled_height": 400},
        [("move", 201, 201)],
    ),
    ("mouse_move", {**POINT, "scaled_width": 0, "scaled_height": -1}, [MOVE]),
    ("mouse_move", {"coordinate": [10, 20], "scaled_width": 640}, [("move", 21, 20)]),
    ("left_click", POINT, [MOVE, *click(1)]),
    ("left_click", {"coordinate": [0, 0]}, [("move", 0, 0), *click(1)]),
    ("right_click", POINT, [MOVE, *click(3)]),
    ("middle_click", POINT, [MOVE, *click(2)]),
    ("double_click", POINT, [MOVE, *click(1, 2)]),
    ("triple_click", POINT, [MOVE, *click(1, 3)]),
    # Where the pointer is.
    ("left_click", {}, click(1)),
    ("triple_click", {"coordinate": None}, click(1, 3)),
    ("left_click", {"text": "ctrl+shift"}, [*down(CONTROL, SHIFT), *click(1), *up(SHIFT, CONTROL)]),
    ("left_click_drag", DRAG, DRAGGED),
    ("left_click_drag", {**DRAG, "text": "alt"}, [DRAGGED[0], *down(ALT), *DRAGGED[1:], *up(ALT)]),
    ("left_mouse_down", {}, [("button down", 1)]),
    ("left_mouse_down", POINT, [MOVE, ("button down", 1)]),
    ("left_mouse_up", {}, [("button up", 1)]),
    ("scroll", POINT, [MOVE, *click(5, 3)]),
    ("scroll", {"scroll_direction": "up", "scroll_amount": 2}, click(4, 2)),
    ("scroll", {"scroll_direction": "left", "scroll_amount": 1.2}, click(6)),
    ("scroll", {"scroll_direction": "right", "scroll_amount": 0}, []),
    ("scroll", {"scroll_amount": 1, "text": "ctrl"}, [*down(CONTROL), *click(5), *up(CONTROL)]),
    ("type", {"text": "-v --help"}, [("type", "-v --help")]),
    ("type", {"text": "Grüße\n☃ 😀"}, [("type", "Grüße\n☃ 😀")]),
    ("type", {"text": ""}, [("type", "")]),
    ("key", {"text": "ctrl+Tab"}, [*down(CONTROL, TAB), *up(TAB, CONTROL)]),
    ("key", {"text": "Tab Return"}, [*down(TAB), *up(TAB), *down(RETURN), *up(RETURN)]),
    ("key_down", {"text": "shift"}, down(SHIFT)),
    ("key_up", {"text": "ctrl+shift"}, up(SHIFT, CONTROL)),
    ("hold_key", {"text": "shift", "duration": 500}, [*down(SHIFT), *up(SHIFT)]),
    ("wait", {"duration": 20}, []),
    # What no action knows is passed over.
    ("left_click", {**POINT, "display": 1}, [MOVE, *click(1)]),
]


@pytest.mark.parametrize(("action", "given", "done"), EFFECTS)
async def test_what_is_done(
    action: str, given: dict[str, Any], done: list[tuple[Any, ...]], autojump_clock: MockClock
) -> None:
    lab = Lab()
    assert await lab.do(action, **given) == {"output": f"{action} action performed"}
    assert lab.screens[0].done == done


@pytest.mark.parametrize(
    ("given", "seconds"),
    [({"duration": 2000}, 2.0), ({"duration": 0.5}, 0.0005), ({}, 1.0), ({"duration": 0}, 0.0)],
)
@pytest.mark.parametrize("action", ["wait", "hold_key"])
async def test_durations_are_milliseconds(
    action: str, given: dict[str, float], seconds: float, autojump_clock: MockClock
) -> None:
    lab = Lab()
    began = trio.current_time()
    await lab.do(action, text="shift", **given)
    assert trio.current_time() - began == pytest.approx(seconds)


async def test_waiting_needs_no_desktop_and_holds_nobody_up(autojump_clock: MockClock) -> None:
    lab = Lab()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.do, "wait")
        await trio.testing.wait_all_tasks_blocked()
        assert lab.connections == 0
        began = trio.current_time()
        await lab.do("key", text="Tab")
        assert trio.current_time() == began


async def test_where_the_pointer_is() -> None:
    lab = Lab()
    await lab.do("mouse_move", coordinate=[200, 100])
    assert await lab.do("cursor_position") == {"output": "x=200,y=100"}
    scaled = {"scaled_width": 640, "scaled_height": 400}
    assert await lab.do("cursor_position", **scaled) == {"output": "x=100,y=50"}


def pixels_of(answer: dict[str, Any]) -> Any:
    file = base64.b64decode(answer["screenshot_data"], validate=True)
    pixels = np.asarray(Image.open(io.BytesIO(file), formats=["PNG"]))
    assert pixels.shape[:2] == (answer["screenshot_height"], answer["screenshot_width"])
    return pixels


async def test_a_pointer_that_is_not_known() -> None:
    lab = Lab()
    lab.screen.pointer = None
    for action in ("left_click", "scroll", "left_mouse_down", "left_mouse_up"):
        with pytest.raises(ApiError) as caught:
            await lab.do(action)
        assert (caught.value.status, caught.value.message) == (
            400,
            f'Missing "coordinate" for {action} action.',
        )
    with pytest.raises(ApiError) as caught:
        await lab.do("cursor_position")
    assert (caught.value.status, caught.value.message) == (500, "Cursor position failed.")
    assert lab.screen.input() == []
    await lab.do("mouse_move", **POINT)
    await lab.do("left_click")


async def test_to_ask_for_a_pointer_that_is_not_known_lets_go_of_nothing() -> None:
    lab = Lab()
    lab.screen.pointer = None
    await lab.do("key_down", text="shift")
    with pytest.raises(ApiError, match="Cursor position failed") as caught:
        await lab.do("cursor_position")
    assert caught.value.detail == "Where the pointer is is not known yet."
    assert lab.screen.held == {("key", SHIFT)}


async def test_a_screenshot() -> None:
    lab = Lab()
    answer = await lab.do("screenshot")
    assert answer["output"] == "screenshot"
    assert (pixels_of(answer) == lab.screen.pixels[..., :3]).all()


async def test_a_screenshot_of_the_declared_size() -> None:
    answer = await Lab().do("screenshot", scaled_width=640, scaled_height=300)
    assert pixels_of(answer).shape == (300, 640, 3)


async def test_a_screenshot_waits_until_what_was_done_shows(autojump_clock: MockClock) -> None:
    lab = Lab()
    await lab.do("screenshot")
    await lab.do("left_click")
    await lab.do("screenshot")
    await lab.do("screenshot")
    names = [what[0] for what in lab.screen.done if what[0] in ("settled", "screenshot")]
    assert names == ["screenshot", "settled", "screenshot", "screenshot"]


async def test_zoom_shows_the_desktops_own_pixels() -> None:
    lab = Lab()
    region = {"region": [100, 50, 740, 450], "scaled_width": WIDTH, "scaled_height": HEIGHT}
    answer = await lab.do("zoom", **region)
    assert answer["output"] == "zoom"
    assert pixels_of(answer).shape == (800, 1280, 3)
    # In the declared space, and of the declared size.
    scaled = {"scaled_width": 640, "scaled_height": 400}
    answer = await lab.do("zoom", region=[50, 25, 370, 225], **scaled)
    assert (answer["screenshot_width"], answer["screenshot_height"]) == (640, 400)
    exact = Image.fromarray(lab.screen.pixels[50:450, 100:740, :3])
    assert (pixels_of(answer) == np.asarray(exact)).all()


async def test_zoom_stays_on_the_screen() -> None:
    lab = Lab()
    answer = await lab.do("zoom", region=[1240, -10, 1300, 40.2])
    assert (answer["screenshot_width"], answer["screenshot_height"]) == (800, 800)
    with pytest.raises(ApiError, match='Invalid "region" for zoom action') as caught:
        await lab.do("zoom", region=[1280, 0, 1300, 10])
    assert caught.value.detail == "It is outside of the screen, which is 1280x800."


# Refusals

DECODE = "Failed to decode request body."

REFUSED: list[tuple[str | bytes, str]] = [
    (b"", DECODE),
    (b"{", DECODE),
    (b"\xff", DECODE),
    (b"[" * 5_000, DECODE),
    ("[]", DECODE),
    ('{"action": 5}', DECODE),
    ('{"action": "left_click", "coordinate": 5}', DECODE),
    ('{"action": "left_click", "coordinate": [1]}', DECODE),
    ('{"action": "left_click", "coordinate": [1, 2, 3]}', DECODE),
    ('{"action": "left_click", "coordinate": [1, true]}', DECODE),
    ('{"action": "left_click", "coordinate": [1, NaN]}', DECODE),
    ('{"action": "left_click", "coordinate": [1, 1e400]}', DECODE),
    ('{"action": "left_click", "coordinate": {"x": 1, "y": 2}}', DECODE),
    ('{"action": "type", "text": ["a"]}', DECODE),
    ('{"action": "wait", "duration": "1"}', DECODE),
    # Whatever the action, as decoding is for all.
    ('{"action": "key", "text": "a", "scaled_width": "1"}', DECODE),
    ("{}", "Unknown action: "),
    ('{"action": "reboot"}', "Unknown action: reboot"),
    ('{"action": "%s"}' % ("x" * 1000), "Unknown action: " + "x" * 60),
    ('{"action": "key"}', 'Missing "text" for key action.'),
    ('{"action": "key_down"}', 'Missing "text" for key_down action.'),
    ('{"action": "key_up"}', 'Missing "text" for key_up action.'),
    ('{"action": "hold_key"}', 'Missing "text" for hold_key action.'),
    ('{"action": "type", "text": null}', 'Missing "text" for type action.'),
    ('{"action": "mouse_move"}', 'Missing "coordinate" for mouse_move action.'),
    ('{"action": "zoom"}', 'Missing "region" for zoom action.'),
    (
        '{"action": "left_click_drag", "coordinate": [1, 2]}',
        'Missing "coordinate" or "start_coordinate" for left_click_drag.',
    ),
    (
        '{"action": "left_click_drag", "start_coordinate": [1, 2]}',
        'Missing "coordinate" or "start_coordinate" for left_click_drag.',
    ),
    ('{"action": "key", "text": "Enterr"}', 'Invalid "text" for key action.'),
    ('{"action": "key", "text": ""}', 'Invalid "text" for key action.'),
    ('{"action": "type", "text": "\\u0007"}', 'Invalid "text" for type action.'),
    ('{"action": "type", "text": "%s"}' % ("x" * 10_001), 'Invalid "text" for type action.'),
    ('{"action": "left_click", "text": "a"}', 'Invalid "text" for left_click action.'),
    ('{"action": "scroll", "scroll_direction": "in"}', "Invalid scroll direction: in"),
    ('{"action": "scroll", "scroll_amount": -3}', "Invalid scroll amount: -3"),
    ('{"action": "scroll", "scroll_amount": 101}', "Invalid scroll amount: 101"),
    ('{"action": "wait", "duration": -1}', "Invalid duration: -1"),
    ('{"action": "hold_key", "text": "a", "duration": 300001}', "Invalid duration: 300001"),
    ('{"action": "zoom", "region": [5, 0, 5, 9]}', 'Invalid "region" for zoom action.'),
    (
        '{"action": "screenshot", "scaled_width": 8193}',
        'Invalid "scaled_width" for screenshot action.',
    ),
]


@pytest.mark.parametrize(("body", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(body: str | bytes, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(body if isinstance(body, bytes) else body.encode())
    assert (caught.value.status, caught.value.message) == (400, message)
    assert len(caught.value.detail or "") < 300


@pytest.mark.parametrize(
    "body",
    [
        b'{"action": "type", "text": "hunter2\\u0007"}',
        b'{"action": "type", "text": "hunter2}',
        b'{"action": "type", "text": ["hunter2"]}',
    ],
)
def test_what_was_to_be_typed_is_in_no_error(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse(body)
    assert "hunter2" not in caught.value.message + str(caught.value.detail)


FAILURES = {
    "key": "Key press failed.",
    "key_down": "Key down failed.",
    "key_up": "Key up failed.",
    "hold_key": "Key down failed.",
    "type": "Type action failed.",
    "mouse_move": "Mouse move failed.",
    "left_click": "Left click failed.",
    "right_click": "Right click failed.",
    "middle_click": "Middle click failed.",
    "double_click": "Double click failed.",
    "triple_click": "Triple click failed.",
    "left_click_drag": "Left click drag failed.",
    "left_mouse_down": "Left mouse down failed.",
    "left_mouse_up": "Left mouse up failed.",
    "scroll": "Scroll failed.",
    "screenshot": "Screenshot failed.",
    "zoom": "Zoom failed.",
}


@pytest.mark.parametrize("action", FAILURES)
async def test_a_desktop_that_fails(action: str) -> None:
    lab = Lab()
    lab.screen.fails_once = True
    given = {} if action in ("scroll", *[n for n in FAILURES if "click" in n]) else {"text": "Tab"}
    points = {"coordinate": [1, 2], "start_coordinate": [3, 4], "region": [0, 0, 9, 9]}
    with pytest.raises(ApiError) as caught:
        await lab.do(action, **given, **points)
    assert (caught.value.status, caught.value.message) == (500, FAILURES[action])
    assert caught.value.detail == "the desktop closed the connection"
    assert not lab.screen.held


async def test_text_that_nobody_pastes() -> None:
    lab = Lab()
    lab.screen.takes_pastes = False
    with pytest.raises(ApiError) as caught:
        await lab.do("type", text="\N{OHM SIGN}")
    assert (caught.value.status, caught.value.message) == (500, "Type action failed.")
    assert str(caught.value.detail).startswith("No program asked for the characters")


# The connection


async def test_one_connection_is_kept() -> None:
    lab = Lab()
    for _ in range(3):
        await lab.do("left_click")
    assert lab.connections == 1
    await lab.actor.aclose()
    assert lab.open == 0


async def test_a_desktop_that_has_ended_is_connected_to_anew() -> None:
    lab = Lab(FakeDesktop(), FakeDesktop())
    await lab.do("left_click")
    lab.screens[0].gone = True
    assert await lab.do("left_click") == {"output": "left_click action performed"}
    assert lab.connections == 2
    assert lab.open == 1
    assert lab.screens[1].done == click(1)


@pytest.mark.parametrize("action", ["hold_key", "key", "left_click", "left_click_drag", "scroll"])
async def test_cancelled_it_lets_go(action: str, autojump_clock: MockClock) -> None:
    """Wherever it is cancelled."""
    for cut in range(1, 100):
        if not await cancelled(action, cut):
            assert cut > 2
            return
    raise AssertionError("it has no end")


async def test_cancelled_while_it_holds_a_key(autojump_clock: MockClock) -> None:
    lab = Lab()
    with trio.move_on_after(0.5) as scope:
        await lab.do("hold_key", text="ctrl+shift", duration=1000)
    assert scope.cancelled_caught
    assert not lab.screen.held


async def test_a_connection_that_cannot_let_go_is_closed() -> None:
    lab = Lab(FakeDesktop(), FakeDesktop())
    await lab.do("left_mouse_down")
    lab.screen.before = lambda: setattr(lab.screens[0], "gone", True)
    with pytest.raises(ApiError, match="Key press failed"):
        await lab.do("key", text="Tab")
    assert lab.open == 0
    await lab.do("key", text="Tab")
    assert lab.connections == 2


async def cancelled(action: str, cut: int) -> bool:
    """Whether it was, in its step of that number."""
    lab, steps = Lab(), itertools.count(1)
    with trio.CancelScope() as scope:
        lab.screen.before = lambda: scope.cancel() if next(steps) == cut else None
        await lab.do(action, text="ctrl+Tab" if action == "key" else "shift", **DRAG)
    assert not lab.screen.held, f"cancelled at {cut}"
    return scope.cancelled_caught


async def test_actions_wait_for_each_other(autojump_clock: MockClock) -> None:
    lab = Lab()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.do, "left_click")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lambda: lab.do("hold_key", text="shift", duration=100))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lambda: lab.do("key", text="Tab"))
    assert lab.screen.done == [*click(1), *down(SHIFT), *up(SHIFT), *down(TAB), *up(TAB)]
