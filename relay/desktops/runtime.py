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
import io
import logging
import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio

from relay.errors import DesktopError

logger = logging.getLogger("relay.desktops")

MARKER = "DESKRELAY_DESKTOP"
"""Environment variable that names a process's desktop by its directory."""

SWEEP_GRACE_S = 0.7
"""From TERM to KILL for processes that outlived their desktop, and from KILL to giving up."""

WAITED_FOR = 128
"""Of the processes that outlived their desktop: each costs a descriptor."""

_threads = trio.CapacityLimiter(8)
"""That end and remove what a desktop has left: not of those that everything else waits for."""

REMOVE_S = 1.0
"""For a directory's files. The next start goes on with what is left."""

LOCK_S = 10.0
"""For other relays to be done with a directory, which they hold for some ms."""

LOCK_RETRY_S = 0.01
"""Waiting for the lock itself would stop Trio's thread."""

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
async def runtime_directory(kind: str, *, entered: bool = False) -> AsyncGenerator[Path, None]:
    """A new private directory; at the end it is gone, and so are the processes that carry it.
    With `entered`, another user can pass through the directories above it.

    Removes first what killed relays have left. Raises DesktopError where no directory can be
    made.
    """
    try:
        base = _base_directory(entered)
        await _reap(base)
        async with held_alone(base):
            directory = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=base))
            lock = _open_directory(directory)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DesktopError(f"cannot make a private directory for the desktop: {error}") from None
    try:
        yield directory
    finally:
        await _remove(directory)
        os.close(lock)


async def reap_leftovers(*, entered: bool = False) -> None:
    """Removes the directories of relays that are gone, and ends the processes of theirs; `entered`
    as for `runtime_directory`. Every start of a desktop does this first, and raises what is only
    logged here: a relay has other desktops too."""
    try:
        await _reap(_base_directory(entered))
    except OSError as error:
        logger.warning("no desktop can be started here: %s", error)


async def _reap(base: Path) -> None:
    with ExitStack() as locks:
        async with held_alone(base):
            abandoned = _abandoned(base, locks)
        # At the same time: what one of them holds up costs the start once, however many there are.
        async with trio.open_nursery() as nursery:
            for path in abandoned:
                nursery.start_soon(_remove, path)


def _abandoned(base: Path, locks: ExitStack) -> list[Path]:
    return [path for path in base.iterdir() if _lock_if_abandoned(path, locks)]


async def _remove(directory: Path) -> None:
    with trio.CancelScope(shield=True):  # _sweep has its own deadline
        try:
            await _sweep(f"{MARKER}={directory}".encode(), _user_of(directory))
        finally:
            with trio.move_on_after(REMOVE_S):
                await trio.to_thread.run_sync(
                    _remove_tree, directory, abandon_on_cancel=True, limiter=_threads
                )


def _remove_tree(directory: Path) -> None:
    """By a process: what programs of the desktop have put there may be deeper than this one may
    have files open, and keep it busy. Modes are in the way of who is not root."""
    for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if command[0] == "rm" or os.geteuid() != 0:
            subprocess.run(
                [*command, "--", str(directory)],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.defpath},
            )


def _user_of(directory: Path) -> int:
    """As whom the desktop's programs run."""
    try:
        return (directory / "theirs").lstat().st_uid
    except OSError:  # with the relay, as its own user
        return os.geteuid()


async def _sweep(marker: bytes, uid: int) -> None:
    """Ends all processes of `uid` with `marker` in their environment: TERM, a wait, KILL."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        with trio.move_on_after(SWEEP_GRACE_S), ExitStack() as descriptors:
            # In a thread, for a machine with thousands of processes, and for one that does not let
            # its environment be read: it may lie in a file whose reader waits for ever.
            found = await trio.to_thread.run_sync(
                _signalled, marker, uid, signal_number, abandon_on_cancel=True, limiter=_threads
            )
            for pidfd in found:
                descriptors.enter_context(pidfd)
            for pidfd in found:
                await trio.lowlevel.wait_readable(pidfd)


def _signalled(marker: bytes, uid: int, signal_number: signal.Signals) -> list[io.FileIO]:
    """Descriptors of the living processes that have got the signal; of the first ones."""
    found: list[io.FileIO] = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or not _carries(process, marker, uid):
            continue
        try:
            pidfd = io.FileIO(os.pidfd_open(int(process.name)))
        except OSError:  # just gone
            continue
        # Looked at again, because the id may have changed hands before it was pinned down.
        if _carries(process, marker, uid):
            _send_signal(pidfd.fileno(), signal_number)
            if len(found) < WAITED_FOR:
                found.append(pidfd)
                continue
        pidfd.close()
    return found


def _carries(process: Path, marker: bytes, uid: int) -> bool:
    try:
        # Others cannot hold up whoever reads only that.
        return _uid_of(process) == uid and marker in (process / "environ").read_bytes().split(b"\0")
    except OSError:  # another user's, or just gone
        return False


def _uid_of(process: Path) -> int:
    """Whose it is; root has the files of some that are another's."""
    status = (process / "status").read_bytes()
    return int(status.partition(b"\nUid:")[2].split(None, 1)[0])


def _send_signal(pidfd: int, signal_number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal_number)
    except ProcessLookupError:
        pass


def _base_directory(entered: bool = False) -> Path:
    """Raises OSError."""
    name = f"deskrelay-{os.geteuid()}"
    parent = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.geteuid() == 0 else None)
    if entered and os.geteuid() == 0 and _closed(Path(parent or "/")):
        parent = "/run"  # a login of root's has /run/user/0, which is root's alone
    if parent is None:
        return _found_in_tmp(f"{name}-")
    base = Path(parent, name)
    base.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(base):
        raise PermissionError(f"{base} is not a directory that only this user can use")
    if entered:
        base.chmod(0o711)
        check_enterable(base)
    return base


def _found_in_tmp(prefix: str) -> Path:
    """Where everybody can make a directory of a name that is known, ours has one that is not."""
    parent = Path(tempfile.gettempdir())
    for path in sorted(parent.glob(f"{prefix}*")):
        if _is_private(path):
            return path
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


def _is_private(path: Path) -> bool:
    found = path.lstat()
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return is_own and not found.st_mode & 0o066


def _closed(path: Path) -> Path | None:
    """What of `path` another user cannot pass through."""
    steps = (*reversed(path.parents), path)
    return next((step for step in steps if not step.stat().st_mode & 0o001), None)


def check_enterable(path: Path) -> None:
    """Raises PermissionError where another user cannot pass through `path`."""
    if closed := _closed(path):
        raise PermissionError(f"{closed} cannot be entered by the user that desktops run as")


@asynccontextmanager
async def held_alone(directory: Path) -> AsyncGenerator[None, None]:
    """While the block runs, no other relay is in such a block with that directory. Raises OSError.

    Of one with desktops: held while a directory in it is made and not locked yet, so that nobody
    takes it for abandoned.
    """
    lock = _open_directory(directory)
    try:
        with trio.move_on_after(LOCK_S) as late:
            while not _lock_now(lock):  # noqa: ASYNC110 - another process tells nobody
                await trio.sleep(LOCK_RETRY_S)
        if late.cancelled_caught:
            raise TimeoutError(f"another process has held {directory} for {LOCK_S:g} s")
        yield
    finally:
        os.close(lock)


def _lock_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_if_abandoned(directory: Path, locks: ExitStack) -> bool:
    try:
        lock = _open_directory(directory)
    except OSError:  # no directory, or removed just now
        return False
    locks.callback(os.close, lock)
    return _lock_now(lock)


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
