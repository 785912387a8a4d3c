"""One desktop per key: shared starts, failures, ends; and what a spec means."""

from __future__ import annotations

import shutil
import socket
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from relay.desktops import Desktops, RunningDesktop, choose_automatically, provider_for
from relay.desktops.provider import Provider
from relay.dialling.addresses import TcpAddress, UnixAddress, dial
from relay.errors import DesktopError
from relay.limits import Limits
from tests.labs.peers import PIXEL_FORMAT


class Fake:
    """A provider that starts, fails or dies when the test says so."""

    name = "fake"

    def __init__(self) -> None:
        self.starts = 0
        self.stops = 0
        self.start_s = 1.0
        self.cleanup_s = 0.0
        self.failure: str | None = None
        self.die = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
        self.starts += 1
        try:
            await trio.sleep(self.start_s)
            if self.failure is not None:
                raise DesktopError(self.failure)
            desktop = RunningDesktop(TcpAddress("127.0.0.1", 5900 + self.starts))
            task_status.started(desktop)
            await self.die.wait()
            self.die = trio.Event()
            desktop.ended.set()
            await trio.sleep(self.cleanup_s)
        finally:
            self.stops += 1


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
async def desktops(fake: Fake, nursery: trio.Nursery) -> Desktops:
    def make(spec: str, _owner: str) -> Provider:
        if spec != "fake":
            raise ValueError(f"no {spec}")
        return fake

    return Desktops(nursery, make)


async def test_first_callers_share_one_start(
    desktops: Desktops, fake: Fake, autojump_clock: MockClock
) -> None:
    got: list[RunningDesktop] = []

    async def call() -> None:
        got.append(await desktops.get("workspace", "fake"))

    async with trio.open_nursery() as callers:
        for _ in range(5):
            callers.start_soon(call)
    assert fake.starts == 1
    assert len(got) == 5
    assert all(desktop is got[0] for desktop in got)
    assert await desktops.get("workspace", "fake") is got[0]


async def test_each_key_has_its_own_desktop(
    desktops: Desktops, fake: Fake, autojump_clock: MockClock
) -> None:
    one = await desktops.get("one", "fake")
    two = await desktops.get("two", "fake")
    assert fake.starts == 2
    assert one.address != two.address


