"""Where desktops have their directories: never in one that somebody else may have made, and never
at the price of Trio's thread."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.desktops import RunningDesktop, provider_for, reap_leftovers, runtime
from relay.desktops.runtime import MARKER
from relay.errors import DesktopError
from tests.labs.desktop_processes import desktops_home, directories, until
from tests.labs.separate_server import NOBODYS_UID, python_of_others

__all__ = ["desktops_home"]


@pytest.fixture
def held(desktops_home: Path) -> Iterator[int]:
    """The lock of the place for desktops, which somebody else holds."""
    base = desktops_home / f"deskrelay-{os.geteuid()}"
    base.mkdir(mode=0o700)
    lock = os.open(base, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield lock
    os.close(lock)


async def test_what_others_hold_is_waited_for_outside_of_trios_thread(
    held: int, desktops_home: Path, nursery: trio.Nursery
) -> None:
    async with trio.open_nursery() as starting:
        started: list[RunningDesktop] = []

        async def start() -> None:
            started.append(await nursery.start(provider_for("pattern").run))

        starting.start_soon(start)
        for _ in range(10):
            await trio.sleep(0.01)
        assert not started
        fcntl.flock(held, fcntl.LOCK_UN)
    assert len(directories(desktops_home)) == 1
    nursery.cancel_scope.cancel()


async def test_a_start_that_waits_can_be_cancelled(held: int, desktops_home: Path) -> None:
    with trio.move_on_after(0.1) as late:
        async with trio.open_nursery() as nursery:
            await nursery.start(provider_for("pattern").run)
    assert late.cancelled_caught
    assert directories(desktops_home) == []


async def test_what_is_held_for_ever_is_told(
    held: int, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "LOCK_S", 0.1)
    with pytest.raises(DesktopError, match=r"another process has held \S+ for 0.1 s"):
        await nursery.start(provider_for("pattern").run)


async def test_a_place_that_cannot_be_had_is_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, nursery: trio.Nursery
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/nowhere")
    await reap_leftovers()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no desktop can be started here" in caplog.text
    with pytest.raises(DesktopError, match="cannot make a private directory"):
        await nursery.start(provider_for("pattern").run)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has desktops that others enter")
async def test_what_is_left_is_looked_for_where_desktops_were(
    desktops_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases = []

    async def noted(base: Path) -> None:
        bases.append(base)

    monkeypatch.setattr(runtime, "_reap", noted)
    # Of a login of root's, which nobody else enters.
    await trio.Path(desktops_home).chmod(0o700)
    for entered in (False, True):
        await reap_leftovers(entered=entered)
        async with runtime.runtime_directory("place", entered=entered) as directory:
            assert bases == [directory.parent] * 2
        bases.clear()


async def test_what_programs_leave_in_the_directory_goes(desktops_home: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(provider_for("pattern").run)
        (name,) = directories(desktops_home)
        (directory,) = await trio.to_thread.run_sync(
            lambda: list(desktops_home.glob(f"deskrelay-*/{name}"))
        )
        # Deeper than Python's stack, and than a path may be long.
        deep = "for _ in range(1500): os.mkdir('deep'); os.chdir('deep')"
        await trio.run_process([sys.executable, "-c", f"import os\n{deep}"], cwd=directory)
        nursery.cancel_scope.cancel()
    # The relay does not wait for all of it.
    await until(lambda: directories(desktops_home) == [])


REMOVE = """
import os, sys
from pathlib import Path
from relay.desktops.runtime import _remove_tree

place = Path(sys.argv[1])
(place / "closed/within").mkdir(parents=True)
(place / "closed").chmod(0)
_remove_tree(place)
assert not place.exists()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a relay as another user")
def test_what_a_program_has_closed_goes_for_who_is_not_root(tmp: Path) -> None:
    python, packages = python_of_others()
    done = subprocess.run(
        [python, "-c", REMOVE, str(tmp / "place")],
        env={"PYTHONPATH": packages},
        user=NOBODYS_UID,
        group=NOBODYS_UID,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def marked(directory: Path, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sleep", "60"], env={MARKER: str(directory)}, **options)


async def test_what_outlives_a_desktop_is_ended_at_the_cost_of_few_descriptors(
    desktops_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "WAITED_FOR", 2)
    left = [marked(desktops_home) for _ in range(6)]
    found = runtime._signalled(f"{MARKER}={desktops_home}".encode(), os.geteuid(), signal.SIGTERM)
    assert len(found) == 2
    for pidfd in found:
        pidfd.close()
    for process in left:
        assert process.wait(5) == -signal.SIGTERM


async def test_a_process_whose_environment_cannot_be_read_holds_nobody_up(
    desktops_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def carries(*_: object) -> bool:
        released.wait(20)
        return False  # Whoever carries it gets a signal.

    monkeypatch.setattr(runtime, "_carries", carries)
    with trio.fail_after(10):
        async with runtime.runtime_directory("held") as directory:
            pass
    assert not directory.exists()
    released.set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a process as another user")
async def test_nothing_is_read_of_other_users_processes(desktops_home: Path) -> None:
    async with runtime.runtime_directory("apart") as directory:
        (directory / "theirs").mkdir()
        os.chown(directory / "theirs", NOBODYS_UID, NOBODYS_UID)
        theirs = marked(directory, user=NOBODYS_UID, group=NOBODYS_UID)
        others = marked(directory, user=NOBODYS_UID + 1, group=NOBODYS_UID + 1)
    try:
        assert theirs.wait(5) == -signal.SIGTERM
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()


# Prints where a desktop had its directory.
DESKTOP = """
import trio
from relay.desktops import provider_for

async def main():
    async with trio.open_nursery() as nursery:
        desktop = await nursery.start(provider_for("pattern").run)
        print(desktop.address.path)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.fixture
def tmp() -> Iterator[Path]:
    """A /tmp."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o1777)
        yield Path(path)


def place_of_others(tmp: Path) -> Path:
    """Where a relay without XDG_RUNTIME_DIR, which is not root, has its desktops' directories."""
    python, packages = python_of_others()
    done = subprocess.run(
        [python, "-c", DESKTOP],
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp), "PYTHONPATH": packages},
        user=NOBODYS_UID,
        group=NOBODYS_UID,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip()).parent.parent


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a relay as another user")
def test_names_that_others_have_taken_in_tmp_are_nobodys_problem(tmp: Path) -> None:
    prefix = f"deskrelay-{NOBODYS_UID}"
    (tmp / prefix).mkdir()  # what the directory was called once
    (tmp / f"{prefix}-evil").mkdir(mode=0o777)
    (tmp / f"{prefix}-link").symlink_to(tmp / f"{prefix}-evil")
    (tmp / f"{prefix}-open").mkdir()
    os.chown(tmp / f"{prefix}-open", NOBODYS_UID, NOBODYS_UID)
    (tmp / f"{prefix}-open").chmod(0o755)
    place = place_of_others(tmp)
    assert place.parent == tmp
    found = place.lstat()
    assert (found.st_uid, found.st_mode & 0o7777) == (NOBODYS_UID, 0o700)
    # The next start finds it again, and with it what a killed one has left.
    assert place_of_others(tmp) == place
