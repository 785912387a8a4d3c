"""The plain pump of a workspace agent: what it carries, what it holds, how it ends."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from relay.bridge import HEARTBEAT_S, READ_BYTES, SEND_TIMEOUT_S, bridge
from relay.net.websocket import CLOSE, PONG, close_payload
from relay.net.websocket_stream import WebSocketStream
from tests.labs.peers import Frames, client_frame

LIMIT = 1_000_000


def streams(lockstep: bool) -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """In lockstep, what is not read is not taken."""
    if lockstep:
        return trio.testing.lockstep_stream_pair()
    return trio.testing.memory_stream_pair()


class Lab:
    """A bridge with both its far ends in the test's hands."""

    def __init__(self, *, lockstep: bool = False) -> None:
        near, self.relay = streams(lockstep)
        self._desktop, self.desktop = streams(lockstep)
        self._end = WebSocketStream(near, client=False, limit_bytes=LIMIT)
        self.frames = Frames(self.relay)
        self.why = ""

    async def run(self) -> None:
        self.why = await bridge(self._end, self._desktop)


async def test_both_ways(nursery: trio.Nursery) -> None:
    lab = Lab()
    nursery.start_soon(lab.run)
    await lab.desktop.send_all(b"RFB 003.008\n")
    assert await lab.frames.binary(12) == b"RFB 003.008\n"
    await lab.relay.send_all(client_frame(b"RFB 003.008\n"))
    assert await lab.desktop.receive_some() == b"RFB 003.008\n"


async def test_the_desktop_ends(nursery: trio.Nursery) -> None:
    lab = Lab()
    nursery.start_soon(lab.run)
    await lab.desktop.send_all(b"last")
    await lab.desktop.aclose()
    assert await lab.frames.binary(4) == b"last"
    assert await lab.frames.close() == (4503, "the desktop has ended")
    await lab.relay.send_all(client_frame(close_payload(4503, ""), CLOSE))
    await trio.testing.wait_all_tasks_blocked()
    assert lab.why == "the desktop has ended"


@pytest.mark.parametrize("politely", [True, False])
async def test_the_relay_ends(nursery: trio.Nursery, politely: bool) -> None:
    lab = Lab()
    nursery.start_soon(lab.run)
    await lab.relay.send_all(client_frame(b"last"))
    if politely:
        await lab.relay.send_all(client_frame(close_payload(1000, ""), CLOSE))
    else:
        await lab.relay.aclose()
    assert await lab.desktop.receive_some(4) == b"last"
    assert await lab.desktop.receive_some() == b""


async def test_cancelled_it_says_goodbye() -> None:
    lab = Lab()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.run)
        await trio.testing.wait_all_tasks_blocked()
        await lab.relay.send_all(client_frame(close_payload(1001, ""), CLOSE)[:1])
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await lab.relay.send_all(client_frame(close_payload(1001, ""), CLOSE)[1:])
    assert await lab.frames.close() == (1001, "the workspace agent is going away")
    assert await lab.desktop.receive_some() == b""


async def test_a_relay_that_does_not_read_holds_the_desktop_up(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    lab = Lab(lockstep=True)
    nursery.start_soon(lab.run)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        try:
            while True:
                await lab.desktop.send_all(bytes(READ_BYTES))
                sent += READ_BYTES
        except trio.BrokenResourceError:
            pass

    nursery.start_soon(flood)
    await trio.sleep(SEND_TIMEOUT_S - 1)
    assert sent <= READ_BYTES, "more than one read is held"
    # Who takes nothing at all is given up.
    await trio.sleep(10)
    assert lab.why == "the relay takes no bytes"


async def test_a_silent_desktop_has_a_heartbeat(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    lab = Lab()
    nursery.start_soon(lab.run)
    began = trio.current_time()
    assert await lab.frames.next() == (PONG, b"")
    assert await lab.frames.next() == (PONG, b"")
    assert trio.current_time() - began == 2 * HEARTBEAT_S
