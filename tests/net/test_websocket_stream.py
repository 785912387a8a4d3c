"""Bytes in the binary messages of a WebSocket: both roles, and peers that break its rules."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from relay.bridge import HEARTBEAT_S
from relay.net.websocket import BINARY, CLOSE, PING, PONG, TEXT, close_payload, frame
from relay.net.websocket_stream import CLOSE_TIMEOUT_S, WebSocketStream
from tests.labs.peers import MASK, Frames, client_frame

LIMIT = 1_000_000


def pair() -> tuple[WebSocketStream, WebSocketStream]:
    near, far = trio.testing.memory_stream_pair()
    return (
        WebSocketStream(near, client=True, limit_bytes=LIMIT),
        WebSocketStream(far, client=False, limit_bytes=LIMIT),
    )


def server() -> tuple[WebSocketStream, trio.abc.Stream]:
    """A server's end, and the raw stream of its client."""
    near, far = trio.testing.memory_stream_pair()
    return WebSocketStream(near, client=False, limit_bytes=LIMIT), far


async def both(first: WebSocketStream, second: WebSocketStream) -> None:
    """Closes both at once: each waits a little for the other's close frame."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.aclose)
        nursery.start_soon(second.aclose)


async def test_it_is_a_stream(autojump_clock: MockClock) -> None:
    async def maker() -> tuple[WebSocketStream, WebSocketStream]:
        return pair()

    await trio.testing.check_two_way_stream(maker, None)


@pytest.mark.parametrize("size", [1, 125, 126, 65_535, 65_536, 300_000])
async def test_what_goes_in_comes_out(size: int) -> None:
    client, other = pair()
    data = bytes(i * 7 % 256 for i in range(size))
    for sender, receiver in ((client, other), (other, client)):
        await sender.send_all(data)
        got = b""
        while len(got) < size:
            more = await receiver.receive_some(1000)
            assert 0 < len(more) <= 1000
            got += more
        assert got == data
    await both(client, other)


async def test_what_came_with_the_101_is_read_first() -> None:
    near, far = trio.testing.memory_stream_pair()
    early = frame(BINARY, b"hello") + frame(BINARY, b"world")[:3]
    stream = WebSocketStream(near, client=True, limit_bytes=LIMIT, early=early)
    await far.send_all(frame(BINARY, b"world")[3:])
    assert await stream.receive_some(3) == b"h"  # three bytes: a header, and one of payload
    got = b""
    while len(got) < 9:
        got += await stream.receive_some()
    assert got == b"elloworld"


async def test_only_a_client_masks() -> None:
    near, far = trio.testing.memory_stream_pair()
    client = WebSocketStream(near, client=True, limit_bytes=LIMIT)
    await client.send_all(b"secret")
    await client.send_all(b"secret")
    sent = await far.receive_some()
    assert sent[:2] == sent[12:14] == bytes([0x80 | BINARY, 0x80 | 6])
    assert sent[2:6] != sent[14:18], "the same mask twice"
    stream, raw = server()
    await stream.send_all(b"plain")
    assert await raw.receive_some() == bytes([0x80 | BINARY, 5]) + b"plain"


async def test_a_ping_is_answered_by_who_reads() -> None:
    stream, raw = server()
    await raw.send_all(client_frame(b"are you there", PING) + client_frame(b"data"))
    assert await stream.receive_some() == b"data"
    assert await Frames(raw).next() == (PONG, b"are you there")


async def test_a_ping_while_something_is_sent_is_answered_behind_it() -> None:
    near, far = trio.testing.lockstep_stream_pair()
    stream = WebSocketStream(near, client=False, limit_bytes=LIMIT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"data")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(far.send_all, client_frame(b"", PING) + client_frame(b"x"))
        # The read does not wait for who is slow to take what is sent.
        assert await stream.receive_some() == b"x"
        frames = Frames(far)
        assert await frames.next() == (BINARY, b"data")
        assert await frames.next() == (PONG, b"")


async def test_a_pong_that_has_no_room_yet_breaks_nothing(autojump_clock: MockClock) -> None:
    """A slow link still has what was sent before, and nobody sends: the pong goes behind it."""
    near, raw = trio.testing.memory_stream_pair()
    stream = WebSocketStream(near, client=False, limit_bytes=LIMIT)
    room = trio.Event()
    pass_on = near.send_stream.send_all_hook
    assert pass_on is not None

    async def send() -> None:
        await room.wait()
        await pass_on()

    near.send_stream.send_all_hook = send
    near.send_stream.wait_send_all_might_not_block_hook = room.wait
    await raw.send_all(client_frame(b"", PING) + client_frame(b"data"))
    assert await stream.receive_some() == b"data"
    room.set()
    await stream.send_all(b"more")
    frames = Frames(raw)
    assert [await frames.next() for _ in range(2)] == [(PONG, b""), (BINARY, b"more")]


async def test_a_heartbeat_is_a_pong() -> None:
    stream, raw = server()
    await stream.heartbeat()
    assert await Frames(raw).next() == (PONG, b"")


async def test_heartbeats_of_a_day_are_no_flood(autojump_clock: MockClock) -> None:
    beating, other = pair()

    async def beat() -> None:
        while trio.current_time() < 86_400:
            await trio.sleep(HEARTBEAT_S)
            await beating.heartbeat()
        await beating.send_all(b"awake")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        assert await other.receive_some() == b"awake"


async def test_a_close_frame_ends_it_and_is_answered() -> None:
    stream, raw = server()
    last = client_frame(b"last")
    await raw.send_all(last + client_frame(close_payload(4503, "gone"), CLOSE) + last)
    assert await stream.receive_some() == b"last"
    assert await stream.receive_some() == b""
    assert stream.closed == (4503, "gone")
    assert (await Frames(raw).close())[0] == 4503
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"more")


FAULTS = {
    "text": (client_frame(b"hello", TEXT), 1003),
    "not masked": (frame(BINARY, b"hello"), 1002),
    "reserved bit": (bytes([0xC2, 0x80]) + MASK, 1002),
    "too long": (bytes([0x82, 0xFF]) + (LIMIT + 1).to_bytes(8, "big") + MASK, 1009),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_peer_that_breaks_the_framing_is_told(name: str) -> None:
    sent, code = FAULTS[name]
    stream, raw = server()
    await raw.send_all(sent)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    assert (await Frames(raw).close())[0] == code


async def test_closing_tells_why_and_waits_for_the_answer() -> None:
    client, other = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.close, 4503, "the desktop has ended")
        assert await client.receive_some() == b""
    assert client.closed == (4503, "the desktop has ended")


async def test_closing_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    stream, _ = server()
    began = trio.current_time()
    await stream.aclose()
    assert trio.current_time() - began == CLOSE_TIMEOUT_S


async def test_a_ping_behind_our_goodbye_does_not_end_the_wait(autojump_clock: MockClock) -> None:
    """Else what is still under way would make the kernel reset the connection."""
    stream, raw = server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.close, 4503, "the desktop has ended")
        await trio.testing.wait_all_tasks_blocked()
        await raw.send_all(client_frame(b"", PING))
        await trio.testing.wait_all_tasks_blocked()
        await raw.send_all(
            client_frame(b"under way") + client_frame(close_payload(4503, ""), CLOSE)
        )
    frames = Frames(raw)
    assert await frames.close() == (4503, "the desktop has ended")
    assert stream.closed == (4503, "")


async def test_nothing_follows_half_a_frame() -> None:
    near, far = trio.testing.lockstep_stream_pair()
    stream = WebSocketStream(near, client=False, limit_bytes=LIMIT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"data")
        await trio.testing.wait_all_tasks_blocked()
        await far.receive_some(3)
        nursery.cancel_scope.cancel()
    await stream.aclose()
    with pytest.raises(EOFError):
        await Frames(far).next()


async def test_a_read_that_is_cancelled_loses_nothing(autojump_clock: MockClock) -> None:
    stream, raw = server()
    sent = client_frame(b"a long message")
    await raw.send_all(sent[:4])
    with trio.move_on_after(1):
        await stream.receive_some()
    await raw.send_all(sent[4:])
    assert await stream.receive_some() == b"a long message"


async def test_what_is_taken_over_says_nothing_any_more() -> None:
    near, far = trio.socket.socketpair()
    socket = trio.SocketStream(near)
    async with trio.SocketStream(far), socket:
        stream = WebSocketStream(
            socket, client=True, limit_bytes=100, early=frame(BINARY, b"early")
        )
        assert stream.taken_over() is None
        assert await stream.receive_some() == b"early"
        assert stream.taken_over() == (socket, stream._frames)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        assert stream.taken_over() is None
