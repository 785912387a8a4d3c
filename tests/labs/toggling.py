"""`python -m tests.labs.toggling`: a viewer that changes its pixel format as fast as it can.

On real desktops, through a session over real sockets. Between two changes the viewer reads what
comes, checks that it keeps step (tests/labs/rfb_viewer.py), moves the pointer and now and then
offers another list of encodings. A terminal on the screen changes all the time.

What a viewer may do:

- plain: asks, reads the answer, changes, asks.
- fence: plain, with fences, which the viewer answers.
- continuous: continuous updates, off for the change and on again, as TigerVNC's viewer does;
  the new format holds from EndOfContinuousUpdates on. Where the desktop has none: plain.

What it may not, and the relay has to put right, so that the viewer is told by the relay which
format it believes an update to have, and checks that against the update:

- rude: changes right behind a request.
- rude-both: changes right behind an incremental request and one for everything. Servers answer
  both with one update or with two; which, only silence tells. A hundredth of the changes.
- rude-fence: the same with fences and no patience: the relay takes a fence at once.
- rude-continuous: changes within continuous updates.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from unittest import mock

import trio

from relay import Ended, Limits, Reason, Session, UnixAddress, open_desktop
from relay.desktops import RunningDesktop, provider_for
from relay.desktops.process import Child, supervise
from relay.desktops.runtime import environment_for
from relay.rfb.flow import Flow
from relay.rfb.pixel_format import PixelFormat
from tests.labs.rfb_viewer import (
    CONTINUOUS,
    COPYRECT,
    CURSOR,
    DESKTOP_SIZE,
    FENCE,
    HEXTILE,
    LAST_RECT,
    NAME,
    RAW,
    RRE,
    TIGHT,
    ZLIB,
    ZRLE,
    Viewer,
    set_encodings,
    set_pixel_format,
)

COMBINATIONS = {
    "xvnc": ("plain", "fence", "continuous", "rude", "rude-both", "rude-fence", "rude-continuous"),
    # libvncserver up to 0.9.15 has neither fences nor continuous updates: it ignores the offer.
    "x11vnc": ("plain", "continuous", "rude", "rude-both"),
}

_SIGNALS = {
    "fence": (FENCE,),
    "rude-fence": (FENCE,),
    "continuous": (FENCE, CONTINUOUS),
    "rude-continuous": (FENCE, CONTINUOUS),
}

# In every list: TigerVNC 1.12 ends its session ("Client does not support local cursor") when the
# list drops a cursor that is due. ExtendedDesktopSize is in none: an update with it alone ends
# what is under way at TigerVNC, and at libvncserver does not, so no viewer could keep step.
_ALWAYS = (CURSOR, DESKTOP_SIZE, NAME)
# Each drops something of the one before it. No quality level permits JPEG: libvncserver sends it
# at 8 bits per pixel too, where there is none (community specification, Tight Encoding). Each has
# a real encoding: where a list has none, libvncserver goes on with the one before.
_LISTS = (
    (HEXTILE, COPYRECT, LAST_RECT),
    (TIGHT, LAST_RECT),
    (RAW,),
    (ZRLE, COPYRECT),
    (RRE, LAST_RECT),
    (ZLIB, COPYRECT),
    (TIGHT,),
)
_CHANGES_PER_LIST = 6

# Colours, so that no encoding has it too easy and no lost byte passes for padding.
_BUSY = r"""i=0
while :; do
  i=$((i + 1))
  printf '\033[3%d;4%dm%d %d line of text that scrolls\n' $((i % 7)) $((i % 8)) $i $((i * 7919))
  sleep 0.004
