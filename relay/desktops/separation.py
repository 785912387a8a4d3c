"""What keeps the desktops of a server's users from the server, and from each other.

Each owner of desktops has a home, a directory under `homes`, whose name is the owner's. Where
owners have uids of their own, the home's uid is the owner's: so it stays the same, whatever is
started again, and nothing else has to be kept.
"""

from __future__ import annotations

import logging
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from relay.desktops.quarters import TOGETHER, Quarters
from relay.desktops.runtime import check_enterable, held_alone
from relay.errors import DesktopError

__all__ = ["ONE_USER", "RunAs", "Separation", "Several", "parse_run_as", "separation_for"]

logger = logging.getLogger("relay.desktops")

UID_MAX: Final = 2**32 - 2
"""The one above means "no user" to the kernel."""

CHECK_S: Final = 5.0
"""How often a server whose desktops are not apart looks whether it has a second user by now."""

PROBE_S: Final = 10.0
"""For bubblewrap to start `true`. It takes some ms."""

_OWNER: Final = re.compile("[A-Za-z0-9_-]{1,64}")

_SUBORDINATE: Final = Path("/etc/subuid")

_INSTALL: Final = "install bubblewrap (Debian: apt install bubblewrap)"
_SET: Final = "set desktop.run_as to a range of uids, as in 1900000000-1900065535"


@dataclass(frozen=True, slots=True)
class RunAs:
    """The users that desktops run as: one by `name`, or one of `uids` for each owner."""

    name: str | None
    uids: range


def parse_run_as(text: str) -> RunAs:
    """Reads a user's name, or a range of uids as `FIRST-LAST`. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,10})-([0-9]{1,10})", text)
    if match is None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", text):
            raise ValueError(
                f"{text!r} is neither a user's name nor a range such as 1900000000-1900065535"
            )
        return RunAs(text, range(0))
    first, last = int(match[1]), int(match[2])
    if not 0 < first <= last <= UID_MAX:
        raise ValueError(f"{text!r} is no range of uids; use FIRST-LAST, from 1 to {UID_MAX}")
    return RunAs(None, range(first, last + 1))


Several = Callable[[], Awaitable[bool]]
"""Whether a server has more than one user. Raises DesktopError where that cannot be told."""


@dataclass(frozen=True, slots=True)
class Separation:
    """How the desktops of a server are kept apart. By itself: not at all, for one user's own.

    `several` is asked where desktops would not be apart. `pattern` is what `Quarters` are made of,
    for each owner with a `home` under `homes`, and with a uid of `uids` where there are some.
    `lacks` says what would have to be installed or set where desktops cannot be apart.
    """

    several: Several | None = None
    pattern: Quarters = TOGETHER
    homes: Path | None = None
    uids: range = range(0)
    lacks: str = ""

    @property
    def for_others(self) -> bool:
        """Whether desktops run as other users than the relay does."""
        return self.pattern.user is not None or bool(self.uids)

    def make_homes(self) -> None:
        """Makes the directory for owners' homes, where they have any. Raises OSError where it
        cannot be had."""
        if self.homes is not None:
            make_homes(self.homes, entered=self.for_others)

    async def quarters(self, owner: str, *, sandboxed: bool = False) -> Quarters:
        """Where the programs of a desktop of `owner`'s live; `sandboxed`, where a user of their own
        would not be enough. Raises DesktopError where they cannot be kept apart and must be."""
        if not self._keeps_apart(sandboxed) and self.several is not None and await self.several():
            text = self.lacks or f"{_INSTALL} on the server"
            text = f"this server has several users, whose desktops it cannot keep apart: {text}"
            raise DesktopError(text, told=text)
        if self.homes is None:
            return TOGETHER
        try:
            return await self._home(self.homes, owner)
        except OSError as error:
            raise DesktopError(
                f"cannot make a home for the desktop in desktop.homes_dir: {error}"
            ) from None

    def _keeps_apart(self, sandboxed: bool) -> bool:
        return self.pattern.bubblewrap is not None or (bool(self.uids) and not sandboxed)

    async def end_once_refused(
        self, ended: trio.Event, scope: trio.CancelScope, *, sandboxed: bool = False
    ) -> None:
        """Ends a desktop that `quarters` would refuse by now, for there is a second user since it
        was started: sets `ended` and cancels `scope`."""
        if self._keeps_apart(sandboxed) or self.several is None:
            return
        several = False
        while not several:
            await trio.sleep(CHECK_S)
            try:
                several = await self.several()
            except DesktopError:
                pass  # The store has logged it, and is asked again.
        logger.warning("a desktop that is not apart ends: the server has a second user by now")
        ended.set()
        scope.cancel()

    async def _home(self, homes: Path, owner: str) -> Quarters:
        if not _OWNER.fullmatch(owner):
            raise DesktopError("the desktop has no owner whose home it could have")
        make_homes(homes, entered=self.for_others)
        home = homes / owner
        async with held_alone(homes):
            try:
                status = home.lstat()
            except FileNotFoundError:
                status = await trio.to_thread.run_sync(self._make_home, homes, home)
        uid, gid = status.st_uid, status.st_gid
        wanted = self.uids or range(self.pattern.uid, self.pattern.uid + 1)
        if not stat.S_ISDIR(status.st_mode) or uid not in wanted:
            raise PermissionError(
                f"{home} belongs to uid {uid}, which is none of desktop.run_as:"
                " set that back, or chown -R the home, or remove it"
            )
        return replace(self.pattern, home=home, user=(uid, gid) if self.uids else self.pattern.user)

    def _make_home(self, homes: Path, home: Path) -> os.stat_result:
        user = self.pattern.user
        if self.uids:
            taken = {path.lstat().st_uid for path in homes.iterdir()}
            uid = next((uid for uid in self.uids if uid not in taken), None)
            if uid is None:
                raise PermissionError("desktop.run_as has no uid left for another owner")
            user = uid, uid
        # Under its name it has its owner, also where the relay is killed in between.
        made = homes / f".{home.name}"
        made.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            os.chown(made, *user)
        made.rename(home)
        return home.lstat()


ONE_USER: Final = Separation()
"""For somebody's own desktops: they run as the relay does."""


