"""From the text that names a desktop to the provider that runs it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import trio

from relay.desktops.pattern import Pattern
from relay.desktops.portabledesktop import PortableDesktop
from relay.desktops.provider import Provider, RunningDesktop
from relay.desktops.separation import ONE_USER, Separation
from relay.desktops.xvnc import Xvnc
from relay.dialling.addresses import FORMS, Address, parse_address
from relay.dialling.passwords import PasswordSource
from relay.dialling.workspace_agent import WorkspaceAgentCredentials
from relay.limits import Limits

_PROVIDERS: dict[str, Callable[[tuple[int, int], Limits, Separation, str], Provider]] = {
    "pattern": lambda size, limits, _separation, _owner: Pattern(size, limits),
    "portabledesktop": PortableDesktop,
    "xvnc": Xvnc,
}

SIDE_MIN_PX, SIDE_MAX_PX = 64, 8192
"""Geometries a desktop is started with. Smaller than 64 nobody can use; 8K is 7680 wide."""


class AtAddress:
    """A desktop that somebody else runs: nothing to start and nothing to stop.

    It is not tried out before the first viewer's dial: that dial tells the same, and some
    servers (x11vnc, Xvnc -once) end with their first connection.
    """

    name = "address"

    def __init__(self, address: Address, password: PasswordSource | None = None) -> None:
        self._address = address
        self._password = password

    async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
        task_status.started(RunningDesktop(self._address, self._password))
        await trio.sleep_forever()


def parse_geometry(text: str) -> tuple[int, int]:
    """Reads `WIDTHxHEIGHT` in pixels. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(SIDE_MIN_PX <= side <= SIDE_MAX_PX for side in size):
        raise ValueError(
            f"{text!r} is not a geometry; use WIDTHxHEIGHT, "
            f"each {SIDE_MIN_PX} to {SIDE_MAX_PX}, as in 1280x800"
        )
    return size


def provider_for(
    spec: str,
    owner: str = "",
    *,
    geometry: str = "1280x800",
    password: PasswordSource | None = None,
    workspace_agent: WorkspaceAgentCredentials | None = None,
    limits: Limits | None = None,
    separation: Separation = ONE_USER,
) -> Provider:
    """The provider of `pattern`, `xvnc`, `portabledesktop`, `tcp://HOST:PORT`, `unix:PATH`, or
    of a workspace agent at `ws://HOST:PORT` or `wss://HOST:PORT`.

    `geometry` is for a desktop that is started here, and `separation` keeps its programs from
    others than its `owner`, a word that is the owner's alone. `password` is for one at an address,
    `workspace_agent` for one behind a workspace agent. Raises ValueError for any other spec and for
    a wrong geometry; whether the desktop's program is installed shows at its start.
    """
    size = parse_geometry(geometry)
    if make := _PROVIDERS.get(spec):
        return make(size, limits or Limits(), separation, owner)
    if ":" in spec:
        return AtAddress(parse_address(spec, workspace_agent), password)
    names = ", ".join(_PROVIDERS)
    raise ValueError(f"{spec!r} is no desktop; use {names}, {FORMS}")


@dataclass(frozen=True, slots=True)
class AutoChoice:
    """The spec that `auto` stands for here, and a sentence that says why."""

    spec: str
    reason: str


def choose_automatically() -> AutoChoice:
    """What `auto` means on this machine: Xvnc where it is installed, else the test pattern."""
    program = shutil.which("Xvnc")
    if program:
        return AutoChoice("xvnc", f"desktop: xvnc ({program})")
    return AutoChoice(
        "pattern",
        "desktop: pattern, because Xvnc is not installed "
        "(Debian: apt install tigervnc-standalone-server openbox xterm x11-xserver-utils)",
    )
