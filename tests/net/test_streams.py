"""What `relay.net.streams` does as Trio's streams do, over sockets and over anything else."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from relay.net import streams

Pair = tuple[trio.abc.Stream, trio.abc.Stream]


def _sockets() -> Pair:
    near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(s)) for s in socket.socketpair())
    return near, far


def _memory() -> Pair:
    return trio.testing.lockstep_stream_pair()


@pytest.fixture(params=[_sockets, _memory])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    near, far = made = request.param()
    yield made
    await streams.cut(near)
    await streams.cut(far)


async def test_more_than_a_socket_takes_arrives_whole(pair: Pair) -> None:
    near, far = pair
    data = bytes(range(256)) * 8_000
    heard = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.send, near, data)
        while len(heard) < len(data):
            heard += await streams.receive(far, 65_536)
    assert heard == data


async def test_what_comes_later_is_waited_for(pair: Pair, autojump_clock: object) -> None:
    near, far = pair
    heard = b""

    async def hear() -> None:
        nonlocal heard
        heard = await streams.receive(far, 100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        await trio.sleep(1)
        await streams.send(near, b"late")
    assert heard == b"late"


async def test_waiting_can_be_cancelled(pair: Pair, autojump_clock: object) -> None:
    with trio.move_on_after(1) as scope:
        await streams.receive(pair[0], 100)
    assert scope.cancelled_caught


async def test_the_end_of_a_stream_is_empty(pair: Pair) -> None:
    near, far = pair
    await streams.cut(near)
    assert await streams.receive(far, 100) == b""


async def test_a_peer_that_is_gone(pair: Pair) -> None:
    near, far = pair
    await streams.cut(far)
    with pytest.raises(trio.BrokenResourceError):
        await streams.send(near, b"a")


async def test_a_stream_that_is_closed(pair: Pair) -> None:
    near = pair[0]
    await streams.cut(near)
    with pytest.raises(trio.ClosedResourceError):
        await streams.send(near, b"a")
    with pytest.raises(trio.ClosedResourceError):
        await streams.receive(near, 1)


async def test_it_is_cut_although_cancelled(pair: Pair) -> None:
    near, far = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await streams.cut(near)
    assert await far.receive_some(100) == b""
