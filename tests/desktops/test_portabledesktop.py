"""The portabledesktop provider, on a stand-in for the program
(tests/labs/standin_portabledesktop.py)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.desktops import Desktops, RunningDesktop, Separation, portabledesktop, provider_for
from relay.desktops.quarters import Quarters
from relay.dialling.addresses import UnixAddress
from relay.dialling.login import open_desktop
from relay.dialling.passwords import Password
from relay.errors import DesktopError
from relay.limits import Limits
from tests.labs.desktop_processes import (
    desktops_home,
    directories,
    kill_relay,
    living,
    needs_xvnc,
    pid_of,
    runs,
    start_relay,
    tcp_listeners,
    until,
    write_program,
)
from tests.labs.missing import missing
from tests.labs.places import ROOT

__all__ = ["desktops_home"]

STANDIN = ROOT / "tests/labs/standin_portabledesktop.py"


@pytest.fixture
def program(desktops_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `portabledesktop` is found: the stand-in, unless a test writes another."""
    directory = desktops_home / "bin"
    directory.mkdir()
    (directory / "portabledesktop").symlink_to(STANDIN)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setattr(portabledesktop, "HEALTH_INTERVAL_S", 0.1)
    return directory / "portabledesktop"


def replace(program: Path, script: str) -> None:
    program.unlink()
    write_program(program, script)


def state_files(home: Path) -> list[Path]:
    return list(home.glob("deskrelay-*/portabledesktop-*/**/session.json"))


def mode_of(path: str) -> int:
    return Path(path).stat().st_mode


def owner_of(path: str) -> int:
    return Path(path).stat().st_uid


def state(home: Path) -> Any:
    (path,) = state_files(home)
    return json.loads(path.read_text())


def remove_display_files(display: int) -> None:
    Path(f"/tmp/.X{display}-lock").unlink()
    Path(f"/tmp/.X11-unix/X{display}").unlink()


@needs_xvnc
async def test_desktop_answers_on_loopback_only(
    desktops_home: Path, program: Path, nursery: trio.Nursery
) -> None:
    provider = provider_for("portabledesktop", geometry="800x600")
    desktop: RunningDesktop = await nursery.start(provider.run)
    told = state(desktops_home)
    # At its port somebody else may listen once it has ended.
    assert isinstance(desktop.address, UnixAddress)
    end = await open_desktop(desktop.address, password=desktop.password)
    assert (end.width, end.height) == (800, 600)
    await end.aclose()
    # 0100007F is 127.0.0.1. Left to itself, its Xvnc would listen on 00000000, too.
    assert tcp_listeners(told["xvncPid"]) == [f"0100007F:{told['vncPort']:04X}"]
    nursery.cancel_scope.cancel()


@needs_xvnc
async def test_neither_its_port_nor_its_display_is_open_to_others(
    desktops_home: Path, program: Path, nursery: trio.Nursery
) -> None:
    desktop: RunningDesktop = await nursery.start(provider_for("portabledesktop").run)
    with pytest.raises(DesktopError, match="asks for VNC authentication"):
        await open_desktop(desktop.address)
    with pytest.raises(DesktopError, match="refused the authentication"):
        await open_desktop(desktop.address, password=Password("guessed"))
    display = f"/tmp/.X11-unix/X{state(desktops_home)['display']}"
    assert mode_of(display) & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as guest, pytest.raises(ConnectionRefusedError):
        guest.connect(f"\0{display}")
    nursery.cancel_scope.cancel()


async def several() -> bool:
    return True


@needs_xvnc
async def test_in_a_sandbox_its_display_is_nowhere_else(
    desktops_home: Path, program: Path, nursery: trio.Nursery, tmp_path: Path
) -> None:
    if os.geteuid() != 0 or shutil.which("bwrap") is None:
        missing("only root can start a desktop as another user, and bubblewrap has to be there")
    await trio.Path(desktops_home).chmod(0o755)
    pattern = Quarters((61_235, 61_235), None, shutil.which("bwrap"))
    separation = Separation(several, pattern, desktops_home / "homes")
    provider = provider_for("portabledesktop", "ann", separation=separation)
    desktop: RunningDesktop = await nursery.start(provider.run)
    await (await open_desktop(desktop.address, password=desktop.password)).aclose()
    with pytest.raises(DesktopError, match="asks for VNC authentication"):
        await open_desktop(desktop.address)
    display = state(desktops_home)["display"]
    with pytest.raises(FileNotFoundError):
        mode_of(f"/tmp/.X11-unix/X{display}")
    # Nobody else listens where programs look first.
    with socket.socket(socket.AF_UNIX) as squat, pytest.raises(OSError, match="in use"):
        squat.bind(f"\0/tmp/.X11-unix/X{display}")
    xvncs = [pid for pid, name in living(desktops_home).items() if name == "Xvnc"]
    assert [owner_of(f"/proc/{pid}") for pid in xvncs] == [61_235]
    nursery.cancel_scope.cancel()


async def test_a_user_of_its_own_is_not_enough_for_several_users(
    desktops_home: Path, program: Path, nursery: trio.Nursery
) -> None:
    separation = Separation(
        several, Quarters(), desktops_home / "homes", range(1_900_000_000, 1_900_000_100)
    )
    provider = provider_for("portabledesktop", "ann", separation=separation)
    with pytest.raises(DesktopError, match="cannot keep apart: install bubblewrap"):
        await nursery.start(provider.run)