async def test_first_caller_cancelled_start_goes_on_for_others(
    desktops: Desktops, fake: Fake, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as callers:
        first = trio.CancelScope()

        async def call_first() -> None:
            with first:
                await desktops.get("workspace", "fake")

        callers.start_soon(call_first)
        await trio.testing.wait_all_tasks_blocked()
        callers.start_soon(desktops.get, "workspace", "fake")
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
    assert first.cancelled_caught
    assert (fake.starts, fake.stops) == (1, 0)


async def test_only_caller_cancelled_start_goes_on(
    desktops: Desktops, fake: Fake, autojump_clock: MockClock
) -> None:
    with trio.move_on_after(0.5):
        await desktops.get("workspace", "fake")
    await desktops.get("workspace", "fake")
    assert (fake.starts, fake.stops) == (1, 0)


async def test_failed_start_is_told_to_all_and_not_remembered(
    desktops: Desktops, fake: Fake, autojump_clock: MockClock
) -> None:
    fake.failure = "no Xvnc here"
    told: list[str] = []

    async def call() -> None:
        with pytest.raises(DesktopError) as caught:
            await desktops.get("workspace", "fake")
        told.append(str(caught.value))

    async with trio.open_nursery() as callers:
        for _ in range(3):
            callers.start_soon(call)
    assert told == ["no Xvnc here"] * 3
    assert fake.starts == 1

    fake.failure = None
    await desktops.get("workspace", "fake")
    assert fake.starts == 2


async def test_dead_desktop_is_started_again(
    desktops: Desktops, fake: Fake, autojump_clock: MockClock
) -> None:
    first = await desktops.get("workspace", "fake")
    fake.die.set()
    await trio.testing.wait_all_tasks_blocked()
    second = await desktops.get("workspace", "fake")
    assert fake.starts == 2
    assert second.address != first.address


async def test_next_viewer_does_not_wait_for_the_dead_desktops_cleanup(
    desktops: Desktops, fake: Fake, autojump_clock: MockClock
) -> None:
    fake.cleanup_s = 1000
    first = await desktops.get("workspace", "fake")
    fake.die.set()
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(10):
        second = await desktops.get("workspace", "fake")
    assert second.address != first.address
    await trio.sleep(2000)  # the end of the first is not taken for the end of the second
    assert await desktops.get("workspace", "fake") is second


async def test_stop_waits_for_the_end_and_the_next_get_starts_again(
    desktops: Desktops, fake: Fake, autojump_clock: MockClock
) -> None:
    await desktops.get("workspace", "fake")
    await desktops.stop("workspace")
    assert fake.stops == 1
    await desktops.get("workspace", "fake")
    assert fake.starts == 2
    await desktops.stop("another")


async def test_stop_during_a_start_tells_who_waits(
    desktops: Desktops, fake: Fake, autojump_clock: MockClock
) -> None:
    async def call() -> None:
        with pytest.raises(DesktopError, match="stopped while it started"):
            await desktops.get("workspace", "fake")

    async with trio.open_nursery() as callers:
        callers.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        await desktops.stop("workspace")
    assert fake.stops == 1


async def test_end_of_the_nursery_ends_everything_and_who_waits(
    fake: Fake, autojump_clock: MockClock
) -> None:
    async def call(desktops: Desktops) -> None:
        with pytest.raises(DesktopError):
            await desktops.get("slow", "fake")

    async with trio.open_nursery() as callers, trio.open_nursery() as owner:
        desktops = Desktops(owner, lambda _, __: fake)
        await desktops.get("running", "fake")
        fake.start_s = 1000
        callers.start_soon(call, desktops)
        await trio.testing.wait_all_tasks_blocked()
        owner.cancel_scope.cancel()
    assert (fake.starts, fake.stops) == (2, 2)


@pytest.mark.parametrize("started", [False, True], ids=["at the start", "later"])
async def test_an_error_of_the_system_ends_one_desktop(
    nursery: trio.Nursery, autojump_clock: MockClock, started: bool
) -> None:
    class Broken(Fake):
        async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
            if started:
                task_status.started(RunningDesktop(TcpAddress("127.0.0.1", 1)))
                await trio.sleep(1)
            raise OSError(11, "Resource temporarily unavailable")

    good, broken = Fake(), Broken()
    desktops = Desktops(nursery, lambda spec, _: good if spec == "good" else broken)
    running = await desktops.get("a", "good")
    if started:
        await (await desktops.get("b", "broken")).ended.wait()
    else:
        with pytest.raises(DesktopError, match="the relay, whose log has the cause"):
            await desktops.get("b", "broken")
    await trio.sleep(5)
    assert not running.ended.is_set()
    assert await desktops.get("a", "good") == running


async def test_wrong_spec_is_a_value_error_and_leaves_nothing(
    desktops: Desktops, autojump_clock: MockClock
) -> None:
    with pytest.raises(ValueError, match="no vnc"):
        await desktops.get("workspace", "vnc")
    await desktops.get("workspace", "fake")


@pytest.mark.parametrize("spec", ["", "vnc", "XVNC", "http://x:1", "tcp://host", "unix:relative"])
def test_unknown_specs_are_refused_with_what_to_write(spec: str) -> None:
    with pytest.raises(ValueError, match=r"tcp://HOST:PORT|absolute path"):
        provider_for(spec)


@pytest.mark.parametrize(
    "geometry", ["", "1280", "1280x", "x800", "0x0", "63x800", "8193x800", "-1x5"]
)
def test_wrong_geometry_is_refused(geometry: str) -> None:
    with pytest.raises(ValueError, match="1280x800"):
        provider_for("pattern", geometry=geometry)


@pytest.mark.parametrize("name", ["pattern", "xvnc", "portabledesktop"])
def test_named_providers(name: str) -> None:
    assert provider_for(name).name == name


async def test_an_address_is_used_as_it_is(nursery: trio.Nursery) -> None:
    tcp = await nursery.start(provider_for("tcp://desk.example:5901").run)
    assert tcp.address == TcpAddress("desk.example", 5901)
    unix = await nursery.start(provider_for("unix:/run/desk").run)
    assert unix.address == UnixAddress("/run/desk")
    assert dict(unix.environment) == {}


def test_auto_is_xvnc_where_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}")
    choice = choose_automatically()
    assert choice.spec == "xvnc"
    assert "/opt/Xvnc" in choice.reason


def test_auto_is_the_pattern_elsewhere_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    choice = choose_automatically()
    assert choice.spec == "pattern"
    assert "tigervnc-standalone-server" in choice.reason


async def test_a_desktop_that_vanishes_is_noticed() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        async with await dial(TcpAddress("127.0.0.1", port), timeout_s=5) as stream:
            assert isinstance(stream, trio.SocketStream)
            assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


async def test_who_cannot_be_reached_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(DesktopError) as caught:
            await dial(TcpAddress(host, port), timeout_s=5)
        assert str(caught.value) == f"cannot connect to tcp://{host}:{port}: Connection refused"
    with pytest.raises(DesktopError) as caught:
        await dial(UnixAddress("/nowhere/rfb"), timeout_s=5)
    assert str(caught.value) == "cannot connect to unix:/nowhere/rfb: No such file or directory"


async def test_few_log_in_at_once() -> None:
    """As TigerVNC's server wants it of one host (`BlacklistThreshold`, 5)."""
    unfinished = most = 0

    async def desktop(stream: trio.SocketStream) -> None:
        nonlocal unfinished, most
        unfinished += 1
        most = max(most, unfinished)
        await trio.sleep(0.01)
        await stream.send_all(b"RFB 003.008\n\1\1\0\0\0\0" + b"\0\x40\0\x30" + PIXEL_FORMAT)
        await stream.send_all(b"\0\0\0\0")
        await stream.receive_some(12)
        unfinished -= 1
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, desktop, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        running = RunningDesktop(TcpAddress("127.0.0.1", port))
        opened = []

        async def view() -> None:
            opened.append(await running.open(Limits()))

        async with trio.open_nursery() as viewers:
            for _ in range(12):
                viewers.start_soon(view)
        assert len(opened) == 12
        assert most <= 3
        for end in opened:
            await end.aclose()
        nursery.cancel_scope.cancel()
