"""As whom a desktop's programs run, and what they see of the machine.

Two things keep them from what is the relay's and other desktops', alone or together: a user of
their own, whom the kernel lets into no file and process of others; and bubblewrap, which gives them
a view of the machine in which these are not there.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from relay.desktops.runtime import MARKER, environment_for
from relay.errors import DesktopError

__all__ = ["TOGETHER", "Quarters", "close_display", "held_display"]

_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"

_LANGUAGE: Final = ("TZ", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE")

_TMP_BYTES: Final = 1 << 30
"""Of /tmp in a sandbox, which is memory. The system's own limit would be half of that there is."""

_DISPLAYS_FROM: Final = 100
_DISPLAYS: Final = 1 << 30
"""More than programs on a desktop can take beforehand, so that there is none left."""

_DISPLAY_TRIES: Final = 10

_FROM_ROOT: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

# What programs need of /etc. The whole of it may hold what the relay's user can read and nobody
# else should: the server's settings, keys, certificates.
_FROM_ETC: Final = (
    *("X11", "alternatives", "bash.bashrc", "ca-certificates", "chromium", "chromium.d"),
    *("debian_version", "default/locale", "environment", "firefox", "firefox-esr", "fonts"),
    *("gai.conf", "group", "gtk-2.0", "gtk-3.0", "gtk-4.0", "host.conf", "hosts"),
    *("inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "locale.alias"),
    *("machine-id", "mailcap", "mime.types", "nsswitch.conf", "os-release", "profile"),
    *("profile.d", "protocols", "resolv.conf", "rpc", "services", "shells", "skel", "ssl/certs"),
    *("terminfo", "timezone", "vim", "xdg"),
)


@dataclass(frozen=True, slots=True)
class Quarters:
    """Where the programs of one desktop live. By itself: with the relay, as its own user.

    `user` is the uid and gid that they have in the place of the relay's; `home` is theirs.
    `bubblewrap` is the program's path where they are put into a sandbox, in which they have their
    own /tmp and see no process but their own. `whole_machine` leaves them the rest of the file
    system, as far as their user may; otherwise they have the system's programs, and `home`.
    """

    user: tuple[int, int] | None = None
    home: Path | None = None
    bubblewrap: str | None = None
    whole_machine: bool = False

    @property
    def apart(self) -> bool:
        """Whether they are kept from what is the relay's."""
        return self.home is not None

    @property
    def uid(self) -> int:
        """Theirs, as this process sees it."""
        return os.geteuid() if self.user is None else self.user[0]

    def furnish(self, directory: Path, files: Mapping[str, bytes]) -> Path:
        """Makes what they own in their desktop's `directory`, with the `files` that only they can
        read; where that is. Raises OSError."""
        theirs = directory
        if self.apart:
            (directory / "ours").mkdir(mode=0o700)
            (directory / "passwd").write_text(self._accounts())
            (directory / "passwd").chmod(0o644)
            theirs = directory / "theirs"
            for path in (theirs, theirs / "x11", theirs / "run"):
                path.mkdir(mode=0o700)
        for name, content in files.items():
            (theirs / name).touch(mode=0o600)
            (theirs / name).write_bytes(content)
        if self.user is not None:
            # The directory last: from then on they may change what a name in it leads to.
            for path in (*theirs.iterdir(), theirs):
                os.chown(path, *self.user)
            directory.chmod(0o711)
        return theirs

    def reclaim(self, directory: Path, bound: Path) -> Path:
        """Takes the socket that they have `bound` to where nobody but the relay reaches it: a
        listening socket goes on under another name. Raises OSError."""
        if not self.apart:
            return bound
        ours = directory / "ours" / bound.name
        bound.rename(ours)
        if not stat.S_ISSOCK(ours.lstat().st_mode):  # Another desktop of the owner's did that.
            raise PermissionError(f"{bound} is not the socket that was bound there")
        return ours

    def environment(
        self, directory: Path, extra: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """What their programs get."""
        if self.home is None:
            return environment_for(directory, extra)
        return {
            "PATH": _PATH,
            "HOME": str(self.home),
            "USER": "desk",
            "LOGNAME": "desk",
            "SHELL": _shell(),
            "XDG_RUNTIME_DIR": str(directory / "theirs" / "run"),
            **{name: os.environ[name] for name in _LANGUAGE if name in os.environ},
            MARKER: str(directory),
            **(extra or {}),
        }

    def command(
        self, command: Sequence[str], directory: Path, program: str | None = None
    ) -> list[str]:
        """`command`, as it is started for them, with a `program` that may lie anywhere."""
        if self.bubblewrap is None:
            return list(command)
        theirs, home = directory / "theirs", str(self.home)
        view = _MACHINE if self.whole_machine else _system()
        hidden = program is not None and not Path(program).is_relative_to("/usr")
        shown = ("--ro-bind", program, program) if program and hidden else ()
        return [
            *(self.bubblewrap, "--die-with-parent"),
            *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-cgroup-try"),
            *view,
            *("--proc", "/proc", "--size", str(_TMP_BYTES), "--tmpfs", "/tmp"),
            *("--bind", str(theirs), str(theirs), "--bind", home, home),
            *("--bind", str(theirs / "x11"), "/tmp/.X11-unix"),
            *("--ro-bind", str(directory / "passwd"), "/etc/passwd"),
            *shown,
            *("--chdir", home, "--", *command),
        ]

    def _accounts(self) -> str:
        uid = self.uid
        gid = os.getegid() if self.user is None else self.user[1]
        return (
            "root:x:0:0:root:/root:/usr/sbin/nologin\n"
            f"desk:x:{uid}:{gid}:Desktop:{self.home}:{_shell()}\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        )


TOGETHER: Final = Quarters()
"""With the relay, as its own user: for somebody's own desktop."""


def _shell() -> str:
    return shutil.which("bash", path=_PATH) or "/bin/sh"


_MACHINE: Final = ["--dev-bind", "/", "/"]


def _system() -> list[str]:
    """A machine with its programs, their settings, and nothing else."""
    view = ["--ro-bind", "/usr", "/usr", "--dev", "/dev"]
    for path in (Path("/", name) for name in _FROM_ROOT):
        if path.is_symlink():
            view += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            view += ["--ro-bind", str(path), str(path)]
    for path in (*(Path("/etc", name) for name in _FROM_ETC), Path("/var/cache/fontconfig")):
        view += ["--ro-bind-try", str(path), str(path)]
    return [*view, "--tmpfs", "/run"]


async def held_display(*, task_status: trio.TaskStatus[int]) -> None:
    """Keeps the name that others could listen at in the place of an X display's server; tells the
    display's number, and runs until cancelled.

    Programs look for a display's socket in the file system, of which a sandbox has its own, and
    before that under an abstract name, which the whole machine shares. Whoever listened there would
    be taken for the desktop. And left to itself, `portabledesktop up` takes the first display that
    looks free: of two at the same time the second then finds the first one's Xvnc at its port.

    Raises DesktopError where no name can be had.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        for _ in range(_DISPLAY_TRIES):
            number = _DISPLAYS_FROM + secrets.randbelow(_DISPLAYS)
            try:
                held.bind(f"\0/tmp/.X11-unix/X{number}")
            except OSError as error:  # somebody's
                problem = error
            else:
                task_status.started(number)
                await trio.sleep_forever()
    raise DesktopError(f"cannot hold the name of an X display: {problem.strerror}")


def close_display(number: int) -> None:
    """Lets nobody but its user to an X display that does not ask for a cookie. Raises OSError."""
    try:
        Path(f"/tmp/.X11-unix/X{number}").chmod(0o700)
    except FileNotFoundError:
        pass  # Whether there is a desktop at all, its VNC port tells.
