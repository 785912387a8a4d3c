"""The computer tool: what each action does to a desktop, and what the model gets."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import trio

from relay.computer import TOOLSET, Computer, Settings
from relay.computer.versions import NOT_EXECUTED
from tests.labs.noting_desktop import (
    ALL_VERSIONS,
    EFFECTS,
    LATEST,
    MOVE,
    POINT,
    RETURN,
    SHIFT,
    FakeDesktop,
    act,
    batch,
    click,
    done,
    down,
    error,
    images,
    member,
    texts,
    up,
)

OLDER = ALL_VERSIONS[:3]


@pytest.mark.parametrize("version", [LATEST, TOOLSET])
@pytest.mark.parametrize(("action", "given", "effect"), EFFECTS)
async def test_actions(
    version: str,
    action: str,
    given: dict[str, Any],
    effect: list[tuple[Any, ...]],
    autojump_clock: Any,
) -> None:
    desktop = await done(action, version=version, **given)
    assert desktop.input() == effect


@pytest.mark.parametrize(("action", "times"), [("double_click", 2), ("triple_click", 3)])
async def test_the_clicks_of_a_double_click_have_different_times(
    action: str, times: int, autojump_clock: Any
) -> None:
    desktop = await done(action, coordinate=[10, 20])
    at = [when for when, what in zip(desktop.at, desktop.done, strict=True) if "down" in what[0]]
    assert len(at) == times
    for before, after in pairwise(at):
        # In milliseconds, as X counts them, and far below what makes two clicks of it.
        assert 0.005 <= after - before <= 0.1


PRESSES: list[tuple[str, dict[str, Any]]] = [
    ("left_click", {}),
    ("double_click", {}),
    ("left_click_drag", {"start_coordinate": [0, 0], "coordinate": [30, 0]}),
    ("left_mouse_down", {}),
]


@pytest.mark.parametrize(("action", "given"), PRESSES)
@pytest.mark.parametrize(("first", "before"), [*PRESSES[:3], ("left_mouse_up", {})])
async def test_presses_of_two_actions_are_no_double_click(
    first: str, before: dict[str, Any], action: str, given: dict[str, Any], autojump_clock: Any
) -> None:
    desktop = FakeDesktop()
    await Computer(desktop).run_batch(batch((first, before), (action, given)))
    # As many as the first action has.
    ups = {"double_click": 2}.get(first, 1)
    released, pressed = (
        [when for when, what in zip(desktop.at, desktop.done, strict=True) if what == (kind, 1)]
        for kind in ("button up", "button down")
    )
    # Chromium's is the longest that is known: 500 ms.
    assert pressed[0 if first == "left_mouse_up" else ups] - released[ups - 1] > 0.5


async def test_presses_wait_for_nothing_else(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    computer = Computer(desktop)
    await computer.run_batch(batch(("left_click", {}), ("right_click", {})))
    assert desktop.at[desktop.done.index(("button down", 3))] == pytest.approx(0.08)
    await trio.sleep(1)
    began = trio.current_time()
    await act(computer, "left_click", **POINT)
    assert desktop.at[-3] == began
    await act(computer, "scroll", scroll_direction="up", scroll_amount=1)
    await act(computer, "scroll", scroll_direction="up", scroll_amount=1)
    # Two screenshots of a screen that has settled.
    assert trio.current_time() - began == pytest.approx(3 * 0.08)


async def test_a_batch_does_not_wait_long_for_a_screen_that_never_settles(
    autojump_clock: Any,
) -> None:
    desktop = FakeDesktop()
    desktop.settles = False
    await Computer(desktop).run_batch(batch(("key", {"text": "a"}), ("key", {"text": "b"})))
    assert desktop.at[desktop.done.index(("key down", 0x62))] == pytest.approx(0.5)
    quick = Computer(desktop, settings=Settings(settle_limit_s=0.1))
    began = trio.current_time()
    await quick.run_batch(batch(("key", {"text": "a"}), ("key", {"text": "c"})))
    assert desktop.at[desktop.done.index(("key down", 0x63))] - began == pytest.approx(0.1)


async def test_the_wheel_turns_without_a_pause(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    await done("scroll", desktop=desktop, scroll_direction="down", scroll_amount=100)
    turns = [when for when, what in zip(desktop.at, desktop.done, strict=True) if len(what) == 2]
    assert len(turns) == 200
    assert len(set(turns)) == 1


@pytest.mark.parametrize("start", [[100, 50], None])
async def test_a_drag_moves_with_the_button_down(start: Any, autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    desktop.pointer = (100, 50)
    given = {"start_coordinate": start, "coordinate": [300, 10], "text": "shift"}
    await done("left_click_drag", desktop=desktop, **given)
    first, *rest = desktop.input()
    if start:
        assert first == ("move", 100, 50)
        first, *rest = rest
    assert [first, rest[0]] == [("key down", SHIFT), ("button down", 1)]
    assert rest[-2:] == [("button up", 1), ("key up", SHIFT)]
    moves = rest[1:-2]
    # Toolkits start a drag with one motion and find its target with the next, Chromium with the
    # third that is over it.
    assert len(moves) >= 10
    assert moves[-4:] == [("move", 300 - n, 10 + n) for n in (3, 2, 1, 0)]
    assert {kind for kind, *_ in moves} == {"move"}
    assert moves[-1] == ("move", 300, 10)
    assert moves == sorted(moves)


async def test_the_first_version_moves_and_then_clicks(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    computer = Computer(desktop, "computer_20241022")
    for given in ({"action": "mouse_move", **POINT}, {"action": "left_click"}):
        result = await computer.run(given)
        assert not result["is_error"]
    assert desktop.input() == [MOVE, *click(1)]


async def test_a_button_is_held_from_one_action_to_the_other(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    computer = Computer(desktop, LATEST)
    await act(computer, "left_mouse_down")
    await act(computer, "mouse_move", coordinate=[10, 20])
    assert desktop.held == {("button", 1)}
    await act(computer, "left_mouse_up")
    first, *moves, last = desktop.input()
    assert (first, last) == (("button down", 1), ("button up", 1))
    # As of a drag.
    assert len(moves) >= 10
    assert moves == sorted(moves)
    assert moves[-1] == MOVE
    await act(computer, "mouse_move", coordinate=[30, 40])
    assert desktop.input()[-2:] == [last, ("move", 30, 40)]


@pytest.mark.parametrize(
    ("action", "given"),
    [
        *((action, given) for action, given, effect in EFFECTS if effect[:1] == click(1)[:1]),
        ("scroll", {"scroll_direction": "up", "scroll_amount": 2}),
        ("left_click_drag", POINT),
        ("left_mouse_up", {}),
        ("cursor_position", {}),
    ],
)
async def test_where_the_pointer_is_not_known_it_is_taken_to_be_in_the_middle(
    action: str, given: dict[str, Any], autojump_clock: Any
) -> None:
    """There X servers have it at their start, as `xdotool getmouselocation` says of a new Xvnc."""
    desktop = FakeDesktop()
    desktop.pointer = None
    computer = Computer(desktop)
    result = await act(computer, action, **given)
    assert not result["is_error"]
    if action == "cursor_position":
        assert texts(result) == ["X=640, Y=400"]
        assert desktop.input() == []


@pytest.mark.parametrize("version", ALL_VERSIONS)
async def test_the_position_of_the_pointer_is_in_the_models_space(version: str) -> None:
    desktop = FakeDesktop(2858, 1608)
    desktop.pointer = (1429, 804)
    result = await act(Computer(desktop, version), "cursor_position")
    # 2858x1608 is twice 1429x804, which is what the older versions get of it; the toolset's
    # limit is 2576 px: 1429.5 * 2576 / 2858 - 0.5 = 1287.9, 804.5 * 1449 / 1608 - 0.5 = 724.4.
    expected = "X=1288, Y=724" if version == TOOLSET else "X=714, Y=402"
    assert texts(result) == [expected]
    assert images(result) == []
    assert desktop.done == []


# Batches.


async def test_a_batch_is_done_in_order(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    results = await Computer(desktop).run_batch(
        batch(
            ("left_click", POINT),
            ("type", {"text": "a"}),
            ("screenshot", {}),
            ("key", {"text": "Return"}),
            ("cursor_position", {}),
            ("zoom", {"region": [0, 0, 10, 10]}),
        )
    )
    assert [result["tool_use_id"] for result in results] == [f"toolu_{n}" for n in range(1, 7)]
    for result in results:
        assert result["type"] == "tool_result"
        assert result["toolset_name"] == "computer"
        assert not result["is_error"]
    assert [texts(result) for result in results] == [["OK"], ["OK"], [], ["OK"], ["X=10, Y=20"], []]
    assert [len(images(result)) for result in results] == [0, 0, 1, 0, 0, 1]
    between, settled = ("settled", 0.08, 0.5), ("settled", 0.08, 2.0)
    assert desktop.done == [
        *(MOVE, *click(1), between, ("type", "a"), settled, ("screenshot",)),
        *(*down(RETURN), *up(RETURN), settled, ("screenshot",)),
    ]


async def test_a_batch_that_does_not_look_is_shown_the_screen(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    results = await Computer(desktop).run_batch(batch(("left_click", {}), ("key", {"text": "a"})))
    assert [len(images(result)) for result in results] == [0, 1]
    assert texts(results[1]) == ["OK"]
    assert await Computer(desktop).run_batch([]) == []


async def test_a_batch_ends_with_its_first_failure(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    results = await Computer(desktop).run_batch(
        batch(
            ("left_click", {}),
            ("left_click", {"coordinate": [5_000, 0]}),
            ("type", {"text": "never"}),
            ("screenshot", {}),
        )
    )
    assert [result["is_error"] for result in results] == [False, True, True, True]
    assert "out of bounds" in error(results[1])
    assert NOT_EXECUTED == "Not executed: an earlier computer action in this turn failed."
    for number, result in enumerate(results[2:], 3):
        assert result == {
            "type": "tool_result",
            "tool_use_id": f"toolu_{number}",
            "toolset_name": "computer",
            "is_error": True,
            "content": [{"type": "text", "text": NOT_EXECUTED}],
        }
    assert desktop.input() == click(1)


async def test_a_batch_that_fails_lets_go_of_the_button_and_says_so(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    results = await Computer(desktop).run_batch(
        batch(("left_mouse_down", {}), ("mouse_move", {"coordinate": [-1, 0]}), ("wait", {}))
    )
    assert error(results[1]).endswith("The left mouse button was down, and has been released")
    assert desktop.held == set()


@pytest.mark.parametrize(
    ("action", "given"), [("left_mouse_up", {}), ("left_click", {}), ("left_click_drag", POINT)]
)
async def test_of_a_button_that_is_up_already_nothing_is_said(
    action: str, given: dict[str, Any], autojump_clock: Any
) -> None:
    computer = Computer(FakeDesktop(), LATEST)
    await act(computer, "left_mouse_down")
    await act(computer, action, **given)
    assert "released" not in error(await act(computer, "mouse_move"))


async def test_members_that_there_are_not() -> None:
    computer = Computer(FakeDesktop(), settings=Settings(disabled=frozenset({"zoom"})))
    (disabled,) = await computer.run_batch([member("zoom", {"region": [0, 0, 1, 1]})])
    assert error(disabled).startswith(
        "The computer toolset member 'zoom' is not available in this environment."
    )
    (unknown,) = await computer.run_batch([member("fly", {})])
    text = error(unknown)
    assert text.startswith("Error: unknown computer toolset member 'fly'")
    assert "left_click" in text
    assert "zoom" not in text
    (long,) = await computer.run_batch([member("f" * 100_000, {})])
    assert "unknown" in error(long)


async def test_a_disabled_action_of_the_older_versions() -> None:
    computer = Computer(FakeDesktop(), LATEST, Settings(disabled=frozenset({"type"})))
    text = error(await computer.run({"action": "type", "text": "a"}))
    assert text.startswith("The action 'type' is not available in this environment. Choose one of")


async def test_an_action_in_the_input_is_for_the_older_versions() -> None:
    with pytest.raises(ValueError, match="run_batch"):
        await Computer(FakeDesktop()).run({"action": "screenshot"})


@pytest.mark.parametrize("version", OLDER)
async def test_a_turn_of_the_older_versions(version: str, autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    computer = Computer(desktop, version)

    async def turn(*inputs: dict[str, Any]) -> list[Any]:
        return await computer.run_batch(
            [{"id": f"toolu_{n}", "name": "computer", "input": i} for n, i in enumerate(inputs)]
        )

    move, look = {"action": "mouse_move", **POINT}, {"action": "screenshot"}
    results = await turn(move, {"action": "fly"}, move)
    assert [result["tool_use_id"] for result in results] == ["toolu_0", "toolu_1", "toolu_2"]
    assert [result["is_error"] for result in results] == [False, True, True]
    assert "toolset_name" not in results[0]
    assert len(images(results[0])) == 1
    assert error(results[2]) == NOT_EXECUTED
    assert desktop.input() == [MOVE]
    # The model has not seen the screenshot of this turn when it asks for the move.
    desktop.resize(1024, 768)
    looked, moved = await turn(look, move)
    assert not looked["is_error"]
    assert "resized" in error(moved)
    (moved,) = await turn(move)
    assert not moved["is_error"]


async def test_calls_wait_for_each_other(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    computer = Computer(desktop, LATEST)
    hold = {"action": "hold_key", "text": "shift", "duration": 1}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(computer.run, hold)
        nursery.start_soon(computer.run, hold)
    assert desktop.input() == [*down(SHIFT), *up(SHIFT)] * 2


# The request.


def test_definitions() -> None:
    # The table in the tool's documentation; 1920x1080 is shrunk as above.
    entries = {
        version: Computer(FakeDesktop(), version).definition(1920, 1080) for version in ALL_VERSIONS
    }
    declared = {"name": "computer", "display_width_px": 1429, "display_height_px": 804}
    for version in OLDER:
        zoom = {"enable_zoom": True} if version == LATEST else {}
        assert entries[version] == {"type": version, **declared, **zoom}
    assert entries[TOOLSET] == {"type": TOOLSET}
    no_zoom = Settings(disabled=frozenset({"zoom"}))
    assert "enable_zoom" not in Computer(FakeDesktop(), LATEST, no_zoom).definition(800, 600)
    assert Computer(FakeDesktop(), TOOLSET, no_zoom).definition(800, 600) == {
        "type": TOOLSET,
        "configs": {"zoom": {"enabled": False}},
    }


def test_headers() -> None:
    headers = [Computer(FakeDesktop(), version).beta_header for version in ALL_VERSIONS]
    assert headers == [
        "computer-use-2024-10-22",
        "computer-use-2025-01-24",
        "computer-use-2025-11-24",
        None,
    ]


def test_a_version_or_action_that_there_is_not_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="computer_20241022"):
        Computer(FakeDesktop(), "computer_19990101")
    with pytest.raises(ValueError, match="has no action fly to disable"):
        Computer(FakeDesktop(), settings=Settings(disabled=frozenset({"fly", "zoom"})))
    with pytest.raises(ValueError, match="has no action zoom"):
        Computer(FakeDesktop(), "computer_20250124", Settings(disabled=frozenset({"zoom"})))


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().quiet_s = 1  # type: ignore[misc]
