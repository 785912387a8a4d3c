"""Desktops of the portabledesktop program: `up` starts one and returns, `down` stops it.

Its processes detach themselves, so they are nobody's children: whether the desktop lives is
asked at its VNC port, and what `down` does not end is found by its environment (see `runtime`). In
a sandbox they end with it.

Its display is open to whoever reaches the socket (it starts its Xvnc with -ac). Its VNC server
listens on a TCP port, which everybody on the machine reaches, and at which anybody could listen
once it has ended. So the display is closed to other users, or lies in a sandbox of its own; the
port has a password; and the relay goes by a unix socket.

`PortableDesktop.run` owns a nursery with what holds the sandbox, and what looks whether the desktop
may go on.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from relay.desktops.process import Child, supervise
from relay.desktops.provider import RunningDesktop
from relay.desktops.quarters import Quarters, close_display, held_display
from relay.desktops.runtime import runtime_directory
from relay.desktops.separation import Separation
from relay.dialling.addresses import Address, TcpAddress, UnixAddress, dial
from relay.dialling.login import log_in, open_desktop, vnc_auth_response
from relay.dialling.passwords import Password
from relay.errors import DesktopError
from relay.limits import Limits

logger = logging.getLogger("relay.desktops")

UP_TIMEOUT_S = 60.0
"""`up` unpacks its runtime at the first start (hundreds of MB) and then gives Xvnc 15 s."""

DOWN_TIMEOUT_S = 1.5
"""`down` takes 0.3 s, and 5 s for each process that ignores TERM; those are killed here sooner."""

HEALTH_INTERVAL_S = 2.0
"""Between two questions at the VNC port."""

HEALTH_FAILURES = 3
"""Handshakes in a row that an overloaded desktop may fail. A closed port is its end at once."""

# By default its Xvnc listens on all interfaces, without a password; and it logs every connection
# (each question for its health, too) into a file that nobody ever cuts. Sockets with an abstract
# name have no mode. The blacklist would let anybody on the machine shut the relay out.
_XVNC_ARGUMENTS = (
    *("-interface", "127.0.0.1", "-nolisten", "local", "-Log", "*:stderr:0"),
    *("-SecurityTypes", "VncAuth", "-UseBlacklist=0"),
)

_FILE_KEY = Password("\x17\x52\x6b\x06\x23\x4e\x58\x07")
"""Every VNC server's files have the password encrypted with this key (vncauth.c of VNC 3.3)."""

# The processes of `up` live on after it, and a sandbox ends with its command.
_UP_AND_HOLD = ("sh", "-c", '"$@" && exec sleep infinity', "sh")


class PortableDesktop:
    """A desktop that `portabledesktop up` starts."""

    name = "portabledesktop"

    def __init__(
        self, size: tuple[int, int], limits: Limits, separation: Separation, owner: str
    ) -> None:
        self._geometry = "{}x{}".format(*size)
        self._limits = limits
        self._separation = separation
        self._owner = owner
        self._doubted = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
        program = shutil.which("portabledesktop")
        if program is None:
            text = "portabledesktop is not on the PATH of the relay"
            raise DesktopError(text, told=text)
        quarters = await self._separation.quarters(self._owner, sandboxed=True)
        failure: DesktopError | None = None
        async with (
            runtime_directory(self.name, entered=quarters.user is not None) as directory,
            trio.open_nursery() as nursery,
        ):
            start = _Start(program, directory, quarters, self._geometry)
            try:
                try:
                    address, password = await start.run(nursery)
                    await (
                        await open_desktop(address, password=password, limits=self._limits)
                    ).aclose()
                except OSError as error:
                    failure = DesktopError(f"cannot prepare a place for the desktop: {error}")
                except DesktopError as error:
                    failure = error
                else:
                    desktop = RunningDesktop(address, password, doubt=self._doubt)
                    look = partial(
                        self._separation.end_once_refused,
                        desktop.ended,
                        nursery.cancel_scope,
                        sandboxed=True,
                    )
                    nursery.start_soon(look)
                    task_status.started(desktop)
                    await self._until_dead(address, password)
                    desktop.ended.set()
                    logger.warning("portabledesktop does not answer any more at %s", address)
            finally:
                await start.down()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _doubt(self) -> None:
        self._doubted.set()

    async def _until_dead(self, address: Address, password: Password) -> None:
        failures = 0
        while failures < HEALTH_FAILURES:
            with trio.move_on_after(HEALTH_INTERVAL_S):
                await self._doubted.wait()
            self._doubted = trio.Event()
            try:
                stream = await dial(address, timeout_s=self._limits.dial_timeout_s)
            except DesktopError:
                return
            try:
                # To the end of the handshake: TigerVNC shuts out who gives up five of them.
                await (await log_in(stream, password=password, limits=self._limits)).aclose()
                failures = 0
            except DesktopError:
                failures += 1


