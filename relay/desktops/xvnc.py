"""Desktops of Debian's Xvnc (TigerVNC 1.12 and later), reachable by this user only.

`Xvnc.run` owns a nursery with the server and the programs on its screen.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import shutil
import struct
from functools import partial
from pathlib import Path

import trio

from relay.desktops.process import Child, supervise
from relay.desktops.provider import RunningDesktop
from relay.desktops.runtime import environment_for, runtime_directory
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

_FAMILY_WILD = 0xFFFF
_COOKIE_NAME = b"MIT-MAGIC-COOKIE-1"


class Xvnc:
    """A desktop on an Xvnc of its own."""

    name = "xvnc"

    def __init__(self, size: tuple[int, int], limits: Limits) -> None:
        self._geometry = "{}x{}".format(*size)
        self._limits = limits

    async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
        program = shutil.which("Xvnc")
        if program is None:
            raise DesktopError(
                "Xvnc is not installed (Debian: apt install tigervnc-standalone-server)"
            )
        failure: DesktopError | None = None
        async with runtime_directory(self.name) as directory, trio.open_nursery() as nursery:
            try:
                server, desktop = await self._start(nursery, program, directory)
            except DesktopError as error:
                failure = error
            else:
                environment = environment_for(directory, desktop.environment)
                for command in _programs():
                    nursery.start_soon(partial(supervise, command, environment=environment))
                task_status.started(desktop)
                await server.wait()
                desktop.ended.set()
                logger.warning("Xvnc has ended: %s", server.last_words())
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _start(
        self, nursery: trio.Nursery, program: str, directory: Path
    ) -> tuple[Child, RunningDesktop]:
        authority = directory / "authority"
        authority.write_bytes(_authority(secrets.token_bytes(16)))
        address = UnixAddress(str(directory / "rfb"))
        reading, writing = os.pipe()
        async with trio.lowlevel.FdStream(reading) as display_number:
            try:
                server: Child = await nursery.start(
                    partial(
                        supervise,
                        [
                            program,
                            # X binds display after display until one is free: nothing to race for.
                            *("-displayfd", str(writing)),
                            *("-auth", str(authority), "-nolisten", "tcp"),
                            # Without -noreset the screen is reset when its last program ends.
                            "-noreset",
                            *("-rfbport", "-1", "-rfbunixpath", address.path),
                            *("-rfbunixmode", "0600"),
                            *("-SecurityTypes", "None", "-AlwaysShared"),
                            # There is no password to guess, and viewers that leave in the middle
                            # of their handshake would shut out the others.
                            "-UseBlacklist=0",
                            *("-geometry", self._geometry, "-depth", "24", "-desktop", "xvnc"),
                        ],
                        environment=environment_for(directory),
                        pass_fds=[writing],
                    )
                )
            finally:
                os.close(writing)
            number = await _line(display_number)
        if not number.isdigit():
            with trio.move_on_after(self._limits.close_timeout_s):
                await server.wait()
            raise DesktopError(f"Xvnc did not start: {server.last_words()}")
        await (await open_desktop(address, limits=self._limits)).aclose()
        return server, RunningDesktop(
            address,
            environment={"DISPLAY": f":{number}", "XAUTHORITY": str(authority)},
            doubt=_notices_by_itself,
        )


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
