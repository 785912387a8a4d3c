"""The computer tool when things go wrong, and where another implementation of it does."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from relay.computer import TOOLSET, Computer, Settings
from tests.labs.noting_desktop import (
    ALL_VERSIONS,
    CONTROL,
    EFFECTS,
    LATEST,
    MOVE,
    POINT,
    FakeDesktop,
    act,
    batch,
    click,
    done,
    error,
)


class _Counter:
    """Does something at the n-th thing that is done to a desktop."""

    def __init__(self, number: int, what: Any) -> None:
        self.left = number
        self.what = what

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.what()


# A desktop that changes under the model's hands.


@pytest.mark.parametrize("version", ALL_VERSIONS)
async def test_coordinates_are_refused_when_the_desktop_was_resized(
    version: str, autojump_clock: Any
) -> None:
    desktop = FakeDesktop(1280, 800)
    computer = Computer(desktop, version)
    await act(computer, "screenshot")
    desktop.resize(1024, 768)
    for action, given in (
        ("mouse_move", POINT),
        ("left_click_drag", POINT),
        ("cursor_position", {}),
    ):
        text = error(await act(computer, action, **given))
        assert "resized from 1280x800 to 1024x768" in text
        assert "Take a screenshot" in text
    assert desktop.input() == []
    await act(computer, "screenshot")
    assert not (await act(computer, "mouse_move", **POINT))["is_error"]
    assert desktop.pointer == (10, 20)


@pytest.mark.parametrize(
    ("action", "given"),
    [
        ("left_click", POINT),
        ("left_click_drag", POINT),
        ("cursor_position", {}),
        ("zoom", {"region": [0, 0, 9, 9]}),
    ],
)
async def test_a_resize_is_looked_for_before_an_action(
    action: str, given: dict[str, Any], autojump_clock: Any
) -> None:
    """A desktop tells its size only in the answer to a request, and the model thinks for long."""
    desktop = FakeDesktop(1280, 800)
    computer = Computer(desktop)
    await act(computer, "screenshot")
    desktop.resize_unseen(1024, 768)
    assert "resized from 1280x800 to 1024x768" in error(await act(computer, action, **given))
    assert desktop.input() == []


async def test_a_batch_has_its_coordinates_from_before_it(autojump_clock: Any) -> None:
    desktop = FakeDesktop(1280, 800)
    computer = Computer(desktop)
    computer.definition(desktop.width, desktop.height)
    desktop.resize(1024, 768)
    first, second = await computer.run_batch(batch(("screenshot", {}), ("mouse_move", POINT)))
    assert not first["is_error"]
    assert "resized" in error(second)
    (third,) = await computer.run_batch(batch(("mouse_move", POINT)))
    assert not third["is_error"]


async def test_a_resize_while_the_screen_is_read_for_a_zoom() -> None:
    desktop = FakeDesktop(1280, 800)
    desktop.before = lambda: desktop.resize(1024, 768)
    text = error(await act(Computer(desktop, LATEST), "zoom", region=[1200, 700, 1280, 800]))
    assert "resized" in text


async def test_a_resize_in_the_middle_of_a_drag(autojump_clock: Any) -> None:
    desktop = FakeDesktop(1280, 800)
    # When it has the button down.
    desktop.before = _Counter(4, lambda: desktop.resize(640, 480))
    given = {"start_coordinate": [10, 10], "coordinate": [1270, 790]}
    text = error(await act(Computer(desktop), "left_click_drag", **given))
    assert "resized from 1280x800 to 640x480" in text
    assert "Take a screenshot" in text
    assert desktop.held == set()


@pytest.mark.parametrize("version", [LATEST, TOOLSET])
@pytest.mark.parametrize(("action", "given", "effect"), EFFECTS)
async def test_a_desktop_that_is_gone(
    version: str,
    action: str,
    given: dict[str, Any],
    effect: list[tuple[Any, ...]],
    autojump_clock: Any,
) -> None:
    desktop = FakeDesktop()
    desktop.gone = True
    result = await act(Computer(desktop, version), action, **given)
    text = error(result)
    assert text.startswith("The desktop failed: the desktop closed the connection. ")
    assert "stop and report it" in text


@pytest.mark.parametrize("version", [LATEST, TOOLSET])
@pytest.mark.parametrize(
    ("action", "given"),
    [("wait", {"duration": 300}), ("hold_key", {"text": "ctrl", "duration": 300})],
)
@pytest.mark.parametrize("dies_after_s", [0.0, 2.7, 298.9])
async def test_a_desktop_that_dies_meanwhile_is_not_waited_for(
    version: str, action: str, given: dict[str, Any], dies_after_s: float, autojump_clock: Any
) -> None:
    desktop = FakeDesktop()

    async def die() -> None:
        await trio.sleep(dies_after_s)
        desktop.gone = True

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(die)
        text = error(await act(Computer(desktop, version), action, **given))
    assert text.startswith("The desktop failed: the desktop closed the connection. ")
    assert trio.current_time() - began <= dies_after_s + 1


async def test_bugs_are_not_results() -> None:
    desktop = FakeDesktop()

    def bug() -> None:
        raise ZeroDivisionError

    desktop.before = bug
    with pytest.raises(ZeroDivisionError):
        await act(Computer(desktop, LATEST), "left_click", text="ctrl")
    assert desktop.held == set()


# Nothing stays down.


PRESSING: list[tuple[str, dict[str, Any]]] = [
    ("left_click", {"text": "ctrl+shift"}),
    ("triple_click", POINT),
    ("left_click_drag", {**POINT, "text": "alt"}),
    ("scroll", {"scroll_direction": "up", "scroll_amount": 3, "text": "ctrl"}),
    ("key", {"text": "ctrl+shift+Tab", "repeat": 2}),
    ("hold_key", {"text": "ctrl+a", "duration": 1}),
    ("left_mouse_down", {}),
]


@pytest.mark.parametrize("version", [LATEST, TOOLSET])
@pytest.mark.parametrize(("action", "given"), PRESSING)
@pytest.mark.parametrize("how", ["cancel", "gone for a moment", "bug"])
async def test_wherever_an_action_ends_nothing_stays_down(
    version: str, action: str, given: dict[str, Any], how: str, autojump_clock: Any
) -> None:
    for number in range(1, 100):
        desktop = FakeDesktop()
        broken = False
        with trio.CancelScope() as scope:

            def fail(desktop: FakeDesktop = desktop, scope: trio.CancelScope = scope) -> None:
                nonlocal broken
                broken = True
                if how == "cancel":
                    scope.cancel()
                elif how == "bug":
                    raise ZeroDivisionError
                else:
                    desktop.fails_once = True

            desktop.before = _Counter(number, fail)
            try:
                await act(Computer(desktop, version), action, **given)
            except ZeroDivisionError:
                assert how == "bug"
        if not broken:
            break
        assert desktop.held == set()
        assert scope.cancelled_caught is (how == "cancel")
    assert 3 < number < 99


async def test_letting_go_has_a_deadline(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    desktop.stuck = True
    computer = Computer(desktop, LATEST, Settings(release_timeout_s=3))
    with trio.move_on_after(1):
        await act(computer, "hold_key", text="ctrl", duration=60)
    assert trio.current_time() - desktop.at[0] == pytest.approx(1 + 3)


async def test_at_the_end_and_at_hand_over_everything_is_up(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    async with Computer(desktop, LATEST) as computer:
        await act(computer, "left_mouse_down")
        await computer.release()
        assert desktop.held == set()
        await act(computer, "left_mouse_down")
        assert desktop.held
    assert desktop.held == set()
    with trio.CancelScope() as scope:
        async with Computer(desktop, LATEST) as computer:
            await act(computer, "left_mouse_down")
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert desktop.held == set()


async def test_text_that_nobody_pastes(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    desktop.takes_pastes = False
    result = await act(Computer(desktop), "type", text="\N{OHM SIGN}")
    assert error(result).startswith("No program asked for the characters that this keyboard lacks")


async def test_letting_go_of_a_desktop_that_is_gone_is_no_error() -> None:
    desktop = FakeDesktop()
    desktop.gone = True
    await Computer(desktop).release()


# What the other implementation that we know gets wrong.


@pytest.mark.parametrize("version", [LATEST, TOOLSET])
@pytest.mark.parametrize("duration", [2, 0.25, 1.5, 0])
@pytest.mark.parametrize("action", ["wait", "hold_key"])
async def test_durations_are_seconds_and_may_be_fractions(
    version: str, duration: float, action: str, autojump_clock: Any
) -> None:
    desktop = FakeDesktop()
    given = {"text": "shift"} if action == "hold_key" else {}
    before = trio.current_time()
    result = await act(Computer(desktop, version), action, duration=duration, **given)
    assert not result["is_error"]
    # The screenshot begins to wait for quiet.
    assert desktop.at[desktop.done.index(("settled", 0.08, 2.0))] - before == pytest.approx(
        duration
    )
    if given:
        assert desktop.at[1] - desktop.at[0] == pytest.approx(duration)


@pytest.mark.parametrize("version", [LATEST, TOOLSET])
@pytest.mark.parametrize(
    "action", ["left_click", "mouse_move", "left_click_drag", "scroll", "double_click"]
)
async def test_the_origin_is_a_coordinate(version: str, action: str, autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    desktop.pointer = (500, 500)
    given: dict[str, Any] = {"coordinate": [0, 0]}
    if action == "scroll":
        given |= {"scroll_direction": "up", "scroll_amount": 1}
    if action == "left_click_drag":
        given |= {"start_coordinate": [0, 0]}
    await done(action, version=version, desktop=desktop, **given)
    assert desktop.input()[0] == ("move", 0, 0)
    assert desktop.pointer == (0, 0)


async def test_a_click_without_a_coordinate_is_where_the_pointer_is(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    desktop.pointer = (500, 500)
    await done("left_click", desktop=desktop)
    assert desktop.input() == click(1)
    assert desktop.pointer == (500, 500)


@pytest.mark.parametrize("action", ["left_click", "scroll", "left_click_drag"])
async def test_modifiers_are_held_while_it_happens(action: str, autojump_clock: Any) -> None:
    given: dict[str, Any] = {"coordinate": [5, 5], "text": "ctrl"}
    if action == "scroll":
        given |= {"scroll_direction": "up", "scroll_amount": 2}
    desktop = await done(action, **given)
    buttons = [n for n, what in enumerate(desktop.done) if what[0].startswith("button")]
    assert desktop.done.index(("key down", CONTROL)) < buttons[0]
    assert desktop.done.index(("key up", CONTROL)) > buttons[-1]


@pytest.mark.parametrize("version", [LATEST, TOOLSET])
async def test_to_scroll_by_nothing_does_nothing(version: str, autojump_clock: Any) -> None:
    given: dict[str, Any] = {"scroll_direction": "down", "scroll_amount": 0, **POINT}
    desktop = await done("scroll", version=version, **given)
    assert desktop.input() == [MOVE]


@pytest.mark.parametrize("amount", [1, 7, 100])
async def test_the_wheel_turns_by_clicks(amount: int, autojump_clock: Any) -> None:
    given: dict[str, Any] = {"scroll_direction": "down", "scroll_amount": amount}
    desktop = await done("scroll", **given)
    assert desktop.input() == click(5, amount)
    text = error(await act(Computer(desktop), "scroll", **{**given, "scroll_amount": 400}))
    assert "wheel clicks, not pixels" in text


async def test_a_key_that_is_held_comes_up_when_it_is_cancelled(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    with trio.move_on_after(1) as scope:
        await act(Computer(desktop), "hold_key", text="ctrl+a", duration=60)
    assert scope.cancelled_caught
    assert desktop.at[0] + 1 == pytest.approx(trio.current_time())
    assert desktop.held == set()


@pytest.mark.parametrize("text", ["-", "--help", "-3", "-- -x", "$(reboot)", "'", '"; ls'])
async def test_text_is_typed_whatever_it_looks_like(text: str, autojump_clock: Any) -> None:
    desktop = await done("type", text=text)
    assert desktop.input() == [("type", text)]


async def test_a_negative_amount_is_an_error_and_no_option(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    given = {"scroll_direction": "down", "scroll_amount": -3}
    assert "from 0 to 100" in error(await act(Computer(desktop), "scroll", **given))
    assert desktop.done == []


@pytest.mark.parametrize("version", [LATEST, TOOLSET])
async def test_a_screenshot_after_an_action_waits_until_the_screen_has_settled(
    version: str, autojump_clock: Any
) -> None:
    desktop = FakeDesktop()
    computer = Computer(desktop, version)
    if version == TOOLSET:
        await computer.run_batch(batch(("left_click", {}), ("screenshot", {})))
    else:
        await computer.run({"action": "left_click"})
    assert desktop.done[-2:] == [("settled", 0.08, 2.0), ("screenshot",)]
    assert desktop.at[-1] - desktop.at[-2] == pytest.approx(0.08)
