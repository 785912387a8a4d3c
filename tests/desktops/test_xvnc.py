"""The Xvnc provider with the real Xvnc: who may reach it, and that it always goes away."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from relay.desktops import Desktops, RunningDesktop, provider_for, xvnc
from relay.dialling.addresses import dial
from relay.dialling.login import open_desktop
from relay.errors import DesktopError
from relay.limits import Limits
from tests.labs.desktop_processes import (
    can_read,
    desktops_home,
    directories,
    kill_relay,
    living,
    needs_xvnc,
    pid_of,
    runs,
    start_relay,
    start_stray,
    tcp_listeners,
    until,
    write_program,
)

__all__ = ["desktops_home"]


async def xdpyinfo(environment: Mapping[str, str]) -> tuple[int, str]:
    done = await trio.run_process(
        ["xdpyinfo"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        check=False,
        capture_stdout=True,
        capture_stderr=True,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def socket_of(desktop: RunningDesktop) -> Path:
    return Path("/tmp/.X11-unix", "X" + desktop.environment["DISPLAY"].removeprefix(":"))


def fake_xvnc(home: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    write_program(home / "Xvnc", script)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")


@needs_xvnc
async def test_desktop_answers_and_only_the_cookie_opens_its_display(
    desktops_home: Path, nursery: trio.Nursery
) -> None:
    desktop: RunningDesktop = await nursery.start(provider_for("xvnc", geometry="640x480").run)
    end = await open_desktop(desktop.address)
    assert (end.width, end.height) == (640, 480)
    assert end.security_type == 1
    await end.aclose()

    status, text = await xdpyinfo(desktop.environment)
    assert status == 0, text
    assert "640x480 pixels" in text
    without_cookie = {"DISPLAY": desktop.environment["DISPLAY"]}
    status, text = await xdpyinfo(without_cookie)
    assert status != 0
    assert "uthoriz" in text

    nursery.cancel_scope.cancel()


@needs_xvnc
async def test_no_tcp_port_and_no_secret_of_the_relay(
    desktops_home: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAY_SECRET", "hunter2")
    desktop: RunningDesktop = await nursery.start(provider_for("xvnc").run)
    assert tcp_listeners(pid_of(desktops_home, "Xvnc")) == []
    assert not any(can_read(pid, b"hunter2") for pid in living(desktops_home))
    directory = Path(desktop.environment["XAUTHORITY"]).parent
    assert directory.stat().st_mode & 0o077 == 0
    nursery.cancel_scope.cancel()


@needs_xvnc
async def test_desktops_started_at_the_same_time_get_displays_of_their_own(
    desktops_home: Path, nursery: trio.Nursery
) -> None:
    desktops: list[RunningDesktop] = []

    async def start() -> None:
        desktops.append(await nursery.start(provider_for("xvnc").run))

    async with trio.open_nursery() as starts:
        for _ in range(3):
            starts.start_soon(start)
    assert len({desktop.environment["DISPLAY"] for desktop in desktops}) == 3
    assert len({str(desktop.address) for desktop in desktops}) == 3
    for desktop in desktops:
        assert (await xdpyinfo(desktop.environment))[0] == 0
    # One desktop's cookie does not open another's display.
    mixed = {
        "DISPLAY": desktops[0].environment["DISPLAY"],
        "XAUTHORITY": desktops[1].environment["XAUTHORITY"],
    }
    assert (await xdpyinfo(mixed))[0] != 0
    nursery.cancel_scope.cancel()


@needs_xvnc
async def test_cancellation_leaves_nothing(desktops_home: Path) -> None:
    async with trio.open_nursery() as nursery:
        desktop: RunningDesktop = await nursery.start(provider_for("xvnc").run)
        await until(lambda: runs(desktops_home, "Xvnc", "openbox", "xterm"))
        nursery.cancel_scope.cancel()
        stopping_since = trio.current_time()
    # The relay promises its own end within 5 s.
    assert trio.current_time() - stopping_since < 4
    assert living(desktops_home) == {}
    assert directories(desktops_home) == []
    assert not socket_of(desktop).exists()


@needs_xvnc
async def test_what_was_started_on_the_desktop_ends_with_it(desktops_home: Path) -> None:
    async with trio.open_nursery() as nursery:
        desktop: RunningDesktop = await nursery.start(provider_for("xvnc").run)
        stray = start_stray(str(Path(desktop.environment["XAUTHORITY"]).parent))
        await until(lambda: stray.pid in living(desktops_home))
        nursery.cancel_scope.cancel()
    assert stray.wait() == -signal.SIGKILL


@needs_xvnc
async def test_crash_is_noticed_and_the_next_viewer_gets_a_new_desktop(
    desktops_home: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    desktops = Desktops(nursery, provider_for)
    first = await desktops.get("workspace", "xvnc")
    os.kill(pid_of(desktops_home, "Xvnc"), signal.SIGKILL)
    await until(lambda: "Xvnc has ended" in caplog.text)
    second = await desktops.get("workspace", "xvnc")
    assert second.address != first.address
    await (await open_desktop(second.address)).aclose()
    await desktops.stop("workspace")
    assert living(desktops_home) == {}


@needs_xvnc
async def test_sigkill_of_the_relay_takes_the_desktop_along(desktops_home: Path) -> None:
    relay = await trio.to_thread.run_sync(start_relay, "xvnc")
    await until(lambda: runs(desktops_home, "Xvnc", "openbox", "xterm"))
    kill_relay(relay)
    await until(lambda: not living(desktops_home))
    (left,) = directories(desktops_home)
    assert left.startswith("xvnc-")

    async with trio.open_nursery() as nursery:
        await nursery.start(provider_for("pattern").run)
        assert left not in directories(desktops_home)
        nursery.cancel_scope.cancel()
    assert directories(desktops_home) == []


@needs_xvnc
async def test_directories_of_living_relays_stay(desktops_home: Path) -> None:
    relay = await trio.to_thread.run_sync(start_relay, "pattern")
    (theirs,) = directories(desktops_home)
    async with trio.open_nursery() as nursery:
        await nursery.start(provider_for("pattern").run)
        assert theirs in directories(desktops_home)
        nursery.cancel_scope.cancel()
    assert directories(desktops_home) == [theirs]
    kill_relay(relay)


@needs_xvnc
async def test_a_program_that_fails_is_told_and_leaves_the_desktop(
    desktops_home: Path,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    programs = [["sh", "-c", "echo words >&2; exit 3"], ["true"]]
    monkeypatch.setattr(xvnc, "_programs", lambda: programs)
    desktop: RunningDesktop = await nursery.start(provider_for("xvnc").run)
    await until(lambda: "sh on a desktop has ended with status 3" in caplog.text)
    assert "words" not in caplog.text
    assert "true on a desktop" not in caplog.text
    await (await open_desktop(desktop.address)).aclose()
    nursery.cancel_scope.cancel()


async def test_xvnc_that_fails_is_quoted(
    desktops_home: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_xvnc(desktops_home, monkeypatch, r"printf 'Fatal: \033[31mno screen\007\n' >&2; exit 1")
    with pytest.raises(DesktopError, match=r"^Xvnc did not start: Fatal:  \[31mno screen$"):
        await nursery.start(provider_for("xvnc").run)
    assert directories(desktops_home) == []


async def test_xvnc_that_hangs_is_given_up_and_killed(
    desktops_home: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_xvnc(desktops_home, monkeypatch, "trap '' TERM; while :; do sleep 1; done")
    monkeypatch.setattr(xvnc, "START_TIMEOUT_S", 0.5)
    with trio.fail_after(10), pytest.raises(DesktopError, match="did not start: it said nothing"):
        await nursery.start(provider_for("xvnc").run)
    assert living(desktops_home) == {}


async def test_missing_xvnc_says_what_to_install(
    desktops_home: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(desktops_home))
    with pytest.raises(DesktopError, match="apt install tigervnc-standalone-server"):
        await nursery.start(provider_for("xvnc").run)


async def test_place_that_others_can_enter_is_refused(
    desktops_home: Path, nursery: trio.Nursery
) -> None:
    base = desktops_home / f"deskrelay-{os.getuid()}"
    base.mkdir(mode=0o755)
    with pytest.raises(DesktopError, match="only this user can use"):
        await nursery.start(provider_for("pattern").run)


@needs_xvnc
async def test_many_first_viewers_get_in(desktops_home: Path, nursery: trio.Nursery) -> None:
    # Their handshakes are of one host for TigerVNC, which shuts out one with five unfinished.
    desktops = Desktops(nursery, provider_for)
    names = []

    async def view() -> None:
        desktop = await desktops.open("workspace", "xvnc", Limits())
        names.append(desktop.name)
        await desktop.aclose()

    async with trio.open_nursery() as viewers:
        for _ in range(20):
            viewers.start_soon(view)
    assert names == ["xvnc"] * 20
    # Nor do those count who leave in the middle.
    running = await desktops.get("workspace", "xvnc")
    for _ in range(8):
        stream = await dial(running.address, timeout_s=5)
        await stream.receive_some(1)
        await stream.aclose()
    await view()
    await desktops.stop("workspace")
