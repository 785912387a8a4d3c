"""Desktops of the portabledesktop program: `up` starts one and returns, `down` stops it.

Its processes detach themselves, so they are nobody's children: whether the desktop lives is
asked at its VNC port, and what `down` does not end is found by its environment (see `runtime`).
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import socket
from pathlib import Path

import trio

from relay.desktops.process import supervise
from relay.desktops.provider import RunningDesktop
from relay.desktops.runtime import environment_for, runtime_directory
from relay.dialling.addresses import Address, TcpAddress, dial
from relay.dialling.login import log_in, open_desktop
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
# (each question for its health, too) into a file that nobody ever cuts.
_XVNC_ARGUMENTS = ("-interface", "127.0.0.1", "-Log", "*:stderr:0")


class PortableDesktop:
    """A desktop that `portabledesktop up` starts."""

    name = "portabledesktop"

    def __init__(self, size: tuple[int, int], limits: Limits) -> None:
        self._geometry = "{}x{}".format(*size)
        self._limits = limits
        self._doubted = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
        program = shutil.which("portabledesktop")
        if program is None:
            raise DesktopError("portabledesktop is not on the PATH of the relay")
        async with runtime_directory(self.name) as directory:
            state_file = directory / "session.json"
            try:
                address = await self._up(program, directory, state_file)
                await (await open_desktop(address, limits=self._limits)).aclose()
                desktop = RunningDesktop(address, doubt=self._doubt)
                task_status.started(desktop)
                await self._until_dead(address)
                desktop.ended.set()
                logger.warning("portabledesktop does not answer any more at %s", address)
            finally:
                if state_file.exists():
                    with trio.move_on_after(DOWN_TIMEOUT_S, shield=True):
                        await supervise(
                            [program, "down", "--state-file", str(state_file)],
                            environment=environment_for(directory),
                        )

    async def _up(self, program: str, directory: Path, state_file: Path) -> Address:
        with trio.move_on_after(UP_TIMEOUT_S) as deadline:
            up = await supervise(
                [
                    *(program, "up", "--json", "--state-file", str(state_file)),
                    *("--session-dir", str(directory / "session"), "--geometry", self._geometry),
                    *("--display", str(_any_display()), "--port", str(_free_port())),
                    *(f"--xvnc-arg={argument}" for argument in _XVNC_ARGUMENTS),
                ],
                environment=environment_for(directory),
            )
        if deadline.cancelled_caught:
            raise DesktopError(f"portabledesktop up did not end within {UP_TIMEOUT_S:g} s")
        if up.status != 0:
            raise DesktopError(f"portabledesktop up failed ({up.status}): {up.last_words()}")
        try:
            port = json.loads(bytes(up.stdout))["vncPort"]
        except (ValueError, TypeError, KeyError):
            port = None
        if not isinstance(port, int) or not 0 < port < 65_536:
            raise DesktopError("portabledesktop up --json did not name a vncPort")
        return TcpAddress("127.0.0.1", port)

    def _doubt(self) -> None:
        self._doubted.set()

    async def _until_dead(self, address: Address) -> None:
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
                await (await log_in(stream, limits=self._limits)).aclose()
                failures = 0
            except DesktopError:
                failures += 1


# Left to itself, `up` takes the first display that looks free. Of two at the same time the second
# then finds the first one's Xvnc at its port, and takes that for its own: two workspaces would
# share a desktop.
def _any_display() -> int:
    return 100 + secrets.randbelow(50_000)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