done"""
_TERMINAL = ["xterm", "-geometry", "60x16+20+40", "-bg", "#223344", "-e", "/bin/sh", "-c", _BUSY]


@dataclasses.dataclass
class Report:
    """`ways` counts how changes went that could not go at once: at a fence's answer; after one
    pixel was asked for; after nothing had come for as long as a format waits."""

    server: str
    mode: str
    changes: int = 0
    updates: int = 0
    seconds: float = 0.0
    longest_wait_s: float = 0.0
    fences: int = 0
    ends: int = 0
    ways: dict[str, int] = dataclasses.field(default_factory=dict)
    encodings: dict[int, int] = dataclasses.field(default_factory=dict)


@contextmanager
def _counted(ways: dict[str, int]) -> Iterator[None]:
    expire, fence_format = Flow.expire, Flow._fence_format
    ways.update({"fence": 0, "one pixel": 0, "silence": 0})

    def counted_expire(flow: Flow) -> None:
        requests = flow.requests
        expire(flow)
        ways["one pixel"] += flow.requests > requests
        ways["silence"] += flow.requests < requests

    def counted_fence_format(flow: Flow, wanted: PixelFormat) -> bytes:
        ways["fence"] += 1
        return fence_format(flow, wanted)

    with (
        mock.patch.object(Flow, "expire", counted_expire),
        mock.patch.object(Flow, "_fence_format", counted_fence_format),
    ):
        yield


@asynccontextmanager
async def desktop(server: str) -> AsyncGenerator[UnixAddress, None]:
    """An Xvnc with a busy screen, or an x11vnc on the display of one."""
    async with trio.open_nursery() as nursery:
        xvnc: RunningDesktop = await nursery.start(provider_for("xvnc", geometry="640x480").run)
        address = xvnc.address
        assert isinstance(address, UnixAddress)
        directory = Path(address.path).parent
        start = partial(supervise, environment=environment_for(directory, xvnc.environment))
        nursery.start_soon(start, _TERMINAL)
        if server == "x11vnc":
            address = UnixAddress(str(directory / "x11vnc"))
            command = ["x11vnc", "-unixsock", address.path, "-rfbport", "0", "-forever", "-shared"]
            # It polls the screen; by default each 20 ms, and waits as long for more to change.
            command += ["-noshm", "-nopw", "-wait", "5", "-defer", "5", "-quiet"]
            child: Child = await nursery.start(start, command)
            with trio.fail_after(20):
                while not await trio.Path(address.path).exists():
                    assert child.status is None, child.last_words()
                    await trio.sleep(0.05)
        yield address
        nursery.cancel_scope.cancel()


class Toggler:
    """Does what its mode says, `changes` times."""

    def __init__(self, viewer: Viewer, report: Report, session: Session) -> None:
        self._viewer = viewer
        self._report = report
        self._session = session
        self._signals = _SIGNALS.get(report.mode, ())
        self._formats = cycle((16, 8, 32))
        self._lists = cycle(_LISTS)
        self._offered: frozenset[int] = frozenset()

    def _begin(self) -> None:
        """The relay's own belief, for a viewer that cannot know."""
        conversation = self._session._conversation
        assert conversation is not None
        believed: deque[int] = deque()

        def observe(what: str, number: int, offset: int) -> None:
            if what == "message" and number == 0:
                believed.append(conversation.state.pixel_format.bits_per_pixel)

        conversation.down.observer = observe
        self._viewer.expected = believed.popleft

    async def run(self, changes: int) -> None:
        viewer, mode = self._viewer, self._report.mode
        rude = mode.startswith("rude")
        await viewer.greet()
        if rude:
            while self._session._conversation is None:
                await trio.lowlevel.checkpoint()
            self._begin()
        await viewer.send(self._offer(), viewer.request(0))
        viewer.offered = self._offered
        await self._update()
        act = self._rude if rude else self._plain
        if viewer.ends:
            act = self._rude_continuous if rude else self._continuous
            await viewer.send(viewer.enable(1))
        while self._report.changes < changes:
            began = time.monotonic()
            with trio.fail_after(30):
                await act()
            self._report.longest_wait_s = max(self._report.longest_wait_s, time.monotonic() - began)

    async def _update(self) -> int:
        """Reads an update; how many pixels it covers."""
        update = await self._viewer.update()
        self._report.updates += 1
        counts = self._report.encodings
        for number in update.encodings:
            counts[number] = counts.get(number, 0) + 1
        return update.area_px

    def _offer(self) -> bytes:
        offered = (*next(self._lists), *_ALWAYS, *self._signals)
        self._offered = frozenset(offered)
        return set_encodings(*offered)

    def _change(self) -> tuple[int, bytes]:
        """The next format, and what to send for it; perhaps with a new list."""
        bits = next(self._formats)
        message = set_pixel_format(bits)
        if self._report.changes % _CHANGES_PER_LIST == 0:
            message += self._offer()
        self._report.changes += 1
        return bits, message

    def _pointer(self) -> bytes:
        """Into the terminal and out of it: the shape of the cursor changes."""
        inside = self._report.changes // 2 % 2
        return struct.pack(">BBHH", 5, 0, 100, 100 if inside else 470)

    async def _plain(self) -> None:
        viewer = self._viewer
        viewer.bits, change = self._change()
        viewer.offered = self._offered
        incremental = self._report.changes % 2
        await viewer.send(change, self._pointer(), viewer.request(incremental))
        await self._update()

    async def _continuous(self) -> None:
        viewer = self._viewer
        bits, change = self._change()
        ended = trio.Event()

        def on_end() -> None:
            viewer.bits = bits
            viewer.offered = self._offered
            ended.set()

        viewer.on_end = on_end
        await viewer.send(viewer.enable(0), change, viewer.enable(1), self._pointer())
        while not ended.is_set():
            await self._update()
        await self._pixels()

    async def _pixels(self) -> None:
        """Now and then the format is to be seen: a change alone brings but a cursor."""
        if self._report.changes % 4 == 0:
            while not await self._update():
                pass

    async def _rude(self) -> None:
        viewer = self._viewer
        _, change = self._change()
        viewer.offered |= self._offered
        incremental = self._report.changes % 2
        requests = viewer.request(incremental)
        if self._report.mode == "rude-both":
            requests = viewer.request(1) + viewer.request(0)
        await viewer.send(requests, change, self._pointer())
        await self._update()

    async def _rude_continuous(self) -> None:
        viewer = self._viewer
        _, change = self._change()
        viewer.offered |= self._offered
        await viewer.send(change, self._pointer())
        await self._update()
        await self._pixels()


