"""The computer tool: what the model sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio
from PIL import Image

from relay.computer import TOOLSET, Computer, Settings
from tests.labs.noting_desktop import (
    ALL_VERSIONS,
    LATEST,
    POINT,
    FakeDesktop,
    act,
    done,
    error,
    images,
    texts,
)

OLDER = ALL_VERSIONS[:3]


@pytest.mark.parametrize("version", ALL_VERSIONS)
async def test_a_screenshot_shows_the_desktop_pixel_for_pixel(version: str) -> None:
    desktop = FakeDesktop()
    result = await act(Computer(desktop, version), "screenshot")
    (image,) = images(result)
    assert np.array_equal(image, desktop.pixels[..., :3])
    assert texts(result) == []


@pytest.mark.parametrize(
    ("version", "size"), [(LATEST, (1429, 804)), (TOOLSET, (2576, 1449))], ids=["older", "toolset"]
)
async def test_a_large_desktop_is_shrunk_and_coordinates_follow(
    version: str, size: tuple[int, int], autojump_clock: Any
) -> None:
    desktop = FakeDesktop(3840, 2160)
    computer = Computer(desktop, version)
    (image,) = images(await act(computer, "screenshot"))
    width, height = size
    assert image.shape == (height, width, 3)
    for point, expected in (
        ([0, 0], (3840 / width / 2, 2160 / height / 2)),
        ([width - 1, height - 1], (3840 - 3840 / width / 2, 2160 - 2160 / height / 2)),
        ([700, 300], (700.5 * 3840 / width, 300.5 * 2160 / height)),
    ):
        await act(computer, "mouse_move", coordinate=point)
        # The pixel that has the centre in it.
        assert desktop.pointer == (int(expected[0]), int(expected[1]))
    text = error(await act(computer, "mouse_move", coordinate=[width, 0]))
    assert f"{width}x{height}" in text


async def test_zoom_shows_what_a_screenshot_has_lost() -> None:
    desktop = FakeDesktop(3840, 2160)
    # Lines of one pixel are grey in a screenshot.
    desktop.pixels = np.zeros_like(desktop.pixels)
    desktop.pixels[:, ::2] = 255
    computer = Computer(desktop, LATEST)
    (shrunk,) = images(await act(computer, "screenshot"))
    assert shrunk.std() < 30
    result = await act(computer, "zoom", region=[0, 0, 100, 50])
    (zoomed,) = images(result)
    assert zoomed.std() > 80
    # 100x50 of 1429x804 are 269x135 of 3840x2160 (edges that cut a pixel take it in), as large as
    # they fit into 1429x804.
    box = Image.fromarray(desktop.pixels[..., :3]).crop((0, 0, 269, 135))
    expected = box.resize((1429, round(135 * 1429 / 269)), Image.Resampling.LANCZOS)
    assert np.array_equal(zoomed, np.asarray(expected))


async def test_zoom_on_everything_is_a_screenshot_and_leaves_coordinates_alone(
    autojump_clock: Any,
) -> None:
    desktop = FakeDesktop()
    computer = Computer(desktop, LATEST)
    (zoomed,) = images(await act(computer, "zoom", region=[0, 0, 1280, 800]))
    assert np.array_equal(zoomed, desktop.pixels[..., :3])
    (zoomed,) = images(await act(computer, "zoom", region=[1279, 799, 1280, 800]))
    assert zoomed.shape == (800, 800, 3)
    assert (zoomed == desktop.pixels[799, 1279, :3]).all()
    await act(computer, "mouse_move", coordinate=[1279, 799])
    assert desktop.pointer == (1279, 799)


@pytest.mark.parametrize("action", ["left_click", "wait", "type", "mouse_move"])
async def test_in_the_older_versions_each_action_answers_with_a_screenshot(
    action: str, autojump_clock: Any
) -> None:
    inputs: dict[str, dict[str, Any]] = {
        "wait": {"duration": 1},
        "type": {"text": "a"},
        "mouse_move": POINT,
    }
    given: dict[str, Any] = inputs.get(action, {})
    desktop = FakeDesktop()
    result = await act(Computer(desktop, LATEST), action, **given)
    assert [block["type"] for block in result["content"]] == ["text", "image"]
    assert result["type"] == "tool_result"
    assert desktop.done[-1] == ("screenshot",)


async def test_a_screen_that_does_not_settle_is_shown_with_a_note(autojump_clock: Any) -> None:
    desktop = FakeDesktop()
    desktop.settles = False
    result = await act(Computer(desktop, LATEST), "left_click")
    assert trio.current_time() - desktop.at[0] == pytest.approx(2.0)
    assert texts(result) == ["OK", "The screen was still changing after 2 s."]
    assert len(images(result)) == 1


async def test_what_settling_means_can_be_set(autojump_clock: Any) -> None:
    settings = Settings(quiet_s=0.3, settle_limit_s=5)
    desktop = await done("left_click", settings=settings)
    assert ("settled", 0.3, 5) in desktop.done


async def test_a_quiet_screen_is_shown_at_once() -> None:
    computer = Computer(desktop := FakeDesktop(), LATEST)
    await act(computer, "screenshot")
    await act(computer, "cursor_position")
    assert desktop.done == [("screenshot",)]
