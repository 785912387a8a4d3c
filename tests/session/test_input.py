"""What a session leaves behind on its desktop, and what it may do meanwhile: every driver."""

from __future__ import annotations

import dataclasses
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from relay import FULL, VIEW_ONLY, CloseCode, Limits, Reason
from tests.labs.peers import (
    BELL,
    KEY,
    KEY_UP,
    PIXEL_FORMAT,
    UPDATE_REQUEST,
    Lab,
    MakeLab,
    client_frame,
    close_far_ends,
    every_driver,
    lockstep_lab,
    raw_rectangle,
    socket_lab,
)
from tests.labs.rfb_messages import BGR233, SET_SMALL

# The fixture.
__all__ = ["close_far_ends"]


PRESS = struct.pack(">BBHH", 5, 1, 10, 20)
RELEASE = struct.pack(">BBHH", 5, 0, 10, 20)


async def _close(lab: Lab) -> None:
    await lab.viewer.send_all(client_frame(struct.pack(">H", 1000), opcode=8))


async def _vanish(lab: Lab) -> None:
    await lab.viewer.aclose()


async def _break_rfb(lab: Lab) -> None:
    await lab.viewer.send_all(client_frame(b"\x63"))


async def _break_websocket(lab: Lab) -> None:
    await lab.viewer.send_all(b"\xff" * 20)


async def _archive(lab: Lab) -> None:
    lab.session.stop(CloseCode.ARCHIVED, "chat archived")


async def _fault_of_the_desktop(lab: Lab) -> None:
    await lab.desktop.send_all(b"\x63")


ENDS: dict[str, Callable[[Lab], Awaitable[None]]] = {
    "close": _close,
    "vanish": _vanish,
    "break RFB": _break_rfb,
    "break WebSocket": _break_websocket,
    "archive": _archive,
    "fault of the desktop": _fault_of_the_desktop,
}


@every_driver
@pytest.mark.parametrize("how", ENDS)
async def test_however_a_session_ends_nothing_stays_pressed(make: MakeLab, how: str) -> None:
    lab = make(Limits(close_timeout_s=0.2))
    async with lab.running():
        await lab.viewer.send_all(client_frame(KEY + PRESS))
        assert await lab.hear(14) == KEY + PRESS
        await ENDS[how](lab)
        assert await lab.hear(14) == KEY_UP + RELEASE
        assert await lab.desktop.receive_some(1) == b""


@every_driver
async def test_a_cancelled_session_releases_too(make: MakeLab) -> None:
    lab = make()
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as inner:
            inner.start_soon(lab.run)
            await lab.greet()
            await lab.viewer.send_all(client_frame(KEY))
            assert await lab.hear(8) == KEY
            inner.cancel_scope.cancel()
        nursery.start_soon(trio.sleep, 0)
        assert await lab.hear(8) == KEY_UP
        assert await lab.desktop.receive_some(1) == b""


@every_driver
async def test_rights_change_while_a_session_runs(make: MakeLab) -> None:
    lab = make()
    async with lab.running() as nursery:
        await lab.viewer.send_all(client_frame(KEY + PRESS))
        assert await lab.hear(14) == KEY + PRESS
        lab.session.rights = dataclasses.replace(FULL, keyboard=False)
        assert await lab.hear(8) == KEY_UP
        lab.session.rights = VIEW_ONLY
        assert await lab.hear(6) == RELEASE
        await lab.viewer.send_all(client_frame(KEY + UPDATE_REQUEST + PRESS))
        assert await lab.hear(10) == UPDATE_REQUEST
        lab.session.rights = FULL
        await lab.viewer.send_all(client_frame(KEY))
        assert await lab.hear(8) == KEY
        nursery.cancel_scope.cancel()


@every_driver
async def test_rights_from_the_start(make: MakeLab) -> None:
    lab = make()
    lab.session.rights = VIEW_ONLY
    async with lab.running() as nursery:
        await lab.viewer.send_all(client_frame(KEY + PRESS + UPDATE_REQUEST))
        assert await lab.hear(10) == UPDATE_REQUEST
        nursery.cancel_scope.cancel()