def make_homes(homes: Path, *, entered: bool) -> None:
    """Makes the directory that everybody's users pass through to their homes. Raises OSError where
    it cannot be made, or others could put something else into a home's place, or open it: then they
    could hold its lock."""
    if not homes.is_dir():
        homes.mkdir(parents=True, exist_ok=True)
        homes.chmod(0o711)  # whatever the umask
    found = homes.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o066:
        raise PermissionError(
            f"{homes} is not a directory that only the server can change and list; chmod 711"
        )
    if entered:
        check_enterable(homes)


def separation_for(run_as: RunAs | None, homes: Path | None, several: Several) -> Separation:
    """What a server with those settings can do on this machine, told in a line of the log.

    Raises ValueError where `run_as` cannot be had.
    """
    if run_as is not None and os.geteuid() != 0:
        raise ValueError(
            f"only root can start desktops as others; run as root, or leave it out and {_INSTALL}"
        )
    if run_as is None and os.geteuid() == 0:
        return _not_apart(several, _SET)
    user, uids = _users(run_as)
    bubblewrap = _bubblewrap((uids[0], uids[0]) if uids else user)
    if not bubblewrap and not uids:
        lacks = _INSTALL if user is None else f"{_SET}, or {_INSTALL}"
        if user is None:
            return _not_apart(several, lacks)
        logger.warning("desktops are apart from the server, and not from each other: %s", lacks)
    else:
        lacks = ""
        ways = ("uids of their own", uids), ("bubblewrap", bubblewrap)
        logger.info(
            "desktops are apart by %s", " and ".join(way for way, is_there in ways if is_there)
        )
    pattern = Quarters(user, None, bubblewrap, whole_machine=bool(uids))
    return Separation(several, pattern, (homes or _default_homes()).absolute(), uids, lacks)


def _not_apart(several: Several, lacks: str) -> Separation:
    logger.warning("desktops run as the server itself, and for one user only: %s", lacks)
    return Separation(several, lacks=lacks)


def _default_homes() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/deskrelay/homes")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(data, "deskrelay/homes")


def _users(run_as: RunAs | None) -> tuple[tuple[int, int] | None, range]:
    """The user of all desktops, or those of which each owner gets one. Raises ValueError."""
    if run_as is None:
        return None, range(0)
    if run_as.name is None:
        for account in pwd.getpwall():
            if account.pw_uid in run_as.uids:  # Somebody's, with all that is theirs.
                text = f"uid {account.pw_uid} is {account.pw_name!r} already; use other uids"
                raise ValueError(text)
        _check_subordinate(run_as.uids)
        return None, run_as.uids
    try:
        found = pwd.getpwnam(run_as.name)
    except KeyError:
        raise ValueError(f"there is no user {run_as.name!r} on this machine") from None
    if found.pw_uid == 0:
        raise ValueError(f"{run_as.name!r} is root, whom nothing is kept from")
    return (found.pw_uid, found.pw_gid), range(0)


def _check_subordinate(uids: range) -> None:
    """Raises ValueError where an account of the machine can act as one of `uids` in a user
    namespace, by what subuid(5) grants it."""
    try:
        lines = _SUBORDINATE.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        match = re.fullmatch(r"([^:]+):([0-9]+):([0-9]+)", line)
        if match is None:
            continue
        first, count = int(match[2]), int(match[3])
        if first < uids.stop and uids.start < first + count:
            uid = max(first, uids.start)
            raise ValueError(f"uid {uid} is {match[1]!r} too, by {_SUBORDINATE}; use other uids")


def _bubblewrap(user: tuple[int, int] | None) -> str | None:
    """The program, where it is installed and the kernel lets `user` use it."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [
                *(program, "--unshare-user", "--unshare-pid", "--unshare-ipc"),
                *("--ro-bind", "/", "/", "--proc", "/proc", "true"),
            ],
            check=False,
            user=None if user is None else user[0],
            group=None if user is None else user[1],
            extra_groups=None if user is None else [],
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            timeout=PROBE_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("bubblewrap cannot be used: %s", error)
        return None
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()
        logger.warning("bubblewrap cannot be used: %s", text[-200:])
        return None
    return program
