"""What a session holds for a side that stalls, to the byte: 64 KiB a direction, with all it takes.

tests/pumps/test_memory.py has the same for the real server and a crowd of viewers.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import termios

import pytest
import trio
import trio.testing

from relay import Limits
from relay.pumps.raw import RawPumps
from relay.pumps.switchboard import WRITABLE
from tests.labs.peers import Lab, client_frame, close_far_ends, pumps_over_tcp, socket_lab
from tests.labs.server_process import REQUEST, TEXT, UPDATE

__all__ = ["close_far_ends"]  # the fixture

TCP_NOTSENT_LOWAT = 25  # of <linux/tcp.h>

BUFFER_BYTES = 16_384
"""For the sockets, so that few bytes fill what the kernel holds."""

READ_BYTES = Limits().read_bytes
FRAME_BYTES = 16
"""Beside what was read: a frame's header, and what was kept of a message's."""


def _pumps(lab: Lab) -> RawPumps:
    pumps = lab.session._pumps
    assert isinstance(pumps, RawPumps)
    return pumps


def _held_down(pumps: RawPumps) -> int:
    """Bytes that a session holds for its viewer: in Python, sent or not, and in a pipe."""
    held = memoryview(pumps._to_viewer.obj).nbytes
    if pumps._frame is not None:
        size = array.array("i", [0])
        fcntl.ioctl(pumps._frame._pipe[0], termios.FIONREAD, size)
        held += size[0]
    return held


async def _say_all(stream: trio.abc.Stream, message: bytes) -> None:
    """Says the message over and over, in pieces that stay together, until nothing takes it."""
    with trio.move_on_after(1):
        while True:
            await stream.send_all(message)


@pytest.mark.parametrize("size_px", [40, 200])
async def test_what_is_held_for_a_viewer_that_stalls(
    size_px: int, autojump_clock: trio.testing.MockClock
) -> None:
    lab = socket_lab(buffer_bytes=BUFFER_BYTES)
    update = struct.pack(">BxHHHHHi", 0, 1, 0, 0, size_px, size_px, 0) + bytes(size_px**2 * 4)
    async with lab.running() as nursery:
        await lab.viewer.send_all(client_frame(REQUEST))
        # It may have what it takes; what is left of a read is held.
        await _say_all(lab.desktop, update)
        pumps = _pumps(lab)
        assert 0 < _held_down(pumps) <= READ_BYTES + FRAME_BYTES
        nursery.cancel_scope.cancel()


async def test_what_is_held_inside_a_frame_that_the_kernel_moves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = socket_lab(buffer_bytes=BUFFER_BYTES)
    async with lab.running() as nursery:
        await lab.viewer.send_all(client_frame(REQUEST))
        # The whole payload is readable at once, and is more than the pipes' threshold.
        desktop = lab.desktop
        assert isinstance(desktop, trio.SocketStream)
        desktop.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        await desktop.send_all(UPDATE[:16])
        await trio.testing.wait_all_tasks_blocked()
        assert desktop.socket._sock.send(UPDATE[16:]) == len(UPDATE) - 16  # type: ignore[attr-defined]
        await trio.testing.wait_all_tasks_blocked()
        pumps = _pumps(lab)
        assert pumps._frame is not None
        assert 0 < _held_down(pumps) <= READ_BYTES + FRAME_BYTES
        nursery.cancel_scope.cancel()


async def test_what_is_held_for_a_desktop_that_stalls(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = socket_lab(buffer_bytes=BUFFER_BYTES)
    async with lab.running() as nursery:
        await _say_all(lab.viewer, TEXT)
        assert 0 < memoryview(_pumps(lab)._to_desktop.obj).nbytes <= READ_BYTES
        nursery.cancel_scope.cancel()


async def test_a_quick_viewers_socket_may_hold_twice_as_much() -> None:
    limits = Limits()
    with pumps_over_tcp() as (pumps, near):

        def holds_bytes(waited_s: float) -> int:
            pumps._to_viewer = memoryview(b"rest")
            pumps.viewer_stalled_since = trio.current_time() - waited_s
            pumps._viewer_event(WRITABLE)
            return near.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT)

        assert near.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == limits.low_water_bytes
        assert holds_bytes(0) == 2 * limits.low_water_bytes
        assert holds_bytes(1) == limits.low_water_bytes
