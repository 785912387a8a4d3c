"""The desktops of `bench.lag`, and the ways to them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from bench.lag.desktop import SIDE_PX
from bench.lag.link import DESKTOP_IP, Link, inside
from bench.lag.viewer import MODES
from bench.peers.installed import WEBSOCKIFY

_WEBSOCKIFY_PORT = 6080


@contextmanager
def _process(command: list[str], **environment: str) -> Iterator[str]:
    """A process that runs while the block does, and its first line of output; what it logs is
    shown if it has none."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | environment,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line:
                process.wait()
                log.seek(0)
                raise SystemExit(f"{' '.join(command)} did not start:\n{log.read()}")
            yield line
        finally:
            process.terminate()


def python(namespace: str, module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours inside a network namespace."""
    return inside(namespace, sys.executable, "-m", module, *arguments)


# The desktops. Each yields its port.


@contextmanager
def _synthetic(link: Link) -> Iterator[int]:
    with _process(python(link.desktop, "bench.lag.desktop")) as port:
        yield int(port)


@contextmanager
def _xvnc(link: Link) -> Iterator[int]:
    port = 5900
    command = [
        # In a namespace X does not see which displays there are, and would take over one's socket
        # in /tmp. Process numbers are no one else's.
        *("Xvnc", f":{os.getpid()}", "-displayfd", "1", "-nolisten", "tcp", "-noreset"),
        *("-rfbport", str(port)),
        *("-SecurityTypes", "None", "-AlwaysShared", "-UseBlacklist=0"),
        *("-geometry", f"{SIDE_PX}x{SIDE_PX}", "-depth", "24"),
    ]
    with (
        _process(inside(link.desktop, *command)) as display,
        _process(python(link.desktop, "bench.lag.screen"), DISPLAY=f":{display}"),
    ):
        yield port


DESKTOPS: dict[str, Callable[[Link], AbstractContextManager[int]]] = {
    "synthetic": _synthetic,
    "xvnc": _xvnc,
}

CASES = {f"{desktop}-{mode}": (desktop, mode) for desktop in DESKTOPS for mode in MODES}


# The ways to a desktop at `port`. Each yields an address and a token for it.


@contextmanager
def _direct(_link: Link, port: int) -> Iterator[tuple[str, str]]:
    yield f"tcp://{DESKTOP_IP}:{port}", ""


@contextmanager
def _relay(link: Link, port: int) -> Iterator[tuple[str, str]]:
    demo = python(
        *(link.desktop, "api", "demo", "--json", "--bind", f"{DESKTOP_IP}:0"),
        *("--desktop", f"tcp://127.0.0.1:{port}"),
    )
    with _process(demo) as line:
        told = json.loads(line)
        yield told["ws_url"], told["token"]


@contextmanager
def through_websockify(program: str, link: Link, port: int) -> Iterator[tuple[str, str]]:
    address = f"{DESKTOP_IP}:{_WEBSOCKIFY_PORT}"
    command = inside(link.desktop, program, "-v", address, f"127.0.0.1:{port}")
    with _process(["sh", "-c", 'exec "$@" 2>&1', "sh", *command]):
        # What it prints comes before it listens.
        time.sleep(1)
        yield f"ws://{address}/", ""


Way = Callable[[Link, int], AbstractContextManager[tuple[str, str]]]

WAYS: dict[str, Way] = {"direct": _direct, "relay": _relay}
"""Those that are always there."""


def missing(desktop: str) -> str:
    """What a desktop lacks on this machine; empty if nothing."""
    if desktop == "xvnc" and shutil.which("Xvnc") is None:
        return "Xvnc is not installed"
    if desktop == "xvnc" and importlib.util.find_spec("Xlib") is None:
        return "python-xlib is not installed"
    return ""


def websockify() -> str | None:
    """The program: that of bench.peers, or one on the PATH."""
    return str(WEBSOCKIFY) if WEBSOCKIFY.exists() else shutil.which("websockify")
