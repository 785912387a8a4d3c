"""Private directories of running desktops, and the processes that belong to them.

Each desktop has a directory (mode 0700) for its sockets and secrets, locked for as long as its
relay lives. The kernel drops the lock however the relay dies, so a directory that can be locked
belongs to nobody, and the next start removes it. (A file with a process id would say less: ids
are used again.)

Every process of a desktop carries the directory's path in its environment, and passes it on to
what it starts. So what detaches itself, such as the Xvnc of portabledesktop, is found without
trusting a process id from a file.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import trio

from relay.errors import DesktopError

MARKER = "DESKRELAY_DESKTOP"
"""Environment variable that names a process's desktop by its directory."""

SWEEP_GRACE_S = 0.7
"""From TERM to KILL for processes that outlived their desktop, and from KILL to giving up."""

# What a desktop's programs see of the relay's environment. Everything else may hold secrets
# (the relay's settings come in variables), and whoever types into a terminal there reads it.
_PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_DIRS", "PORTABLEDESKTOP_RUNTIME_DIR"),
)


def environment_for(directory: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for programs of the desktop in `directory`."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return kept | {MARKER: str(directory)} | dict(extra or {})


@asynccontextmanager
async def runtime_directory(kind: str) -> AsyncGenerator[Path, None]:
    """A new private directory; at the end it is gone, and so are the processes that carry it.

    Removes first what killed relays have left. Raises DesktopError where no directory can be
    made.
    """
    try:
        base = _base_directory()
        await reap_leftovers()
        with _locked(base):
            directory = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=base))
            lock = _open_directory(directory)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise DesktopError(f"cannot make a private directory for the desktop: {error}") from None
    try:
        yield directory
    finally:
        await _remove(directory)
        os.close(lock)


async def reap_leftovers() -> None:
    """Removes the directories of relays that are gone, and ends the processes of theirs.

    Every start of a desktop does this first. Raises OSError.
    """
    base = _base_directory()
    with ExitStack() as locks:
        with _locked(base):
            abandoned = [path for path in base.iterdir() if _lock_if_abandoned(path, locks)]
        for path in abandoned:
            await _remove(path)


async def _remove(directory: Path) -> None:
    try:
        with trio.CancelScope(shield=True):  # _sweep has its own deadline
            await _sweep(f"{MARKER}={directory}".encode())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _sweep(marker: bytes) -> None:
    """Ends all processes with `marker` in their environment: TERM, a wait, KILL, a wait."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        with trio.move_on_after(SWEEP_GRACE_S), ExitStack() as descriptors:
            found = _processes_with(marker, descriptors)
            for pidfd in found:
                _send_signal(pidfd, signal_number)
            for pidfd in found:
                await trio.lowlevel.wait_readable(pidfd)


def _processes_with(marker: bytes, descriptors: ExitStack) -> list[int]:
    """Descriptors of the living processes with `marker` in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or not _carries(process, marker):
            continue
        try:
            pidfd = os.pidfd_open(int(process.name))
        except OSError:  # just gone
            continue
        descriptors.callback(os.close, pidfd)
        # Looked at again, because the id may have changed hands before it was pinned down.
        if _carries(process, marker):
            found.append(pidfd)
    return found


def _carries(process: Path, marker: bytes) -> bool:
    try:
        return marker in (process / "environ").read_bytes().split(b"\0")
    except OSError:  # another user's, or just gone
        return False


def _send_signal(pidfd: int, signal_number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal_number)
    except ProcessLookupError:
        pass


def _base_directory() -> Path:
    parent = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    base = Path(parent, f"deskrelay-{os.getuid()}")
    base.mkdir(mode=0o700, exist_ok=True)
    # In /tmp anybody can have made it first.
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{base} is not a directory that only this user can enter")
    return base


@contextmanager
def _locked(base: Path) -> Generator[None, None, None]:
    """Held while a directory is made and not locked yet, so that nobody takes it for abandoned."""
    lock = _open_directory(base)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _lock_if_abandoned(directory: Path, locks: ExitStack) -> bool:
    try:
        lock = _open_directory(directory)
    except OSError:  # no directory, or removed just now
        return False
    locks.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
