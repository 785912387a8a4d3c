"""Messages that begin and do not get on, with every driver on a virtual clock."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from relay import Limits, Reason
from tests.labs.peers import (
    MakeLab,
    client_frame,
    close_far_ends,
    every_driver,
    raw_rectangle,
)

# The fixture.
__all__ = ["close_far_ends"]


@every_driver
@pytest.mark.parametrize("side", ["desktop", "viewer"])
async def test_a_message_that_drips_is_not_waited_for(
    make: MakeLab, side: str, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make()
    begun = raw_rectangle(40, 30)[:20] if side == "desktop" else struct.pack(">Bxxxi", 6, 1000)

    saying = trio.Lock()

    async def say(stream: trio.abc.SendStream, data: bytes) -> None:
        async with saying:
            await stream.send_all(data)

    async def answer_pings() -> None:
        while (message := await lab.frames.next())[0] != 8:
            if message[0] == 9:
                await say(lab.viewer, client_frame(message[1], opcode=10))

    async def drip() -> None:
        peer = lab.desktop if side == "desktop" else lab.viewer
        try:
            await say(peer, begun if side == "desktop" else client_frame(begun))
            while True:
                await trio.sleep(1)
                await say(peer, b"x" if side == "desktop" else client_frame(b"x"))
        except trio.BrokenResourceError:
            pass

    async with lab.running() as nursery:
        nursery.start_soon(drip)
        nursery.start_soon(answer_pings)
        if side == "viewer":
            await lab.hear(8 + 20)
    assert lab.ended.reason is (Reason.DESKTOP_DRIPS if side == "desktop" else Reason.VIEWER_DRIPS)
    assert trio.current_time() < 60


@every_driver
async def test_slow_is_not_dripping(make: MakeLab, autojump_clock: trio.testing.MockClock) -> None:
    lab = make(Limits(ping_interval_s=5, ping_timeout_s=3600))
    update = raw_rectangle(640, 480)
    async with lab.running() as nursery:

        async def send() -> None:
            for at in range(0, len(update), 20_000):
                await lab.desktop.send_all(update[at : at + 20_000])
                await trio.sleep(10)

        nursery.start_soon(send)
        received = b""
        while len(received) < len(update):
            opcode, data = await lab.frames.next()
            received += data if opcode == 2 else b""
        assert received == update
        assert not lab.result
        nursery.cancel_scope.cancel()
