"""What the RFB client sees of a desktop in the test's hands."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import trio
import trio.testing

from relay.errors import DesktopError
from tests.labs.client import (
    HEIGHT,
    WIDTH,
    Pair,
    pair,
    with_fences,
)

__all__ = ["pair"]  # the fixture


async def test_what_is_painted_is_seen(pair: Pair) -> None:
    desktop, far = pair
    far.picture[1, 2] = (10, 20, 30, 0)
    picture = await desktop.picture()
    assert picture[1, 2].tolist() == [10, 20, 30, 255]
    assert (desktop.width, desktop.height, desktop.name) == (WIDTH, HEIGHT, "lab")


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


async def test_what_is_taken_in_parts_is_not_waited_for(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = pair
    await with_fences(pair)
    far.answers = False
    fence = b"\xf8\0\0\0\0\0\0\x01\x04" + struct.pack(">I", 2**31)
    await far.stream.send_all(b"\x02" * 200_000 + fence)
    await desktop.sync()
