"""Desktops of Debian's Xvnc (TigerVNC 1.12 and later), reachable by the relay only.

`Xvnc.run` owns a nursery with the server, the programs on its screen, and what looks whether it may
go on.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import shutil
import stat
import struct
from functools import partial
from pathlib import Path

import trio

from relay.desktops.process import Child, supervise
from relay.desktops.provider import RunningDesktop
from relay.desktops.quarters import Quarters, held_display
from relay.desktops.runtime import runtime_directory
from relay.desktops.separation import Separation
from relay.dialling.addresses import UnixAddress
from relay.dialling.login import open_desktop
from relay.errors import DesktopError
from relay.limits import Limits

logger = logging.getLogger("relay.desktops")

START_TIMEOUT_S = 10.0
"""From the start of Xvnc to its display number. A loaded machine takes 2 s."""

_BACKGROUND = ["xsetroot", "-solid", "#2e3f55"]
_WINDOW_MANAGER = ["openbox", "--sm-disable"]
_TERMINAL = [
    *("xterm", "-title", "Terminal", "-geometry", "96x28+64+56"),
    *("-bg", "#10161f", "-fg", "#d8dee9", "-cr", "#d8dee9", "-fa", "Monospace", "-fs", "11"),
]

_DISPLAYS = Path("/tmp/.X11-unix")

_FAMILY_WILD = 0xFFFF
_COOKIE_NAME = b"MIT-MAGIC-COOKIE-1"


class Xvnc:
    """A desktop on an Xvnc of its own."""

    name = "xvnc"

    def __init__(
        self, size: tuple[int, int], limits: Limits, separation: Separation, owner: str
    ) -> None:
        self._geometry = "{}x{}".format(*size)
        self._limits = limits
        self._separation = separation
        self._owner = owner

    async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
        program = shutil.which("Xvnc")
        if program is None:
            text = "Xvnc is not installed (Debian: apt install tigervnc-standalone-server)"
            raise DesktopError(text, told=text)
        quarters = await self._separation.quarters(self._owner)
        failure: DesktopError | None = None
        async with (
            runtime_directory(self.name, entered=quarters.user is not None) as directory,
            trio.open_nursery() as nursery,
        ):
            start = _Start(program, directory, quarters, self._geometry, self._limits)
            try:
                server, desktop = await start.run(nursery)
            except DesktopError as error:
                failure = error
            except OSError as error:
                failure = DesktopError(f"cannot prepare a place for the desktop: {error}")
            else:
                nursery.start_soon(
                    self._separation.end_once_refused, desktop.ended, nursery.cancel_scope
                )
                task_status.started(desktop)
                await server.wait()
                desktop.ended.set()
                logger.warning("Xvnc has ended: %s", server.last_words())
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


class _Start:
    """One start: Xvnc in its quarters, then the programs on its screen."""

    def __init__(
        self,
        program: str,
        directory: Path,
        quarters: Quarters,
        geometry: str,
        limits: Limits,
    ) -> None:
        self._program = program
        self._directory = directory
        self._quarters = quarters
        self._geometry = geometry
        self._limits = limits

    async def run(self, nursery: trio.Nursery) -> tuple[Child, RunningDesktop]:
        """Raises DesktopError, or OSError where no place could be made."""
        quarters = self._quarters
        cookie = _authority(secrets.token_bytes(16))
        theirs = quarters.furnish(self._directory, {"authority": cookie})
        authority = theirs / "authority"
        if quarters.user is not None and quarters.bubblewrap is None:
            _make_displays_directory()
        bound = theirs / "rfb"
        display: list[str] = []
        if quarters.apart:
            number = await nursery.start(held_display)
            display = [f":{number}", "-nolisten", "local"]
        if quarters.bubblewrap:
            # Memory is not shared with what is in a sandbox of its own.
            display += ["-extension", "MIT-SHM"]
        reading, writing = os.pipe()
        async with trio.lowlevel.FdStream(reading) as display_number:
            command = [
                # Without a number, X binds display after display until one is free.
                *(self._program, *display, "-displayfd", str(writing)),
                *("-auth", str(authority), "-nolisten", "tcp"),
                # Without -noreset the screen is reset when its last program ends.
                "-noreset",
                *("-rfbport", "-1", "-rfbunixpath", str(bound), "-rfbunixmode", "0600"),
                *("-SecurityTypes", "None", "-AlwaysShared"),
                # There is no password to guess, and viewers that leave in the middle
                # of their handshake would shut out the others.
                "-UseBlacklist=0",
                *("-geometry", self._geometry, "-depth", "24", "-desktop", "xvnc"),
            ]
            try:
                server: Child = await nursery.start(
                    partial(
                        supervise,
                        quarters.command(command, self._directory, self._program),
                        environment=quarters.environment(self._directory),
                        pass_fds=[writing],
                        user=quarters.user,
                        apart=quarters.apart,
                    )
                )
            finally:
                os.close(writing)
            number = await _line(display_number)
        if not number.isdigit():
            with trio.move_on_after(self._limits.close_timeout_s):
                await server.wait()
            raise DesktopError(f"Xvnc did not start: {server.last_words()}")
        path = quarters.reclaim(self._directory, bound)
        address = UnixAddress(str(path), quarters.uid)
        await (await open_desktop(address, limits=self._limits)).aclose()
        inside = {"DISPLAY": f":{number}", "XAUTHORITY": str(authority)}
        for program in _programs():
            nursery.start_soon(self._show, program, inside)
        return server, RunningDesktop(
            address,
            # In a sandbox that display is another one's.
            environment={} if quarters.bubblewrap else inside,
            doubt=_notices_by_itself,
        )

    async def _show(self, program: list[str], inside: dict[str, str]) -> None:
        quarters = self._quarters
        child = await supervise(
            quarters.command(program, self._directory),
            environment=quarters.environment(self._directory, inside),
            user=quarters.user,
            apart=quarters.apart,
        )
        if child.status:
            # Its words are left out: they may be those of whoever sits at the desktop.
            logger.warning("%s on a desktop has ended with status %d", program[0], child.status)


def _make_displays_directory(displays: Path = _DISPLAYS) -> None:
    """As root, so that none of the users who have displays there can take another's away. Raises
    OSError where somebody else was first."""
    displays.mkdir(mode=0o1777, exist_ok=True)
    found = displays.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{displays} is not a directory of root's; remove it")
    displays.chmod(0o1777)


def _notices_by_itself() -> None:
    """The kernel tells as soon as a process has ended."""


def _programs() -> list[list[str]]:
    """The commands for what a person finds on the screen, as far as installed."""
    background, manager, terminal = (
        command if shutil.which(command[0]) else []
        for command in (_BACKGROUND, _WINDOW_MANAGER, _TERMINAL)
    )
    if manager and terminal:
        # Openbox gives the focus only to windows that open after it has started.
        manager = [*manager, "--startup", shlex.join(terminal)]
        terminal = []
    return [command for command in (background, manager, terminal) if command]


async def _line(stream: trio.abc.ReceiveStream) -> str:
    """The one short line that Xvnc writes when it is ready; empty when it ends or hangs."""
    line = b""
    with trio.move_on_after(START_TIMEOUT_S):
        while not line.endswith(b"\n") and len(line) < 16:
            data = await stream.receive_some(16)
            if not data:
                break
            line += data
    return line.decode("ascii", "replace").strip()


def _authority(cookie: bytes) -> bytes:
    """An Xauthority file (libXau's format) with one cookie, valid for any host and display."""
    fields = (b"", b"", _COOKIE_NAME, cookie)
    return struct.pack(">H", _FAMILY_WILD) + b"".join(
        struct.pack(">H", len(field)) + field for field in fields
    )
