"""The RFB client's pointer, buttons and keys: what is sent, and what is held down."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import trio
import trio.testing

from tests.labs.client import (
    Pair,
    pair,
    with_fences,
)
from tests.labs.peers import KEY, KEY_UP

__all__ = ["pair"]  # the fixture


@pytest.mark.parametrize("fences", [False, True])
async def test_a_click_is_over_when_the_desktop_has_taken_it(pair: Pair, fences: bool) -> None:
    desktop, far = await with_fences(pair) if fences else pair
    await desktop.click(3, 2)
    down, up = (struct.pack(">BBHH", 5, mask, 3, 2) for mask in (1, 0))
    assert struct.pack(">BBHH", 5, 0, 3, 2) + down + up in far.heard


async def test_all_buttons_of_rfc_6143(pair: Pair) -> None:
    desktop, far = pair
    for button in range(1, 9):
        await desktop.click(button=button)
        down, up = (struct.pack(">BBHH", 5, mask, 4, 2) for mask in (1 << button - 1, 0))
        assert down + up in far.heard
    for button in (0, 9):
        with pytest.raises(ValueError, match=f"no button {button}; this desktop's are 1 to 8"):
            await desktop.click(button=button)


async def test_extended_mouse_buttons(pair: Pair) -> None:
    """Back and forward are in a seventh byte, which the highest bit of the mask announces, where
    the desktop has said so by an empty rectangle."""
    desktop, far = pair
    await far.stream.send_all(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 0, 0, -316))
    await desktop.picture()
    assert struct.pack(">i", -316) in far.heard
    await desktop.button_down(1)
    await desktop.click(3, 2, button=8)
    await desktop.click(button=9)
    await desktop.button_up(1)
    await desktop.sync()
    held = struct.pack(">BBHH", 5, 1, 3, 2)
    for high in (1, 2):
        assert struct.pack(">BBHHB", 5, 0x81, 3, 2, high) + held in far.heard
    with pytest.raises(ValueError, match="no button 10; this desktop's are 1 to 9"):
        await desktop.click(button=10)


async def test_the_clicks_of_a_double_click_have_different_times(
    pair: Pair, autojump_clock: Any
) -> None:
    desktop, _ = await with_fences(pair)
    began = trio.current_time()
    await desktop.click(3, 2, count=2)
    assert 0.005 <= trio.current_time() - began <= 0.1
    began = trio.current_time()
    await desktop.scroll(down=5)
    await desktop.click(3, 2)
    assert trio.current_time() == began


async def test_where_the_pointer_is_is_not_known_before_it_has_moved(pair: Pair) -> None:
    desktop, _ = pair
    assert desktop.pointer is None
    await desktop.move(3, 2)
    assert desktop.pointer == (3, 2)


async def test_a_click_where_the_pointer_is_not_known_is_in_the_middle(pair: Pair) -> None:
    """There X servers have it at their start, as `xdotool getmouselocation` says of a new Xvnc."""
    desktop, far = pair
    await desktop.click()
    assert struct.pack(">BBHHBBHH", 5, 1, 4, 2, 5, 0, 4, 2) in far.heard
    assert desktop.pointer == (4, 2)


async def test_where_the_pointer_is_may_be_told(pair: Pair) -> None:
    desktop, far = pair
    await far.stream.send_all(struct.pack(">BxHHHHHi", 0, 1, 5, 1, 0, 0, -232))
    await desktop.sync()
    assert desktop.pointer == (5, 1)


async def test_a_place_off_the_desktop(pair: Pair) -> None:
    desktop, _ = pair
    with pytest.raises(ValueError, match=r"\(8, 0\) is not on the desktop, which is 8x4"):
        await desktop.click(8, 0)


async def test_a_drag_off_the_desktop_presses_nothing(pair: Pair) -> None:
    desktop, far = pair
    with pytest.raises(ValueError, match=r"\(3, 4\) is not on the desktop"):
        await desktop.drag(3, 4)
    await desktop.sync()
    assert b"\x05" not in far.heard


async def test_a_coordinate_alone(pair: Pair) -> None:
    desktop, _ = pair
    with pytest.raises(ValueError, match="x and y go together"):
        await desktop.click(3)


@pytest.mark.parametrize("keysym", [0, -1, 0x2000_0000, 1 << 40])
async def test_what_is_no_keysym_is_not_held_either(pair: Pair, keysym: int) -> None:
    desktop, far = pair
    for act in (desktop.key_down, desktop.key_up):
        with pytest.raises(ValueError, match="is no keysym: they go from 1 to 0x1fffffff"):
            await act(keysym)
    await desktop.key_down(0x61)
    await desktop.aclose()
    await far.hears(KEY_UP)


async def test_a_place_between_pixels_is_not_where_the_pointer_is(pair: Pair) -> None:
    desktop, far = pair
    half: Any = 1.5
    with pytest.raises(TypeError):
        await desktop.move(half, 1)
    await desktop.button_down()
    await far.hears(struct.pack(">BBHH", 5, 1, 4, 2))


async def test_a_key_that_is_the_same_in_every_layout_has_its_keycode(pair: Pair) -> None:
    """QEMU's extended key event, where the desktop has announced it by an empty rectangle."""
    desktop, far = pair
    await far.stream.send_all(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 0, 0, -258))
    await desktop.picture()
    await desktop.press("Return")
    down, up = (struct.pack(">BBHII", 255, 0, is_down, 0xFF0D, 0x1C) for is_down in (1, 0))
    assert down + up in far.heard
    await desktop.type("a")
    assert KEY + KEY_UP in far.heard
    # Their keys give KP_Home and Print, as Num Lock and Alt are.
    for name, keysym in {"KP_7": 0xFFB7, "Sys_Req": 0xFF15}.items():
        await desktop.press(name)
        assert struct.pack(">BBHI", 4, 1, 0, keysym) in far.heard


async def test_what_is_held_down_is_released_at_the_end(pair: Pair) -> None:
    desktop, far = pair
    await desktop.move(1, 1)
    await desktop.button_down()
    await desktop.key_down(0x61)
    await desktop.aclose()
    await far.hears(KEY_UP + struct.pack(">BBHH", 5, 0, 1, 1))