class _Start:
    """One start: `up` in its quarters, and `down`."""

    def __init__(self, program: str, directory: Path, quarters: Quarters, geometry: str) -> None:
        self._program = program
        self._directory = directory
        self._quarters = quarters
        self._geometry = geometry
        self._state_file = directory / "session.json"

    async def run(self, nursery: trio.Nursery) -> tuple[Address, Password]:
        """Where the desktop listens, and its password. Raises DesktopError, or OSError where no
        place could be made."""
        quarters = self._quarters
        password = Password(secrets.token_urlsafe(6))
        encrypted = vnc_auth_response(password.reveal() * 2, _FILE_KEY)[:8]
        theirs = quarters.furnish(self._directory, {"password": encrypted})
        self._state_file = theirs / "session.json"
        display: int = await nursery.start(held_display)
        bound = theirs / "rfb"
        arguments = (
            *(*_XVNC_ARGUMENTS, "-PasswordFile", str(theirs / "password")),
            *("-rfbunixpath", str(bound), "-rfbunixmode", "0600"),
        )
        up = [
            *(self._program, "up", "--json", "--state-file", str(self._state_file)),
            *("--session-dir", str(theirs / "session"), "--geometry", self._geometry),
            *("--display", str(display), "--port", str(_free_port())),
            *(f"--xvnc-arg={argument}" for argument in arguments),
        ]
        if quarters.bubblewrap:
            up = [*_UP_AND_HOLD, *up, "--xvnc-arg=-extension", "--xvnc-arg=MIT-SHM"]
        with trio.move_on_after(UP_TIMEOUT_S) as deadline:
            if quarters.bubblewrap:
                child: Child = await nursery.start(self._run, up)
                await child.wait_for_line()
            else:
                child = await self._run(up)
        if deadline.cancelled_caught:
            raise DesktopError(f"portabledesktop up did not end within {UP_TIMEOUT_S:g} s")
        if child.status not in (0, None) or not bytes(child.stdout):
            raise DesktopError(f"portabledesktop up failed ({child.status}): {child.last_words()}")
        try:
            port = json.loads(bytes(child.stdout))["vncPort"]
        except (ValueError, TypeError, KeyError, RecursionError):
            port = None
        if not isinstance(port, int) or not 0 < port < 65_536:
            raise DesktopError("portabledesktop up --json did not name a vncPort")
        if not quarters.bubblewrap:
            close_display(display)
        return self._address(bound, port), password

    def _address(self, bound: Path, port: int) -> Address:
        if not bound.exists():  # An Xvnc that does not know the option.
            return TcpAddress("127.0.0.1", port)
        return UnixAddress(str(self._quarters.reclaim(self._directory, bound)), self._quarters.uid)

    async def down(self) -> None:
        """Stops what `up` has started; a sandbox ends by itself."""
        if self._state_file.exists() and not self._quarters.bubblewrap:
            with trio.move_on_after(DOWN_TIMEOUT_S, shield=True):
                await self._run([self._program, "down", "--state-file", str(self._state_file)])

    async def _run(
        self,
        command: Sequence[str],
        *,
        task_status: trio.TaskStatus[Child] = trio.TASK_STATUS_IGNORED,
    ) -> Child:
        return await supervise(
            self._quarters.command(command, self._directory, self._program),
            environment=self._quarters.environment(self._directory),
            user=self._quarters.user,
            apart=self._quarters.apart,
            task_status=task_status,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
