"""An action of the client that is cancelled at any of its checkpoints: what is down comes up."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from relay.client.desktop import Desktop
from tests.labs.client import (
    EXTENDED_CAPABILITIES,
    FENCE_OF_THEIRS,
    Far,
    Pair,
    client_of,
)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Over a socket, which takes a message at once."""
    near, stream = (trio.SocketStream(end) for end in trio.socket.socketpair())
    far = Far(stream)
    desktop = client_of(near)
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(far.run)
        yield desktop, far
        await desktop.aclose()
        nursery.cancel_scope.cancel()


LENGTHS = {0: 20, 3: 10, 4: 8, 5: 6}
"""Of a client's messages without a length in them."""


def held(heard: bytes) -> set[object]:
    """The keys and buttons that are down behind these messages, which are whole."""
    keys: set[object] = set()
    buttons = at = 0
    while at < len(heard):
        kind = heard[at]
        if kind == 2:
            size = 4 + 4 * struct.unpack_from(">H", heard, at + 2)[0]
        elif kind == 6:
            size = 8 + abs(struct.unpack_from(">i", heard, at + 4)[0])
        elif kind == 248:
            size = 9 + heard[at + 8]
        else:
            size = LENGTHS[kind]
        message = heard[at : at + size]
        assert len(message) == size, "half a message"
        if kind == 4:
            (keys.add if message[1] else keys.discard)(message[4:])
        elif kind == 5:
            buttons = message[1]
        at += size
    return keys | ({f"buttons {buttons}"} if buttons else set())


class CancelAt(trio.abc.Instrument):
    """Cancels a scope before the step of its task with this number."""

    def __init__(self, scope: trio.CancelScope, number: int) -> None:
        self._scope, self._left, self._task = scope, number, trio.lowlevel.current_task()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if not self._left:
                self._scope.cancel()


ACTIONS: dict[str, Callable[[Desktop], Awaitable[object]]] = {
    "press": lambda desktop: desktop.press("ctrl+shift+a", count=2),
    "click": lambda desktop: desktop.click(3, 2, count=2),
    "drag": lambda desktop: desktop.drag(3, 2),
    "scroll": lambda desktop: desktop.scroll(down=2, right=-1),
    "type": lambda desktop: desktop.type("a" * 100),
    "paste": lambda desktop: desktop.paste("漢"),
    "picture": lambda desktop: desktop.picture(),
    "settled": lambda desktop: desktop.settled(quiet_s=0.1, limit_s=1),
}


@pytest.mark.parametrize("fences", [False, True])
@pytest.mark.parametrize("action", ACTIONS)
async def test_it_holds_nothing_and_the_next_action_works(
    action: str, fences: bool, pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    desktop, far = pair
    await far.stream.send_all(EXTENDED_CAPABILITIES + (FENCE_OF_THEIRS if fences else b""))
    await desktop.picture()
    for number in range(1, 1000):
        with trio.CancelScope() as scope:
            instrument = CancelAt(scope, number)
            trio.lowlevel.add_instrument(instrument)
            try:
                await ACTIONS[action](desktop)
            finally:
                trio.lowlevel.remove_instrument(instrument)
        await desktop.sync()
        assert held(far.heard) == set(), number
        if not scope.cancelled_caught:
            break
    else:
        pytest.fail("it never got to its end")
    assert number > 2


async def test_what_could_not_be_released_is_released_at_the_end(
    pair: Pair, autojump_clock: trio.testing.MockClock
) -> None:
    """A release that is cancelled has not come about."""
    desktop, far = pair
    for act, undo in (
        (partial(desktop.key_down, 0x61), partial(desktop.key_up, 0x61)),
        (desktop.button_down, desktop.button_up),
        (desktop.button_down, desktop.release_all),
    ):
        await act()
        with trio.CancelScope() as scope:
            scope.cancel()
            await undo()
        assert scope.cancelled_caught
        await desktop.release_all()
        await desktop.sync()
        assert held(far.heard) == set()
