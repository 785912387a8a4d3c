"""What goes wrong in one session, or takes its time there, stays there."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from relay import VIEW_ONLY, CloseCode, Limits, Reason
from relay.pumps.leg import DownLeg, UpLeg
from relay.rfb.flow import Flow
from tests.labs.peers import (
    BELL,
    KEY,
    UPDATE_REQUEST,
    Lab,
    MakeLab,
    client_frame,
    close_far_ends,
    every_driver,
    lockstep_desktop_lab,
    raw_rectangle,
    socket_lab,
)

# The fixture.
__all__ = ["close_far_ends"]


@pytest.mark.parametrize("where", [(Flow, "due"), (UpLeg, "take"), (DownLeg, "take")])
async def test_a_bug_ends_its_session_and_no_other(
    where: tuple[type, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = socket_lab(), socket_lab()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.run)
        await other.greet()
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a bug")):
            async with trio.open_nursery() as inner:
                inner.start_soon(broken.run)
                await broken.greet()
                with monkeypatch.context() as patch:

                    def fail(*_: object) -> None:
                        raise RuntimeError("a bug")

                    # The second request is held, and due as soon as the first has its answer.
                    request = client_frame(UPDATE_REQUEST)
                    await broken.viewer.send_all(request + request)
                    await broken.hear(10)
                    patch.setattr(*where, fail)
                    if where[0] is UpLeg:
                        await broken.viewer.send_all(client_frame(KEY))
                    else:
                        await broken.desktop.send_all(raw_rectangle())
                    assert await broken.frames.close() == (CloseCode.INTERNAL, "the relay failed")
                    await broken.viewer.aclose()
        await other.desktop.send_all(BELL)
        assert await other.frames.binary(1) == BELL
        nursery.cancel_scope.cancel()


async def type_on(lab: Lab) -> None:
    """Until the session has ended, whether anybody reads it or not."""
    try:
        while True:
            await lab.viewer.send_all(client_frame(KEY * 1000))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def test_a_missing_pong_is_not_waited_for_in_a_circle(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pong that is due may wait behind what the desktop does not take.
    lab = socket_lab(
        Limits(stall_timeout_s=30, ping_interval_s=1, ping_timeout_s=1, close_timeout_s=1),
        buffer_bytes=4096,
    )
    wakes = 0
    now = trio.current_time

    def counted() -> float:
        nonlocal wakes
        wakes += 1
        assert wakes < 10_000, "the watch spins"
        return now()

    monkeypatch.setattr("relay.session.trio.current_time", counted)
    async with lab.running() as nursery:
        nursery.start_soon(type_on, lab)
        assert await lab.frames.close() == (4503, "the desktop does not respond")
        await lab.viewer.aclose()
    assert lab.ended.reason is Reason.DESKTOP_STALLED


async def test_deadlines_hold_while_a_release_cannot_go_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = lockstep_desktop_lab(Limits(stall_timeout_s=30, ping_interval_s=1000, close_timeout_s=1))
    async with lab.running():
        await lab.viewer.send_all(client_frame(KEY))
        assert await lab.hear(8) == KEY
        # Nobody reads the key's release.
        lab.session.rights = VIEW_ONLY
        assert await lab.frames.close() == (4503, "the desktop does not respond")
        await lab.viewer.aclose()
    assert lab.ended.reason is Reason.DESKTOP_STALLED


async def test_a_desktop_that_writes_before_it_reads(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = lockstep_desktop_lab()
    async with lab.running() as nursery:
        request = client_frame(UPDATE_REQUEST)
        await lab.viewer.send_all(request)
        assert await lab.hear(10) == UPDATE_REQUEST
        # A second one is held; keys wait for a desktop that is busy writing its answer first.
        await lab.viewer.send_all(request + client_frame(KEY))
        await trio.testing.wait_all_tasks_blocked()
        await lab.desktop.send_all(raw_rectangle() + BELL)
        await lab.desktop.send_all(BELL)
        assert await lab.frames.binary(len(raw_rectangle()) + 2) == raw_rectangle() + BELL * 2
        assert await lab.hear(18) == KEY + UPDATE_REQUEST
        nursery.cancel_scope.cancel()


@every_driver
async def test_a_format_that_came_with_the_handshake_does_not_wait_for_ever(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    small = b"\0\0\0\0" + bytes.fromhex("08080001000700070003000306000000")
    handshake = client_frame(b"RFB 003.008\n") + client_frame(b"\x01") + client_frame(b"\x01")
    early = handshake + client_frame(UPDATE_REQUEST + small)
    lab = make(Limits(ping_interval_s=1000, update_timeout_s=2), early=early)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.run)
        assert await lab.hear(10) == UPDATE_REQUEST
        # Without fences one pixel is asked for, after the time-out.
        assert await lab.hear(10) == bytes.fromhex("03000000000000010001")
        assert trio.current_time() < 5
        nursery.cancel_scope.cancel()


@every_driver
async def test_each_wait_for_an_update_has_its_own_time(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make()
    part, whole = (struct.pack(">BBHHHH", 3, 1, 0, 0, w, 10) for w in (10, 640))
    async with lab.running() as nursery:
        for _ in range(3):
            await lab.viewer.send_all(client_frame(part + whole))
            assert await lab.hear(10) == part
            await trio.sleep(1.5)
            # Answered in time; so the next one waits for two seconds, not for half a second.
            await lab.desktop.send_all(raw_rectangle(1, 1))
            assert await lab.hear(10) == whole
            await lab.desktop.send_all(raw_rectangle(1, 1))
            await trio.testing.wait_all_tasks_blocked(0.01)
            began = trio.current_time()
            await lab.viewer.send_all(client_frame(part + whole))
            assert await lab.hear(20) == part + whole
            assert trio.current_time() - began == pytest.approx(2, abs=0.1)
            await lab.desktop.send_all(raw_rectangle(1, 1))
            await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
