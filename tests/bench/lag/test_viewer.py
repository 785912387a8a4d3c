"""The viewer that measures lag, on desktops in memory. Nothing is timed."""

from __future__ import annotations

import struct

import pytest
import trio
from trio import StapledStream
from trio.testing import MemoryReceiveStream, MemorySendStream, MockClock, memory_stream_pair

from bench.lag.desktop import FRAMES_PER_S, Desktop, rectangle
from bench.lag.viewer import MODES, WARM_UP_S, Viewer


class TestViewerAndDesktop:
    @pytest.mark.parametrize("mode", MODES)
    async def test_a_key_is_answered_at_once_where_nothing_queues(
        self, mode: str, autojump_clock: MockClock
    ) -> None:
        here, there = memory_stream_pair()
        viewer = Viewer(here.receive_some, here.send_all)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Desktop(there).run)
            await viewer.handshake(mode)
            nursery.start_soon(viewer.receive)
            lags_s = await viewer.measure(10)
            nursery.cancel_scope.cancel()
        assert set(lags_s) == {0.0}
        # Every frame is an update; a key that comes between two is one of its own.
        assert viewer.updates > FRAMES_PER_S * (10 + WARM_UP_S) + len(lags_s) / 2

    async def test_only_the_answer_to_the_key_counts(self, autojump_clock: MockClock) -> None:
        here, there = memory_stream_pair()
        viewer = Viewer(here.receive_some, here.send_all)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_late_desktop, there)
            await viewer.handshake("requests")
            nursery.start_soon(viewer.receive)
            lags_s = await viewer.measure(1)
            nursery.cancel_scope.cancel()
        assert lags_s == [pytest.approx(5)]

    async def test_a_fence_is_answered(self, autojump_clock: MockClock) -> None:
        here, there = memory_stream_pair()
        viewer = Viewer(here.receive_some, here.send_all)
        await there.send_all(struct.pack(">BxxxIB", 248, 1 << 31 | 7, 2) + b"ab")
        with trio.move_on_after(1):
            await viewer.receive()
        # noVNC keeps the flags that it can do: BlockBefore and BlockAfter.
        assert await there.receive_some() == struct.pack(">BxxxIB", 248, 3, 2) + b"ab"

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (b"\x07", "type 7"),
            (struct.pack(">BxHHHHHi", 0, 1, 0, 0, 1, 1, 5), "encoding 5"),
            (struct.pack(">BxxxIB", 248, 0, 0), "nobody sent"),
        ],
    )
    async def test_what_was_not_offered_is_an_error(self, message: bytes, reason: str) -> None:
        here, there = memory_stream_pair()
        await there.send_all(message)
        with pytest.raises(ConnectionError, match=reason):
            await Viewer(here.receive_some, here.send_all).receive()


def _corner(colour: int) -> bytes:
    return struct.pack(">BxH", 0, 1) + rectangle(0, 0, 1, 1, struct.pack("<I", colour))


async def _late_desktop(stream: StapledStream[MemorySendStream, MemoryReceiveStream]) -> None:
    """Shows 9; from the first key on after 2 s 9 again, after 2 s more a picture elsewhere, and
    after another second 10."""
    hello = struct.pack(">HHB15xI", 16, 16, 32, 0)
    await stream.send_all(b"RFB 003.008\n\x01\x01" + bytes(4) + hello)
    heard = b""
    while not heard.endswith(b"\x03\0" + struct.pack(">HHHH", 0, 0, 16, 16)):
        heard += await stream.receive_some()
    await trio.sleep(WARM_UP_S)
    await stream.send_all(_corner(9))
    while b"\x04\x01" not in heard:
        heard += await stream.receive_some()
    await trio.sleep(2)
    await stream.send_all(_corner(9))
    await trio.sleep(2)
    elsewhere = rectangle(3, 0, 1, 1, struct.pack("<I", 10))
    await stream.send_all(struct.pack(">BxH", 0, 1) + elsewhere)
    await trio.sleep(1)
    await stream.send_all(_corner(10))
    await trio.sleep_forever()
