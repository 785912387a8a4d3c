"""The RFB client beside a desktop in the test's hands: what it says, and how it takes faults."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from relay.client.desktop import Desktop
from relay.errors import DesktopError
from tests.labs.client import (
    CLIPBOARD_OFFERED,
    FENCE_OF_THEIRS,
    HEIGHT,
    WIDTH,
    Pair,
    client_of,
    pair,
    provided,
    with_clipboard,
    with_fences,
)
from tests.labs.peers import KEY, KEY_UP

__all__ = ["pair"]  # the fixture


async def test_what_is_painted_is_seen(pair: Pair) -> None:
    desktop, far = pair
    far.picture[1, 2] = (10, 20, 30, 0)
    picture = await desktop.picture()
    assert picture[1, 2].tolist() == [10, 20, 30, 255]
    assert (desktop.width, desktop.height, desktop.name) == (WIDTH, HEIGHT, "lab")


async def test_a_fence_is_answered_with_what_it_carries(pair: Pair) -> None:
    _, far = await with_fences(pair)
    # Of its flags the request is taken off (community specification, ServerFence).
    await far.hears(b"\xf8\0\0\0\0\0\0\x03\x02ok")


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


@pytest.mark.parametrize("asked", [b"", FENCE_OF_THEIRS])
async def test_to_stop_waiting_for_quiet_does_not_cut_a_message(
    pair: Pair, asked: bytes, autojump_clock: Any
) -> None:
    """Neither a request nor an answer."""
    desktop, far = pair
    await desktop.sync()

    stream = desktop._connection._stream
    assert isinstance(stream, trio.StapledStream)
    deliver = stream.send_stream.send_all_hook

    async def slow() -> None:
        await trio.sleep(0.05)
        await deliver()

    stream.send_stream.send_all_hook = slow
    if asked:
        await desktop.settled(quiet_s=0.1, limit_s=0.1)
        await far.stream.send_all(asked)
    await desktop.settled(quiet_s=0.01, limit_s=0.02)
    await desktop.sync()
    assert not desktop.gone


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


async def test_typed_text_is_keys_down_and_up(pair: Pair) -> None:
    desktop, far = pair
    await desktop.type("aa")
    assert (KEY + KEY_UP) * 2 in far.heard


async def test_what_cannot_be_typed_types_nothing(pair: Pair) -> None:
    desktop, far = pair
    with pytest.raises(ValueError, match="which no key types"):
        await desktop.type("a\0")
    assert KEY not in far.heard


async def test_a_paste_does_not_wait_for_what_a_clipboard_manager_took(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = await with_clipboard(pair)
    start = trio.current_time()
    await desktop.type("\N{OHM SIGN}")
    assert trio.current_time() - start < 0.5
    assert CLIPBOARD_OFFERED in far.heard


async def test_text_that_nobody_pastes_is_told_and_ends_the_typing(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = await with_clipboard(pair)
    far.pastes = False
    assert await desktop.type("\N{OHM SIGN}\na\n\N{OHM SIGN}") is False
    assert far.heard.count(CLIPBOARD_OFFERED) == 1
    assert KEY not in far.heard
    far.pastes = True
    assert await desktop.type("\N{OHM SIGN}\na") is True
    assert KEY in far.heard


async def test_the_words_of_a_line_are_one_paste(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = await with_clipboard(pair)
    await desktop.type("aa \u044d\u0442\u043e, \u0434\u0430\n\u043d\u0435\u0442aa")
    assert far.heard.count(CLIPBOARD_OFFERED) == 2
    assert far.heard.count(KEY) == 4
    space_down, return_down = (struct.pack(">BBxxI", 4, 1, key) for key in (0x20, 0xFF0D))
    assert far.heard.count(space_down) == 1
    assert far.heard.count(return_down) == 1


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


async def test_the_cursor_is_drawn_where_the_pointer_is(pair: Pair) -> None:
    desktop, far = pair
    # Two pixels, of which the mask shows the first; it points with the second (RFC 6143, 7.8.1).
    shape = bytes([1, 2, 3, 0, 4, 5, 6, 0]) + b"\x80"
    await far.stream.send_all(struct.pack(">BxHHHHHi", 0, 1, 1, 0, 2, 1, -239) + shape)
    await desktop.move(0, 1)
    assert (await desktop.picture(cursor=True))[1, 0].tolist() == [0, 0, 0, 255]
    await desktop.move(4, 1)
    assert (await desktop.picture(cursor=True))[1, 3].tolist() == [1, 2, 3, 255]
    assert (await desktop.picture())[1, 3].tolist() == [0, 0, 0, 255]


async def test_a_desktop_that_changes_its_size_meanwhile(pair: Pair) -> None:
    desktop, far = pair
    await far.stream.send_all(struct.pack(">BxHHHHHi", 0, 1, 0, 0, 6, 5, -223))
    far.picture = np.full((5, 6, 4), 7, np.uint8)
    picture = await desktop.picture()
    assert picture.shape == (5, 6, 4)
    assert (picture[..., :3] == 7).all()


async def test_a_desktop_that_changes_its_size_for_ever(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = pair
    far.answers = False

    async def resize() -> None:
        for at in range(1000):
            await trio.sleep(0.1)
            size = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 6 + at % 2, 5, -223)
            await far.stream.send_all(size)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(resize)
        with pytest.raises(DesktopError, match="not shown all of itself within 30 s"):
            await desktop.picture()
        nursery.cancel_scope.cancel()


async def test_what_a_desktop_without_fences_showed_long_ago_is_not_seen(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    """Its answer to what waited for changes, which has lain unread since."""
    desktop, far = pair
    far.answers = False
    assert await desktop.settled(quiet_s=0.08, limit_s=2)
    await far.stream.send_all(far.update())
    far.picture = np.full((HEIGHT, WIDTH, 4), 9, np.uint8)

    async def answer() -> None:
        # To the request of one pixel, if there is one, and to that of all.
        for _ in range(2):
            await trio.sleep(0.1)
            await far.stream.send_all(far.update())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert ((await desktop.picture())[..., :3] == 9).all()


async def test_settled_waits_for_the_end_of_changes(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = pair
    ticks = 5

    async def change() -> None:
        for _ in range(ticks):
            await trio.sleep(0.05)
            await far.stream.send_all(far.update())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        began = trio.current_time()
        assert await desktop.settled(quiet_s=0.08, limit_s=2)
    assert trio.current_time() - began == pytest.approx(ticks * 0.05 + 0.08)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        assert not await desktop.settled(quiet_s=0.08, limit_s=0.2)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"\x09", "message type 9"),
        (struct.pack(">BxHHHHHi", 0, 1, 4, 0, 8, 4, 0), "8x4 at 4, 0 on a framebuffer of 8x4"),
        (struct.pack(">BxHHHHHi", 0, 1, 0, 0, 8, 4, 99), "encoding 99"),
        (struct.pack(">BxHHHHHi", 0, 1, 0, 0, 0, 4, -223), "a framebuffer of 0x4"),
        (b"\xf8\0\0\0\0\0\0\0\x41", "a fence of 65 bytes"),
        (b"\x03\0\0\0\xff\xff\xff\xfe", "a cut text of length -2"),
        (provided(5, b"four"), "a clipboard of 4 bytes, not 5"),
    ],
)
async def test_a_desktop_that_breaks_the_rules(pair: Pair, said: bytes, text: str) -> None:
    desktop, far = pair
    await far.stream.send_all(said)
    with pytest.raises(DesktopError, match=f"does not speak RFB as it should: .*{text}"):
        await desktop.picture()
    with pytest.raises(DesktopError):
        await desktop.click(1, 1)


async def test_what_is_taken_in_parts_is_not_waited_for(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = pair
    await with_fences(pair)
    far.answers = False
    fence = b"\xf8\0\0\0\0\0\0\x01\x04" + struct.pack(">I", 2**31)
    await far.stream.send_all(b"\x02" * 200_000 + fence)
    await desktop.sync()


async def test_a_desktop_that_goes_away(pair: Pair) -> None:
    desktop, far = pair
    far.answers = False
    await far.stream.send_eof()
    with pytest.raises(DesktopError, match="closed the connection"):
        await desktop.picture()


@pytest.mark.parametrize("act", ["picture", "sync"])
async def test_a_desktop_that_does_not_answer_is_gone(
    pair: Pair, act: str, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = pair
    far.answers = False
    with pytest.raises(DesktopError, match="not answered within 10 s"):
        await getattr(desktop, act)()
    assert trio.current_time() == 10
    assert desktop.gone
    # Nobody waits for it a second time.
    with pytest.raises(DesktopError, match="not answered within 10 s"):
        await desktop.click(1, 1)
    assert trio.current_time() == 10


@pytest.fixture
async def slow() -> AsyncIterator[tuple[Desktop, trio.StapledStream[Any, Any]]]:
    """A client, and the stream of a desktop that takes nothing until the test reads there."""
    near, far = trio.testing.lockstep_stream_pair()
    desktop = client_of(near)
    yield desktop, far
    await desktop.aclose()


Slow = tuple[Desktop, trio.StapledStream[Any, Any]]


@pytest.mark.parametrize("act", ["press", "click", "drag"])
async def test_an_action_that_is_cut_off_is_cancelled(
    slow: Slow, act: str, autojump_clock: trio.testing.MockClock
) -> None:
    """And does not raise, of which the owner of the cancel scope would know nothing."""
    desktop, _ = slow
    arguments: dict[str, tuple[Any, ...]] = {"press": ("ctrl+a",), "click": (), "drag": (3, 3)}
    with trio.move_on_after(1) as scope:
        await getattr(desktop, act)(*arguments[act])
    assert scope.cancelled_caught
    assert desktop.gone
    with pytest.raises(DesktopError, match="cut off"):
        await desktop.press("a")


async def test_a_reader_that_is_cancelled_owes_nothing(
    slow: Slow, autojump_clock: trio.testing.MockClock
) -> None:
    """It has a fence to answer and cannot, because another task sends."""
    desktop, far = slow
    heard = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desktop.move, 1, 1)
        await trio.sleep(1)
        nursery.start_soon(far.send_all, FENCE_OF_THEIRS)
        with trio.move_on_after(1) as scope:
            await desktop._connection.until(lambda: False)
        assert scope.cancelled_caught
        while b"\x05\0\0\x01\0\x01" not in heard:
            heard += await far.receive_some(4096)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desktop.move, 2, 2)
        while b"\x05\0\0\x02\0\x02" not in heard:
            heard += await far.receive_some(4096)
    assert b"\xf8\0\0\0\0\0\0\x03\x02ok" in heard


async def test_to_settle_is_to_ask_also_after_a_cancellation(
    slow: Slow, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = slow
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desktop.move, 1, 1)
        await trio.sleep(1)
        # It would ask, but another task sends.
        assert await desktop.settled(quiet_s=1, limit_s=5)
        while b"\x05\0\0\x01\0\x01" not in await far.receive_some(4096):
            pass
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(desktop.settled, quiet_s=1, limit_s=5))
        with trio.fail_after(1):
            assert await far.receive_some(4096) == struct.pack(">BBHHHH", 3, 1, 0, 0, 8, 4)


async def test_a_desktop_that_takes_nothing(
    slow: Slow, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, _ = slow
    with pytest.raises(DesktopError, match="not taken a message within 10 s"):
        await desktop.move(1, 1)
    assert desktop.gone


async def test_what_is_held_down_is_released_at_the_end(pair: Pair) -> None:
    desktop, far = pair
    await desktop.move(1, 1)
    await desktop.button_down()
    await desktop.key_down(0x61)
    await desktop.aclose()
    await far.hears(KEY_UP + struct.pack(">BBHH", 5, 0, 1, 1))


async def test_a_connection_that_is_closed_is_gone(pair: Pair) -> None:
    desktop, _ = pair
    await desktop.aclose()
    assert desktop.gone
    with pytest.raises(DesktopError, match="has been closed here"):
        await desktop.sync()
    await desktop.aclose()


async def test_a_picture_that_is_waited_for_ends_with_the_connection(pair: Pair) -> None:
    desktop, far = pair
    far.answers = False
    async with trio.open_nursery() as nursery:

        async def look() -> None:
            with pytest.raises(DesktopError, match="has been closed here"):
                await desktop.picture()

        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        await desktop.aclose()
