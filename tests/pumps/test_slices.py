"""A peer that always has more to say than a slice holds is made to rest, but not a desktop that
shows something.

Time for slices is one of the test's: every look at the clock is a millisecond later than the one
before, so that each full read is a slice.
"""

from __future__ import annotations

import itertools
import math
import struct

import pytest
import trio
import trio.testing

from relay import CloseCode, Limits, Reason
from relay.pumps import raw, slices
from tests.labs.peers import BELL, KEY, Lab, client_frame, close_far_ends, raw_rectangle, socket_lab

__all__ = ["close_far_ends"]  # the fixture

READ_BYTES = slices.UP_READ_BYTES
SLICE_READS = 2  # the first is not looked at the clock for
REST_S = slices.REST_S
FREE_SLICES = 10
FREE_READS = SLICE_READS * FREE_SLICES
KEY_FRAME_BYTES = len(client_frame(KEY))


@pytest.fixture(autouse=True)
def slow_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    milliseconds = itertools.count()
    monkeypatch.setattr(slices, "FREE_SLICES", FREE_SLICES)
    monkeypatch.setattr(raw, "monotonic", lambda: next(milliseconds) / 1_000)


def flood(reads: int) -> tuple[bytes, int]:
    """Key events for so many full reads and a short one; and how many there are."""
    keys = reads * READ_BYTES // KEY_FRAME_BYTES + 1
    return client_frame(KEY) * keys, keys


async def took_s(lab: Lab, reads: int) -> float:
    """How long it takes until the desktop has heard them all."""
    keys, count = flood(reads)
    began = trio.current_time()
    await lab.viewer.send_all(keys)
    assert await lab.hear(len(KEY) * count) == KEY * count
    return trio.current_time() - began


async def rests(lab: Lab) -> float:
    """Waits until the viewer has been made to; until when."""
    pumps = lab.session._pumps
    assert pumps is not None
    while pumps.viewer_rests_until == math.inf:
        await trio.lowlevel.checkpoint()
    return pumps.viewer_rests_until


@pytest.fixture
def lab() -> Lab:
    return socket_lab(Limits(ping_interval_s=1_000), buffer_bytes=1_000_000)


