"""The RFB client's connection: what it owes, and desktops that are silent, wrong or gone."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from relay.client.desktop import Desktop
from relay.errors import DesktopError
from tests.labs.client import (
    FENCE_OF_THEIRS,
    Pair,
    client_of,
    pair,
    provided,
    with_fences,
)

__all__ = ["pair"]  # the fixture


async def test_a_fence_is_answered_with_what_it_carries(pair: Pair) -> None:
    _, far = await with_fences(pair)
    # Of its flags the request is taken off (community specification, ServerFence).
    await far.hears(b"\xf8\0\0\0\0\0\0\x03\x02ok")


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
