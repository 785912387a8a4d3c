"""What a model may get wrong, and what it is told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from relay.computer import VERSIONS, Computer
from relay.computer.input import PARAMETERS
from tests.labs.noting_desktop import ALL_VERSIONS, FakeDesktop, act, click, done, error

WRONG: list[tuple[str, dict[str, Any], list[str]]] = [
    # Left out.
    ("mouse_move", {}, ["coordinate is required for mouse_move"]),
    ("mouse_move", {"coordinate": None}, ["coordinate is required for mouse_move"]),
    ("left_click_drag", {"start_coordinate": [1, 1]}, ["coordinate is required"]),
    ("type", {}, ["text is required for type"]),
    ("key", {}, ["text is required for key"]),
    ("hold_key", {"text": "a"}, ["duration is required for hold_key", "text, duration"]),
    ("wait", {}, ["duration is required for wait"]),
    ("scroll", {"scroll_amount": 1}, ["scroll_direction is required for scroll"]),
    ("scroll", {"scroll_direction": "up"}, ["scroll_amount is required for scroll"]),
    ("zoom", {}, ["region is required for zoom"]),
    # Too much.
    ("screenshot", {"region": [0, 0, 1, 1]}, ["'region' is not accepted", "takes nothing"]),
    (
        "left_mouse_down",
        {"coordinate": [1, 1]},
        ["'coordinate' is not accepted", "left_mouse_down"],
    ),
    ("left_click", {"button": 1}, ["'button' is not accepted", "coordinate, text"]),
    ("left_click", {"x" * 9_999: 1}, ["is not accepted for left_click"]),
    # Points.
    *(
        ("left_click", {"coordinate": value}, ["coordinate must be [x, y]", "whole numbers"])
        for value in (
            "10, 20",
            [1],
            [1, 2, 3],
            "[10, 20]",
            [1.5, 2],
            [512.0, 512.5],
            [math.inf, 1],
            [True, 2],
            ["3", 4],
            [None, 1],
            {"x": 1, "y": 2},
            [math.nan, 1],
            [[1, 2], 3],
            5,
            ["9" * 9_999, 10**5_000],
        )
    ),
    *(
        (
            "left_click",
            {"coordinate": value},
            ["coordinate", "out of bounds", "1280x800", "x is 0 to 1279", "y 0 to 799"],
        )
        for value in ([1280, 0], [0, 800], [-1, 0], [0, -1], [10**5_000, 1], [1e300, 1])
    ),
    (
        "left_click_drag",
        {"start_coordinate": [1280, 1], "coordinate": [1, 1]},
        ["start_coordinate [1280, 1] is out of bounds"],
    ),
    ("scroll", {"scroll_direction": "up", "scroll_amount": 1, "coordinate": [0, 900]}, ["bounds"]),
    # Regions.
    *(
        ("zoom", {"region": value}, ["region must be [x0, y0, x1, y1]"])
        for value in ([1, 2, 3], [0, 0, 1.5, 2], [0, 0, True, 2], "all", [5, 5, 5, 9], [5, 9, 6, 8])
    ),
    *(
        ("zoom", {"region": value}, ["region", "out of bounds", "1280x800"])
        for value in ([-1, 0, 5, 5], [0, 0, 1281, 5], [0, 0, 5, 801], [0, -1, 5, 5])
    ),
    # Durations.
    *(
        (
            action,
            {"text": "a", "duration": value} if action == "hold_key" else {"duration": value},
            words,
        )
        for action in ("wait", "hold_key")
        for value, words in (
            (-1, ["duration must be a number of seconds, 0 or more", "-1"]),
            (-0.001, ["0 or more"]),
            (math.nan, ["0 or more", "nan"]),
            (-math.inf, ["0 or more"]),
            ("2", ["number of seconds"]),
            (True, ["number of seconds"]),
            ([2], ["number of seconds"]),
            (math.inf, ["at most"]),
            (10**5_000, ["at most"]),
            (301, ["seconds, at most", "301"]),
        )
    ),
    # Numbers.
    *(
        (
            "scroll",
            {"scroll_direction": "down", "scroll_amount": value},
            ["scroll_amount must be a whole number of wheel clicks, not pixels, from 0 to 100"],
        )
        for value in (-3, 101, 1.5, "3", True, [3], 10**5_000)
    ),
    *(
        ("scroll", {"scroll_direction": value, "scroll_amount": 1}, ["up, down, left, right"])
        for value in ("north", "UP", 4, ["up"])
    ),
    *(
        (
            "key",
            {"text": "a", "repeat": value},
            ["repeat must be a whole number of times from 1 to 100"],
        )
        for value in (0, 101, -1, True, "2", 2.5, 1e300)
    ),
    # Texts.
    *(
        (action, {"text": value, **more}, ["text must be a string"])
        for action, more in (
            ("type", {}),
            ("key", {}),
            ("hold_key", {"duration": 1}),
            ("left_click", {}),
        )
        for value in (5, True, ["a"], b"a")
    ),
    ("type", {"text": "x" * 10_001}, ["10,001 characters", "at most 10,000", "several calls"]),
    ("type", {"text": "x" * 5_000_000}, ["5,000,000 characters", "at most 10,000"]),
    ("key", {"text": "a " * 600}, ["1,200 characters", "at most 1,000"]),
    ("type", {"text": "secret\x1b[A"}, ["U+001B at position 6", "key action"]),
    ("type", {"text": "half \ud83d"}, ["U+D83D at position 5"]),
    ("key", {"text": "NoSuchKey"}, ["text: ", "NoSuchKey", "Return, Page_Down, ctrl+s"]),
    ("key", {"text": "hello world"}, ["'hello'", "Text is for the type action"]),
    ("key", {"text": "ctrl-c"}, ["'ctrl-c'", "+ between them"]),
    ("key", {"text": ""}, ["text"]),
    ("hold_key", {"text": "ctrl+NoSuchKey", "duration": 1}, ["NoSuchKey"]),
    ("left_click", {"text": "Return"}, ["must name the keys held", "shift, ctrl, alt or super"]),
    ("left_click", {"text": "ctrl+a"}, ["must name the keys held"]),
]


@pytest.mark.parametrize("version", ["computer_20251124", "computer_toolset_20260801"])
@pytest.mark.parametrize(("action", "given", "words"), WRONG)
async def test_an_error_says_what_would_be_right(
    version: str, action: str, given: dict[str, Any], words: list[str]
) -> None:
    desktop = FakeDesktop()
    text = error(await act(Computer(desktop, version), action, **given))
    for word in words:
        assert word in text
    assert "secret" not in text
    assert desktop.done == []


@pytest.mark.parametrize("given", ["left_click", None, 5, ["left_click"], [["action", "key"]]])
async def test_input_that_is_no_object(given: object) -> None:
    computer = Computer(FakeDesktop(), "computer_20251124")
    assert "must be an object" in error(await computer.run(given))
    toolset = Computer(FakeDesktop())
    (result,) = await toolset.run_batch(
        [{"type": "tool_use", "id": "toolu_1", "name": "left_click", "input": given}]
    )
    assert "the input of left_click must be an object" in error(result)


@pytest.mark.parametrize("action", ["fly", "", 5, True, ["key"], {"a": 1}, "x" * 100_000, "KEY"])
async def test_an_unknown_action_is_answered_with_the_known_ones(action: Any) -> None:
    computer = Computer(FakeDesktop(), "computer_20251124")
    text = error(await computer.run({"action": action}))
    assert text.startswith("Invalid action: ")
    assert "left_click_drag" in text


@pytest.mark.parametrize("given", [{}, {"action": None}, {"coordinate": [1, 2]}])
async def test_an_action_is_required(given: dict[str, Any]) -> None:
    text = error(await Computer(FakeDesktop(), "computer_20241022").run(given))
    assert text.startswith("action is required. Choose one of: key, type, mouse_move, ")
    # Later versions have these.
    assert "scroll" not in text


# The table in the tool's documentation.
NEWER = {"left_mouse_down", "left_mouse_up", "scroll", "hold_key", "wait", "triple_click"}


@pytest.mark.parametrize("action", sorted(NEWER | {"zoom"}))
async def test_a_version_has_its_actions_alone(action: str) -> None:
    inputs: dict[str, dict[str, Any]] = {
        "scroll": {"scroll_direction": "up", "scroll_amount": 1},
        "hold_key": {"text": "a", "duration": 0},
        "wait": {"duration": 0},
        "zoom": {"region": [0, 0, 10, 10]},
    }
    given = inputs.get(action, {})
    for version in ALL_VERSIONS:
        result = await act(Computer(FakeDesktop(), version), action, **given)
        has = version != "computer_20241022" and (
            action != "zoom" or version != "computer_20250124"
        )
        assert result["is_error"] is not has
        if not has:
            assert f"Invalid action: '{action}'" in error(result)


def test_every_action_of_a_version_has_its_parameters() -> None:
    assert {name for version in VERSIONS.values() for name in version.actions} == set(PARAMETERS)
    assert len(PARAMETERS) == 17


@pytest.mark.parametrize("version", ALL_VERSIONS[1:])
async def test_the_longest_wait(version: str, autojump_clock: Any) -> None:
    computer = Computer(FakeDesktop(), version)
    for action, given in (("wait", {}), ("hold_key", {"text": "a"})):
        assert not (await act(computer, action, duration=300, **given))["is_error"]
        text = error(await act(computer, action, duration=300.5, **given))
        assert "in seconds, at most 300 at once, not 300.5" in text


@pytest.mark.parametrize("version", ["computer_20251124", "computer_toolset_20260801"])
async def test_whole_numbers_with_a_point_in_them(version: str, autojump_clock: Any) -> None:
    """JSON has one kind of number: a schema's "integer" is 10.0 too."""
    desktop = FakeDesktop()
    computer = Computer(desktop, version)
    wheel: dict[str, Any] = {"scroll_direction": "down", "scroll_amount": 2.0}
    for action, given in (
        ("left_click", {"coordinate": [10.0, 20.0]}),
        ("scroll", wheel),
        ("key", {"text": "a", "repeat": 2.0}),
        ("zoom", {"region": [0.0, 0, 10.0, 10]}),
    ):
        assert not (await act(computer, action, **given))["is_error"]
    assert desktop.input() == [
        *(("move", 10, 20), *click(1), *click(5, 2)),
        *([("key down", 0x61), ("key up", 0x61)] * 2),
    ]


async def test_an_empty_text_holds_no_modifiers(autojump_clock: Any) -> None:
    desktop = await done("left_click", text="")
    assert desktop.input() == click(1)