async def test_what_comes_at_once_now_and_then_is_not_held_up(
    lab: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    async with lab.running() as nursery:
        for _ in range(3):
            assert await took_s(lab, FREE_READS) == 0
            await trio.sleep(slices.FREE_AGAIN_S + 1)
        nursery.cancel_scope.cancel()


async def test_a_flood_rests_after_each_slice_and_loses_nothing(
    lab: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    async with lab.running() as nursery:
        assert await took_s(lab, FREE_READS + 4 * SLICE_READS) == pytest.approx(4 * REST_S)
        # What comes in time for nothing else goes at once.
        assert await took_s(lab, 0) == 0
        nursery.cancel_scope.cancel()


async def test_a_viewer_that_rests_sees_what_the_desktop_shows(
    lab: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    async with lab.running() as nursery:
        keys, count = flood(FREE_READS + SLICE_READS)
        await lab.viewer.send_all(keys)
        assert await rests(lab) == trio.current_time() + REST_S
        await lab.desktop.send_all(BELL)
        assert await lab.frames.binary(1) == BELL
        assert await rests(lab) == trio.current_time() + REST_S
        assert await lab.hear(len(KEY) * count) == KEY * count
        nursery.cancel_scope.cancel()


async def test_a_viewer_that_rests_can_be_stopped_and_can_leave(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for leaves in (False, True):
        lab = socket_lab(Limits(ping_interval_s=1_000), buffer_bytes=1_000_000)
        async with lab.running():
            began = trio.current_time()
            await lab.viewer.send_all(flood(FREE_READS + SLICE_READS)[0])
            await rests(lab)
            if leaves:
                await lab.viewer.aclose()
            else:
                lab.session.stop(CloseCode.ARCHIVED, "chat archived")
                assert await lab.frames.close() == (CloseCode.ARCHIVED, "chat archived")
                await lab.viewer.aclose()
        assert lab.ended.reason is (Reason.VIEWER_LOST if leaves else Reason.STOPPED)
        assert trio.current_time() - began == pytest.approx(REST_S if leaves else 0)


# Desktops. Each full read is a slice.

DOWN_READ_BYTES = slices.DOWN_READ_LEAST_BYTES
TEXT = struct.pack(">BxxxI", 3, 24) + b"twenty-four of Latin-1.."
TEXTS_OF_A_SLICE = TEXT * (DOWN_READ_BYTES // len(TEXT))
FREE_TEXTS = TEXTS_OF_A_SLICE * FREE_SLICES


@pytest.fixture
def flooded() -> Lab:
    limits = Limits(ping_interval_s=1_000, read_bytes=DOWN_READ_BYTES)
    return socket_lab(limits, buffer_bytes=1_000_000)


async def shown_s(lab: Lab, said: bytes) -> float:
    """How long it takes until the viewer has it all."""
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab.desktop.send_all, said)
        assert await lab.frames.binary(len(said)) == said
    return trio.current_time() - began


async def test_texts_without_end_rest_after_each_slice_and_none_is_lost(
    flooded: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    assert len(FREE_TEXTS) == DOWN_READ_BYTES * FREE_SLICES
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flooded.run)
        await flooded.greet()
        assert await shown_s(flooded, FREE_TEXTS) == 0
        await trio.sleep(slices.FREE_AGAIN_S + 1)
        # The rest behind the last slice is for what may come next.
        assert await shown_s(flooded, FREE_TEXTS + TEXTS_OF_A_SLICE * 4) == pytest.approx(
            3 * REST_S
        )
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "shown",
    [
        struct.pack(">BxH", 0, 1_000) + raw_rectangle()[4:] * 1_000,
        raw_rectangle(300, 200),
        raw_rectangle(300, 40) * 5,
        # Each ends with a slice, and so does the text in front of them.
        struct.pack(">BxxxI", 3, DOWN_READ_BYTES - 12)
        + bytes(DOWN_READ_BYTES - 12)
        + struct.pack(">BxH", 0, 40)
        + raw_rectangle(3 * DOWN_READ_BYTES // 4 - 3, 1)[4:] * 40,
    ],
    ids=["small rectangles", "a large one", "large ones", "of three slices each"],
)
async def test_who_shows_something_never_rests(
    flooded: Lab, autojump_clock: trio.testing.MockClock, shown: bytes
) -> None:
    assert len(shown) > 2 * len(FREE_TEXTS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flooded.run)
        await flooded.greet()
        assert await shown_s(flooded, shown) == 0
        # And what it says besides has all of its slices left.
        assert await shown_s(flooded, FREE_TEXTS) == 0
        nursery.cancel_scope.cancel()


async def test_a_text_is_nothing_shown_even_behind_an_update(
    flooded: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    rest = slices.FREE_SLICES * DOWN_READ_BYTES + 4 * DOWN_READ_BYTES
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flooded.run)
        await flooded.greet()
        await shown_s(flooded, raw_rectangle(300, 200))
        text = struct.pack(">BxxxI", 3, rest) + bytes(rest)
        # The end of what was shown is in its first slice.
        assert await shown_s(flooded, text) == pytest.approx(3 * REST_S)
        nursery.cancel_scope.cancel()


async def test_a_desktop_that_rests_hears_its_viewer(
    flooded: Lab, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flooded.run)
        await flooded.greet()
        nursery.start_soon(shown_s, flooded, FREE_TEXTS + TEXTS_OF_A_SLICE * 8)
        pumps = flooded.session._pumps
        assert pumps is not None
        while pumps.desktop_rests_until == math.inf:
            await trio.lowlevel.checkpoint()
        assert await took_s(flooded, 0) == 0
        assert pumps.desktop_rests_until == trio.current_time() + REST_S
        nursery.cancel_scope.cancel()