@needs_xvnc
async def test_questions_for_its_health_do_not_shut_viewers_out(
    desktops_home: Path,
    program: Path,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portabledesktop, "HEALTH_INTERVAL_S", 0.01)
    desktop: RunningDesktop = await nursery.start(provider_for("portabledesktop").run)
    viewer = await open_desktop(desktop.address, password=desktop.password)
    for _ in range(20):
        await (await open_desktop(desktop.address, password=desktop.password)).aclose()
    # The first viewer is still there: the others asked for a shared desktop.
    await viewer.stream.send_all(bytes([3, 0, 0, 0, 0, 0, 0, 1, 0, 1]))
    assert (await viewer.stream.receive_some(1)) == b"\0"
    await viewer.aclose()
    nursery.cancel_scope.cancel()


@needs_xvnc
async def test_desktops_started_at_the_same_time_are_not_one(
    desktops_home: Path, program: Path, nursery: trio.Nursery
) -> None:
    async with trio.open_nursery() as starts:
        for _ in range(3):
            starts.start_soon(nursery.start, provider_for("portabledesktop").run)
    told = [json.loads(path.read_text()) for path in state_files(desktops_home)]
    assert len(told) == 3
    for desktop in told:
        assert tcp_listeners(desktop["xvncPid"]) == [f"0100007F:{desktop['vncPort']:04X}"]
    nursery.cancel_scope.cancel()


@needs_xvnc
async def test_cancellation_stops_it_by_down(desktops_home: Path, program: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(provider_for("portabledesktop").run)
        assert runs(desktops_home, "Xvnc")
        nursery.cancel_scope.cancel()
        stopping_since = trio.current_time()
    assert trio.current_time() - stopping_since < 4
    assert living(desktops_home) == {}
    assert directories(desktops_home) == []


@needs_xvnc
async def test_cancellation_while_up_still_waits_for_its_xvnc(
    desktops_home: Path, program: Path
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nursery.start, provider_for("portabledesktop").run)
        await until(lambda: runs(desktops_home, "Xvnc"))
        assert state_files(desktops_home) == []
        nursery.cancel_scope.cancel()
    assert living(desktops_home) == {}
    assert directories(desktops_home) == []


@needs_xvnc
async def test_crash_is_noticed_and_the_next_viewer_gets_a_new_desktop(
    desktops_home: Path,
    program: Path,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    desktops = Desktops(nursery, provider_for)
    await desktops.get("workspace", "portabledesktop")
    os.kill(state(desktops_home)["xvncPid"], signal.SIGTERM)
    await until(lambda: "does not answer any more" in caplog.text)
    desktop = await desktops.get("workspace", "portabledesktop")
    await (await open_desktop(desktop.address, password=desktop.password)).aclose()
    await desktops.stop("workspace")


@needs_xvnc
async def test_the_viewer_right_after_a_crash_gets_a_new_desktop(
    desktops_home: Path, program: Path, nursery: trio.Nursery
) -> None:
    desktops = Desktops(nursery, provider_for)
    await (await desktops.open("workspace", "portabledesktop", Limits())).aclose()
    first = state(desktops_home)
    os.kill(first["xvncPid"], signal.SIGKILL)
    await until(lambda: first["xvncPid"] not in living(desktops_home))
    await (await desktops.open("workspace", "portabledesktop", Limits())).aclose()
    await desktops.stop("workspace")
    remove_display_files(first["display"])


@needs_xvnc
async def test_hung_desktop_counts_as_dead(
    desktops_home: Path,
    program: Path,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider = provider_for("portabledesktop", limits=Limits(handshake_timeout_s=0.3))
    await nursery.start(provider.run)
    told = state(desktops_home)
    os.kill(told["xvncPid"], signal.SIGSTOP)
    await until(lambda: "does not answer any more" in caplog.text)
    await until(lambda: not living(desktops_home))
    # Killed, it could not remove these itself.
    remove_display_files(told["display"])


@needs_xvnc
async def test_what_a_killed_relay_left_is_ended_by_the_next_start(
    desktops_home: Path, program: Path
) -> None:
    relay = await trio.to_thread.run_sync(start_relay, "portabledesktop")
    kill_relay(relay)
    left = pid_of(desktops_home, "Xvnc")
    async with trio.open_nursery() as nursery:
        await nursery.start(provider_for("pattern").run)
        assert left not in living(desktops_home)
        nursery.cancel_scope.cancel()
    assert living(desktops_home) == {}
    assert directories(desktops_home) == []


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo 'Error: ensure runtime: no space' >&2; exit 1", "failed .1.: Error: ensure runtime"),
        ("echo 'state: /tmp/x'", "did not name a vncPort"),
        ("echo '[]'", "did not name a vncPort"),
        ("head -c 60000 /dev/zero | tr '\\0' '['", "did not name a vncPort"),
        ("""echo '{"vncPort": 123456}'""", "did not name a vncPort"),
        ("""echo '{"vncPort": 1}'""", "cannot connect to tcp://127.0.0.1:1"),
        ("sleep 30", "did not end within 0.5 s"),
    ],
)
async def test_up_that_fails_says_how(
    desktops_home: Path,
    program: Path,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    text: str,
) -> None:
    replace(program, script)
    monkeypatch.setattr(portabledesktop, "UP_TIMEOUT_S", 0.5)
    with pytest.raises(DesktopError, match=text):
        await nursery.start(provider_for("portabledesktop").run)
    assert living(desktops_home) == {}
    assert directories(desktops_home) == []


async def test_missing_program_is_said(
    desktops_home: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(desktops_home))
    with pytest.raises(DesktopError, match="not on the PATH"):
        await nursery.start(provider_for("portabledesktop").run)
