"""Sessions end to end without a network: every driver, virtual time, scripted peers."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from relay import CloseCode, Direction, Limits, Reason
from relay.net.websocket import PING, PONG
from tests.labs.peers import (
    BELL,
    KEY,
    KEY_UP,
    UPDATE_REQUEST,
    Lab,
    MakeLab,
    client_frame,
    close_far_ends,
    every_driver,
    memory_lab,
    raw_rectangle,
    socket_lab,
)

# The fixture.
__all__ = ["close_far_ends"]


@every_driver
async def test_what_either_side_says_reaches_the_other(make: MakeLab) -> None:
    lab = make()
    async with lab.running():
        await lab.viewer.send_all(client_frame(UPDATE_REQUEST) + client_frame(KEY))
        assert await lab.hear(18) == UPDATE_REQUEST + KEY
        update = raw_rectangle(40, 30)
        await lab.desktop.send_all(update + BELL)
        assert await lab.frames.binary(len(update) + 1) == update + BELL
        await lab.viewer.send_all(client_frame(struct.pack(">H", 1000), opcode=8))
        assert await lab.frames.close() == (1000, "")
    assert lab.ended.reason is Reason.VIEWER_CLOSED
    assert lab.ended.counters.bytes_down == len(update) + 1
    assert lab.ended.counters.bytes_up == 18


@every_driver
async def test_a_message_in_single_bytes_arrives_whole(make: MakeLab) -> None:
    lab = make()
    async with lab.running() as nursery:
        for byte in client_frame(KEY) + b"".join(client_frame(bytes([b])) for b in KEY):
            await lab.viewer.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert await lab.hear(16) == KEY + KEY
        nursery.cancel_scope.cancel()


@every_driver
async def test_frames_that_came_with_the_upgrade_request_count(make: MakeLab) -> None:
    lab = make(early=client_frame(b"RFB 003.008\n") + client_frame(b"\x01\x01" + KEY))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.run)
        assert await lab.hear(8) == KEY
        nursery.cancel_scope.cancel()


@every_driver
async def test_a_ping_is_answered(make: MakeLab) -> None:
    lab = make()
    async with lab.running() as nursery:
        await lab.viewer.send_all(client_frame(b"there?", opcode=9))
        assert await lab.frames.next() == (10, b"there?")
        nursery.cancel_scope.cancel()


@every_driver
async def test_a_fault_of_the_desktop_is_told_with_its_place(make: MakeLab) -> None:
    lab = make()
    async with lab.running():
        await lab.desktop.send_all(BELL + b"\x63")  # 99 is no message type
        assert await lab.frames.close() == (
            CloseCode.DESKTOP_FAULT,
            "the desktop broke the protocol: message-type",
        )
        await lab.viewer.aclose()
    assert lab.ended.reason is Reason.DESKTOP_FAULT
    assert lab.ended.direction is Direction.DOWN
    assert lab.ended.offset == 1


@every_driver
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (client_frame(b"\x63"), CloseCode.POLICY),
        (client_frame(b"hello", opcode=1), CloseCode.TEXT_FRAME),
        (b"\x82\x01\x63", CloseCode.WEBSOCKET_FAULT),  # not masked
        (b"\x82\xff" + struct.pack(">Q", 1 << 40) + b"mask", CloseCode.TOO_BIG),
        (b"GET / HTTP/1.1\r\n", CloseCode.WEBSOCKET_FAULT),
    ],
    ids=["not RFB", "text", "unmasked", "too big", "not WebSocket"],
)
async def test_a_fault_of_the_viewer_reaches_no_desktop(
    make: MakeLab, sent: bytes, code: CloseCode
) -> None:
    lab = make()
    async with lab.running():
        await lab.viewer.send_all(sent)
        assert (await lab.frames.close())[0] == code
        await lab.viewer.aclose()
        assert await lab.desktop.receive_some(100) == b""
    assert lab.ended.reason is Reason.VIEWER_FAULT
    assert lab.ended.rule
    assert lab.ended.evidence == (b"\x63" if code == CloseCode.POLICY else sent)
    assert lab.ended.counters.bytes_up == 0


@every_driver
async def test_eof_of_the_desktop_drains_then_closes(make: MakeLab) -> None:
    lab = make()
    async with lab.running() as nursery:
        update = raw_rectangle(640, 100)
        nursery.start_soon(lab.desktop.send_all, update)
        assert await lab.frames.binary(len(update)) == update
        await lab.desktop.send_all(BELL)
        await lab.desktop.aclose()
        assert await lab.frames.binary(1) == BELL
        assert (await lab.frames.close())[0] == CloseCode.DESKTOP_GONE
        await lab.viewer.aclose()
    assert lab.ended.reason is Reason.DESKTOP_CLOSED


@every_driver
async def test_a_viewer_that_half_closes_ends_its_session(make: MakeLab) -> None:
    lab = make()
    async with lab.running():
        await lab.viewer.send_all(client_frame(KEY))
        await lab.viewer.send_eof()
        assert await lab.hear(16) == KEY + KEY_UP
        assert await lab.desktop.receive_some(1) == b""
    assert lab.ended.reason is Reason.VIEWER_LOST


@every_driver
async def test_stop_says_why(make: MakeLab) -> None:
    lab = make()
    async with lab.running():
        lab.session.stop(CloseCode.ARCHIVED, "chat archived")
        assert await lab.frames.close() == (4410, "chat archived")
        await lab.viewer.send_all(client_frame(struct.pack(">H", 4410), opcode=8))
    assert lab.ended.reason is Reason.STOPPED


@every_driver
async def test_stop_during_the_handshake(make: MakeLab) -> None:
    lab = make()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.run)
        assert await lab.frames.binary(12) == b"RFB 003.008\n"
        lab.session.stop(CloseCode.GOING_AWAY, "bye")
        assert await lab.frames.close() == (1001, "bye")
    assert lab.ended.reason is Reason.STOPPED


@every_driver
async def test_a_silent_viewer_misses_its_handshake(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make(Limits(handshake_timeout_s=7))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.run)
        assert (await lab.frames.close())[0] == CloseCode.TIMEOUT
    assert lab.ended.reason is Reason.VIEWER_SLOW_HANDSHAKE
    assert trio.current_time() == pytest.approx(7)


@every_driver
async def test_dripping_does_not_extend_the_handshake(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make(Limits(handshake_timeout_s=7))

    async def drip() -> None:
        for byte in client_frame(b"RFB 003.008\n"):
            await lab.viewer.send_all(bytes([byte]))
            await trio.sleep(3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        await lab.run()
        nursery.cancel_scope.cancel()
    assert lab.ended.reason is Reason.VIEWER_SLOW_HANDSHAKE
    assert trio.current_time() == pytest.approx(7)


@every_driver
async def test_no_pong_ends_the_session(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make(Limits(ping_interval_s=10, ping_timeout_s=5, close_timeout_s=1))
    async with lab.running():
        assert await lab.frames.next() == (9, b"")
        await lab.viewer.send_all(client_frame(b"", opcode=10))
        assert await lab.frames.next() == (9, b"")
        assert trio.current_time() == pytest.approx(20)
        assert await lab.frames.close() == (4408, "the viewer did not answer")
    assert lab.ended.reason is Reason.VIEWER_SILENT
    assert trio.current_time() == pytest.approx(26)


@every_driver
async def test_who_watches_a_still_desktop_for_a_day_is_no_flood(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make()
    async with lab.running() as nursery:
        while trio.current_time() < 86_400:
            assert await lab.frames.next() == (PING, b"")
            await lab.viewer.send_all(client_frame(b"", opcode=PONG))
        nursery.cancel_scope.cancel()


@every_driver
async def test_idle_counts_input_only(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make(Limits(idle_timeout_s=60, ping_interval_s=1000, close_timeout_s=1))
    async with lab.running():
        await trio.sleep(50)
        await lab.viewer.send_all(client_frame(KEY))
        await trio.sleep(50)
        await lab.viewer.send_all(client_frame(UPDATE_REQUEST))
        assert (await lab.frames.close())[0] == CloseCode.IDLE
        assert trio.current_time() == pytest.approx(110)
    assert lab.ended.reason is Reason.VIEWER_IDLE


async def test_a_viewer_that_reads_nothing_stalls_and_little_is_held(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = socket_lab(
        Limits(stall_timeout_s=30, ping_interval_s=1000, close_timeout_s=1), buffer_bytes=4096
    )
    sent = 0

    async def flood() -> None:
        nonlocal sent
        update = raw_rectangle(640, 480)
        try:
            while True:
                sent += await lab.desktop.socket.send(update)  # type: ignore[attr-defined]
        except OSError:
            return

    async with lab.running() as nursery:
        nursery.start_soon(flood)
    assert lab.ended.reason is Reason.VIEWER_STALLED
    # 64 KiB in the relay; the rest is what four kernel buffers hold.
    assert sent < 65_536 + 300_000
    assert trio.current_time() == pytest.approx(31)


async def test_a_stalled_viewer_over_plain_streams(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = memory_lab(Limits(stall_timeout_s=30, ping_interval_s=1000, close_timeout_s=1))
    viewer, far = trio.testing.lockstep_stream_pair()
    lab.session._viewer = viewer
    lab.frames.stream = lab.viewer = far
    async with lab.running():
        await lab.desktop.send_all(raw_rectangle(100, 100))
    assert lab.ended.reason is Reason.VIEWER_STALLED
    assert trio.current_time() == pytest.approx(30)


async def test_a_desktop_that_reads_nothing_stalls(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = socket_lab(Limits(stall_timeout_s=30, ping_interval_s=1000), buffer_bytes=4096)

    async def type_on() -> None:
        try:
            while True:
                await lab.viewer.send_all(client_frame(KEY * 1000))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async with lab.running() as nursery:
        nursery.start_soon(type_on)
        assert await lab.frames.close() == (4503, "the desktop does not respond")
        await lab.viewer.aclose()
    assert lab.ended.reason is Reason.DESKTOP_STALLED


@every_driver
async def test_pings_without_reading_collect_nothing(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make(Limits(stall_timeout_s=30, ping_interval_s=1000, close_timeout_s=1))
    async with lab.running():
        try:
            for _ in range(2000):
                await lab.viewer.send_all(client_frame(b"x" * 100, opcode=9))
        except trio.BrokenResourceError:
            pass
    # 1,000 control frames without payload between are the limit.
    assert lab.ended.reason is Reason.VIEWER_FAULT


@every_driver
async def test_a_close_frame_of_the_viewer_is_answered_and_that_is_all(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make(Limits(close_timeout_s=1000))
    async with lab.running():
        await lab.viewer.send_all(client_frame(struct.pack(">H", 1000), opcode=8))
        assert await lab.frames.close() == (1000, "")
        # RFC 6455, Section 7.1.1: the server closes the connection, the viewer waits for that.
        assert await lab.viewer.receive_some(1) == b""
    assert trio.current_time() == 0


@every_driver
async def test_a_viewer_that_sends_on_after_the_close_frame_is_cut_off(
    make: MakeLab, autojump_clock: trio.testing.MockClock
) -> None:
    lab = make(Limits(close_timeout_s=1000, ping_interval_s=10_000))
    async with lab.running():
        await lab.viewer.send_all(client_frame(b"not RFB"))
        assert (await lab.frames.close())[0] == CloseCode.POLICY
        try:
            await lab.viewer.send_all(client_frame(bytes(32_768)) * 64)
        except trio.BrokenResourceError:
            pass  # a memory stream takes it all at once, a socket does not
    assert lab.ended.reason is Reason.VIEWER_FAULT
    assert trio.current_time() == 0, "the deadline ended it, not what was sent"


@every_driver
async def test_a_large_update_streams_through_a_slow_viewer(make: MakeLab) -> None:
    lab = make(**({"buffer_bytes": 4096} if make is socket_lab else {}))
    update = raw_rectangle(640, 480)
    async with lab.running() as nursery:
        nursery.start_soon(lab.desktop.send_all, update * 3)
        for _ in range(3):
            assert await lab.frames.binary(len(update)) == update
        nursery.cancel_scope.cancel()


@every_driver
async def test_cancelled_at_any_moment_both_ends_close(make: MakeLab) -> None:
    """Cancels after the first wait, the second, and so on, until the session ends by itself."""

    async def story(lab: Lab) -> None:
        await lab.greet()
        await lab.viewer.send_all(client_frame(KEY))
        await lab.hear(8)
        await lab.desktop.send_all(raw_rectangle())
        await lab.frames.binary(len(raw_rectangle()))
        await lab.desktop.aclose()
        await lab.frames.close()
        await lab.viewer.send_all(client_frame(struct.pack(">H", 1000), opcode=8))

    async def swallow(lab: Lab) -> None:
        try:
            await story(lab)
        except (trio.BrokenResourceError, EOFError, AssertionError, trio.ClosedResourceError):
            return

    steps = 0
    while True:
        lab = make()
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def run(scope: trio.CancelScope = scope, lab: Lab = lab) -> None:
                with scope:
                    await lab.run()

            nursery.start_soon(run)
            nursery.start_soon(swallow, lab)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
            await lab.session._viewer.send_all(b"x")
        with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
            await lab.session._desktop.stream.send_all(b"x")
        if lab.result:
            break
        steps += 1
        assert steps < 500
    assert steps > 5


async def test_sessions_do_not_disturb_each_other() -> None:
    good, bad = socket_lab(), socket_lab()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(good.run)
        nursery.start_soon(bad.run)
        await good.greet()
        await bad.greet()
        # Half a rectangle's header stays in the tail of one while the other moves bytes.
        update = raw_rectangle(8, 8)
        await good.desktop.send_all(update[:9])
        await trio.testing.wait_all_tasks_blocked()
        await bad.desktop.send_all(b"\xff" * 64)
        assert (await bad.frames.close())[0] == CloseCode.DESKTOP_FAULT
        await bad.viewer.aclose()
        await good.desktop.send_all(update[9:])
        assert await good.frames.binary(len(update)) == update
        good.session.stop(1000, "")
        await good.frames.close()
        await good.viewer.aclose()
    assert bad.ended.reason is Reason.DESKTOP_FAULT
    assert good.ended.reason is Reason.STOPPED
