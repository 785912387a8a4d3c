"""What others can prepare on the machine, so that desktops are not apart or cannot be started."""

from __future__ import annotations

import os
import pwd
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from relay.desktops import (
    RunningDesktop,
    Separation,
    parse_run_as,
    provider_for,
    quarters,
    separation,
    separation_for,
)
from relay.desktops.quarters import Quarters, held_display
from relay.desktops.xvnc import _make_displays_directory
from relay.errors import DesktopError
from tests.labs.desktop_processes import desktops_home, needs_xvnc

__all__ = ["desktops_home"]


async def several() -> bool:
    return True


def apart(homes: Path) -> Separation:
    return Separation(several, Quarters(bubblewrap="/usr/bin/bwrap"), homes)


async def test_names_of_displays_that_others_hold_end_a_start(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(quarters, "_DISPLAYS", 1)
    monkeypatch.setattr(quarters, "_DISPLAYS_FROM", 1_234_567)
    assert await nursery.start(held_display) == 1_234_567
    with pytest.raises(DesktopError, match="cannot hold the name of an X display: Address already"):
        await nursery.start(held_display)
    nursery.cancel_scope.cancel()


def test_only_what_was_bound_is_taken_for_the_vnc_socket(tmp_path: Path) -> None:
    mine = Quarters(home=tmp_path)
    (tmp_path / "ours").mkdir()
    with socket.socket(socket.AF_UNIX) as another, socket.socket(socket.AF_UNIX) as bound:
        another.bind(str(tmp_path / "another"))
        bound.bind(str(tmp_path / "rfb"))
        assert mine.reclaim(tmp_path, tmp_path / "rfb") == tmp_path / "ours/rfb"
    (tmp_path / "rfb").symlink_to(tmp_path / "another")
    with pytest.raises(PermissionError, match="rfb is not the socket that was bound there"):
        mine.reclaim(tmp_path, tmp_path / "rfb")


@needs_xvnc
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a desktop as another user")
async def test_a_display_that_others_could_take_is_not_taken_from_them(
    desktops_home: Path, nursery: trio.Nursery
) -> None:
    await trio.Path(desktops_home).chmod(0o755)
    separation = Separation(
        several, Quarters(), desktops_home / "homes", range(1_900_000_000, 1_900_000_100)
    )
    provider = provider_for("xvnc", "ann", separation=separation)
    desktop: RunningDesktop = await nursery.start(provider.run)
    name = f"/tmp/.X11-unix/X{desktop.environment['DISPLAY'].removeprefix(':')}"
    # Nobody has to be faster, for nobody knows which it will be; and its other name is the relay's.
    assert int(name.rpartition("X")[2]) >= quarters._DISPLAYS_FROM
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(f"\0{name}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(name)
    nursery.cancel_scope.cancel()


def test_a_link_in_the_place_of_the_displays_is_not_followed(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (tmp_path / "displays").symlink_to(private)
    with pytest.raises(PermissionError, match="displays is not a directory of root's; remove it"):
        _make_displays_directory(tmp_path / "displays")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_the_displays_are_a_place_for_everybody(tmp_path: Path) -> None:
    for _ in range(2):
        _make_displays_directory(tmp_path / "displays")
    assert stat.S_IMODE((tmp_path / "displays").stat().st_mode) == 0o1777


@pytest.fixture
def closed_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("closed_umask")
async def test_homes_can_be_entered_whatever_the_umask(tmp_path: Path) -> None:
    homes = tmp_path / "homes"
    assert (await apart(homes).quarters("alice")).home == homes / "alice"
    assert stat.S_IMODE(homes.stat().st_mode) == 0o711


@pytest.mark.parametrize("mode", [0o755, 0o733])
async def test_homes_that_others_can_open_are_refused(tmp_path: Path, mode: int) -> None:
    homes = tmp_path / "homes"
    homes.mkdir()
    homes.chmod(mode)
    # Who can open a directory can hold its lock, and everybody up.
    with pytest.raises(DesktopError, match="only the server can change and list; chmod 711"):
        await apart(homes).quarters("alice")


@pytest.mark.skipif(os.geteuid() != 0, reason="uids are root's to give")
@pytest.mark.parametrize(
    ("uids", "uid"), [("165535-200000", 165_535), ("1-9", None), ("99999-100000", 100_000)]
)
def test_uids_that_accounts_can_act_as_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uids: str, uid: int | None
) -> None:
    file = tmp_path / "subuid"
    file.write_text("# nonsense\nalice:165535:1\nbob:100000:65535\n")
    monkeypatch.setattr(separation, "_SUBORDINATE", file)
    monkeypatch.setattr(pwd, "getpwall", list)
    if uid is None:
        assert separation_for(parse_run_as(uids), tmp_path, several).uids == range(1, 10)
    else:
        with pytest.raises(ValueError, match=f"^uid {uid} is .* too, by {file}; use other uids$"):
            separation_for(parse_run_as(uids), tmp_path, several)


def test_who_is_not_root_is_told_to_do_without_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ValueError, match="run as root, or leave it out and install bubblewrap"):
        separation_for(parse_run_as("1-9"), None, several)