async def toggle(
    server: str, address: UnixAddress, mode: str, changes: int, patience_s: float | None = None
) -> Report:
    """One session, in which a format waits for `patience_s`. Raises OutOfStep, EOFError where the
    relay ends it, TooSlowError where nothing has come for 30 s."""
    report = Report(server, mode)
    if patience_s is None:
        patience_s = 0.001 if mode == "rude-fence" else Limits().update_timeout_s
    limits = Limits(update_timeout_s=patience_s)
    near, far = map(trio.SocketStream, trio.socket.socketpair())
    session = Session(near, await open_desktop(address), limits=limits)
    viewer = Viewer(far)
    ended: list[Ended] = []

    async def carry() -> None:
        ended.append(await session.run())

    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry)
        try:
            with _counted(report.ways):
                await Toggler(viewer, report, session).run(changes)
        finally:
            await far.aclose()
    report.seconds = round(time.monotonic() - began, 2)
    report.longest_wait_s = round(report.longest_wait_s, 3)
    report.fences, report.ends = viewer.fences, viewer.ends
    assert ended[0].reason == Reason.VIEWER_LOST, ended
    return report


async def _main(arguments: argparse.Namespace) -> None:
    for server in arguments.server or COMBINATIONS:
        for mode in arguments.mode or COMBINATIONS[server]:
            # Every other change of this one waits in vain: hours, with six seconds each.
            changes = arguments.changes // (100 if mode == "rude-both" else 1)
            async with desktop(server) as address:
                report = await toggle(server, address, mode, changes)
            print(json.dumps(dataclasses.asdict(report)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--server", choices=[*COMBINATIONS], action="append", help="default: both")
    parser.add_argument(
        "--mode", choices=COMBINATIONS["xvnc"], action="append", help="default: all"
    )
    trio.run(_main, parser.parse_args())