@every_driver
async def test_a_format_waits_two_seconds_and_then_takes_another_way(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make()
    flush = struct.pack(">BBHHHH", 3, 0, 0, 0, 1, 1)
    async with lab.running() as nursery:
        await lab.viewer.send_all(client_frame(UPDATE_REQUEST + SET_SMALL))
        assert await lab.hear(10) == UPDATE_REQUEST
        began = trio.current_time()
        assert await lab.hear(10) == flush
        assert trio.current_time() - began == pytest.approx(2)
        update = raw_rectangle(1, 1)
        await lab.desktop.send_all(update)
        assert await lab.frames.binary(len(update)) == update
        assert await lab.hear(20) == b"\0\0\0\0" + BGR233
        assert trio.current_time() - began == pytest.approx(6)
        small = raw_rectangle(1, 1)[:-3]
        await lab.desktop.send_all(small + BELL)
        assert await lab.frames.binary(len(small) + 1) == small + BELL
        nursery.cancel_scope.cancel()


@every_driver
async def test_a_format_goes_as_soon_as_the_update_has_come(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make()
    async with lab.running() as nursery:
        began = trio.current_time()
        for fmt, size in ((BGR233, 4), (PIXEL_FORMAT, 1)) * 20:
            await lab.viewer.send_all(client_frame(UPDATE_REQUEST + b"\0\0\0\0" + fmt))
            assert await lab.hear(10) == UPDATE_REQUEST
            update = raw_rectangle(3, 2)[:16] + b"p" * (6 * size)
            await lab.desktop.send_all(update)
            assert await lab.frames.binary(len(update)) == update
            assert await lab.hear(20) == b"\0\0\0\0" + fmt
        assert trio.current_time() == began
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "make", [lockstep_lab, partial(socket_lab, buffer_bytes=4096)], ids=["streams", "sockets"]
)
async def test_a_viewer_that_is_behind_gets_no_more_than_it_can_take(make: MakeLab) -> None:
    lab = make()
    update = raw_rectangle(640, 480)
    async with lab.running() as nursery:
        await lab.viewer.send_all(client_frame(UPDATE_REQUEST))
        assert await lab.hear(10) == UPDATE_REQUEST
        nursery.start_soon(lab.desktop.send_all, update)
        await trio.testing.wait_all_tasks_blocked(0.01)
        # It asks on, and reads nothing: no request reaches the desktop, a key does.
        await lab.viewer.send_all(client_frame(UPDATE_REQUEST + KEY + UPDATE_REQUEST))
        assert await lab.hear(8) == KEY
        # Read to the end, and what was held goes up once.
        assert await lab.frames.binary(len(update)) == update
        assert await lab.hear(10) == UPDATE_REQUEST
        await lab.viewer.send_all(client_frame(KEY))
        assert await lab.hear(8) == KEY
        nursery.cancel_scope.cancel()


async def test_a_held_request_survives_a_desktop_that_is_slow_too() -> None:
    lab = socket_lab(buffer_bytes=4096)
    update = raw_rectangle(640, 100)
    text = struct.pack(">Bxxxi", 6, 100_000) + b"t" * 100_000
    async with lab.running() as nursery:
        nursery.start_soon(lab.desktop.send_all, update)
        await trio.testing.wait_all_tasks_blocked(0.01)

        async def say() -> None:
            await lab.viewer.send_all(client_frame(UPDATE_REQUEST))
            for at in range(0, len(text), 10_000):
                await lab.viewer.send_all(client_frame(text[at : at + 10_000]))

        nursery.start_soon(say)
        await trio.testing.wait_all_tasks_blocked(0.01)
        # The viewer catches up while the desktop does not, and says nothing more.
        assert await lab.frames.binary(len(update)) == update
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await lab.hear(len(text) + 10) == text + UPDATE_REQUEST
        nursery.cancel_scope.cancel()


async def test_a_slow_viewer_is_not_a_silent_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = socket_lab(buffer_bytes=4096)
    update = raw_rectangle(640, 200)
    async with lab.running() as nursery:
        nursery.start_soon(lab.desktop.send_all, update)
        began = trio.current_time()
        received = 0
        while received < len(update):
            # About 4 KiB a second: two minutes in which the pings wait behind the picture.
            received += len(await lab.viewer.receive_some(4096))
            await trio.sleep(1)
        assert trio.current_time() - began > 100
        assert not lab.result
        nursery.cancel_scope.cancel()


PAUSE, CONTINUE = (struct.pack(">BBHHHH", 150, on, 0, 0, 640, 480) for on in (0, 1))
END_OF_UPDATES = b"\x96"


async def test_a_viewer_that_reads_nothing_stops_continuous_updates(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = socket_lab(buffer_bytes=4096)
    async with lab.running() as nursery:
        wanted = struct.pack(">BxHiii", 2, 3, 0, -313, -312)
        await lab.viewer.send_all(client_frame(wanted))
        await lab.desktop.send_all(END_OF_UPDATES)
        assert await lab.hear(len(wanted)) == wanted
        assert await lab.frames.binary(1) == END_OF_UPDATES
        await lab.viewer.send_all(client_frame(CONTINUE))
        assert await lab.hear(10) == CONTINUE
        for _ in range(3):
            update = raw_rectangle(200, 200)
            nursery.start_soon(lab.desktop.send_all, update + END_OF_UPDATES)
            assert await lab.hear(10) == PAUSE
            assert await lab.frames.binary(len(update)) == update
            assert await lab.hear(10) == CONTINUE
        nursery.cancel_scope.cancel()


async def test_moves_behind_a_desktop_that_does_not_read_collapse() -> None:
    lab = socket_lab()
    assert isinstance(lab.desktop_near, trio.SocketStream)
    lab.desktop_near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    moves = [struct.pack(">BBHH", 5, 0, x % 640, x // 640) for x in range(20_000)]
    async with lab.running() as nursery:

        async def move() -> None:
            for at in range(0, len(moves), 100):
                await lab.viewer.send_all(client_frame(b"".join(moves[at : at + 100])))
            await lab.viewer.send_all(client_frame(KEY))

        nursery.start_soon(move)
        await trio.testing.wait_all_tasks_blocked(0.05)
        heard = b""
        while not heard.endswith(KEY):
            heard += await lab.desktop.receive_some(65_536)
        assert heard.endswith(moves[-1] + KEY)
        # All that waited in the viewer's socket; what fitted the desktop's came as it was.
        assert len(heard) < len(moves) * 6 / 2
        nursery.cancel_scope.cancel()


async def test_a_session_ends_for_a_viewer_that_never_lets_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = socket_lab(buffer_bytes=4096)
    async with lab.running():
        await lab.viewer.send_all(client_frame(KEY))
        assert await lab.hear(8) == KEY
        # No pong: given up, and what it holds is released.
        assert await lab.hear(8) == KEY_UP
        assert await lab.desktop.receive_some(1) == b""
    assert lab.ended.reason is Reason.VIEWER_SILENT


@every_driver
async def test_a_session_has_a_clock(make: MakeLab, autojump_clock: trio.testing.MockClock) -> None:
    lab = make()
    async with lab.running() as nursery:
        update = raw_rectangle(1, 1)
        for _ in range(2):
            await lab.desktop.send_all(BELL * 100 + update)
            assert await lab.frames.binary(10 + len(update)) == BELL * 10 + update
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
