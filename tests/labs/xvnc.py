"""A small Xvnc that is real, the environment of programs on it, and a window that writes down what
is typed and done in it.

A test that uses these fixtures imports `desktops_home` of tests.labs.desktop_processes as well.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from relay.desktops import RunningDesktop, provider_for
from tests.labs.desktop_processes import until

WIDTH, HEIGHT = 320, 240


@pytest.fixture
async def xvnc(desktops_home: Path, nursery: trio.Nursery) -> RunningDesktop:
    provider = provider_for("xvnc", geometry=f"{WIDTH}x{HEIGHT}")
    desktop: RunningDesktop = await nursery.start(provider.run)
    return desktop


def on(desktop: RunningDesktop) -> dict[str, str]:
    """The environment of a program on it. python-xlib does not know an authority file's entries
    for any host, so one for this host is added."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **desktop.environment}
    authority = Path(environment["XAUTHORITY"])
    for_any = authority.read_bytes()
    family, address_bytes = struct.unpack_from(">HH", for_any)
    if family == 0xFFFF:
        host = socket.gethostname().encode()
        for_host = struct.pack(">HH", 256, len(host)) + host + for_any[4 + address_bytes :]
        authority.write_bytes(for_host + for_any)
    return environment


# The window: one event a line.
LISTEN = """
import sys
from Xlib import X, XK
from Xlib.display import Display
display = Display()
root = display.screen().root
window = root.create_window(0, 0, 200, 200, 0, display.screen().root_depth,
    override_redirect=True,
    event_mask=X.KeyPressMask | X.KeyReleaseMask | X.ButtonPressMask | X.ButtonReleaseMask)
window.map()
display.sync()
# Not the focus: a window manager that starts takes that.
while window.grab_keyboard(True, X.GrabModeAsync, X.GrabModeAsync, X.CurrentTime):
    pass
print("ready", flush=True)
kinds = {X.ButtonPress: "down", X.ButtonRelease: "up"}
while True:
    event = display.next_event()
    if event.type == X.MappingNotify:
        display.refresh_keyboard_mapping(event)
    elif event.type in kinds:
        print(kinds[event.type], event.detail, event.event_x, event.event_y, flush=True)
    elif event.type in (X.KeyPress, X.KeyRelease):
        shift = event.state & X.ShiftMask
        keysym = display.keycode_to_keysym(event.detail, 1 if shift else 0)
        keysym = keysym or display.keycode_to_keysym(event.detail, 0)
        print("press" if event.type == X.KeyPress else "release", hex(keysym), flush=True)
"""


class Window:
    """What `LISTEN` has heard."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def heard(self) -> list[str]:
        return self._path.read_text().splitlines()[1:]

    async def hears(self, *lines: str) -> None:
        await until(lambda: len(self.heard) >= len(lines))
        assert self.heard == list(lines)


@pytest.fixture
async def window(
    xvnc: RunningDesktop, tmp_path: Path, nursery: trio.Nursery
) -> AsyncIterator[Window]:
    path = tmp_path / "heard"
    with path.open("w") as file:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-u", "-c", LISTEN], env=on(xvnc), stdout=file
        )
    try:
        await until(lambda: path.read_text().startswith("ready"))
        yield Window(path)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
