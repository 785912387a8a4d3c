"""Sessions whose large payload the kernel moves."""

from __future__ import annotations

import errno
import os

import pytest
import trio

from relay import CloseCode, Limits, Reason
from relay.pumps import splice
from tests.labs.peers import BELL, client_frame, close_far_ends, raw_rectangle, socket_lab

# The fixture.
__all__ = ["close_far_ends"]


async def test_the_kernel_moves_large_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    spliced = 0
    splice = os.splice

    def counted(*args: int, **options: int) -> int:
        nonlocal spliced
        moved = splice(*args, **options)
        spliced += moved
        return moved

    monkeypatch.setattr(os, "splice", counted)
    lab = socket_lab(buffer_bytes=1_000_000)
    update = raw_rectangle(640, 480, fill=0x3C)
    async with lab.running() as nursery:
        await lab.viewer.send_all(client_frame(b"?", opcode=9))
        nursery.start_soon(lab.desktop.send_all, (update + BELL) * 3)
        assert await lab.frames.next() == (10, b"?")
        for _ in range(3):
            assert await lab.frames.binary(len(update) + 1) == update + BELL
        lab.session.stop(1000, "")
        await lab.frames.close()
        await lab.viewer.aclose()
    assert spliced > len(update)
    assert lab.ended.counters.bytes_down == 3 * (len(update) + 1)


async def test_a_frame_that_the_kernel_moves_is_finished_before_the_goodbye() -> None:
    lab = socket_lab(Limits(close_timeout_s=5), buffer_bytes=1_000_000)
    async with lab.running():
        with trio.move_on_after(0.2):
            # More than all buffers hold: the last frame is under way when the session ends.
            await lab.desktop.send_all(raw_rectangle(640, 480) * 8)
        lab.session.stop(CloseCode.ARCHIVED, "chat archived")
        assert await lab.frames.close() == (4410, "chat archived")
        await lab.viewer.aclose()
    assert lab.ended.reason is Reason.STOPPED


async def test_a_viewer_that_leaves_in_the_middle_of_a_frame() -> None:
    lab = socket_lab(buffer_bytes=1_000_000)
    async with lab.running():
        with trio.move_on_after(0.2):
            await lab.desktop.send_all(raw_rectangle(640, 480) * 8)
        await lab.viewer.aclose()
    assert lab.ended.reason is Reason.VIEWER_LOST


async def test_without_a_pipe_large_payload_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(splice, "_pipes", [])
    monkeypatch.setattr(os, "pipe2", none_left)
    lab = socket_lab(buffer_bytes=1_000_000)
    update = raw_rectangle(640, 480, fill=0x3C)
    async with lab.running() as nursery:
        nursery.start_soon(lab.desktop.send_all, (update + BELL) * 3)
        for _ in range(3):
            assert await lab.frames.binary(len(update) + 1) == update + BELL
        nursery.cancel_scope.cancel()
