"""Helpers for tests that start real desktops: a private place, and who is left alive in it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from relay.desktops.runtime import MARKER

needs_xvnc = pytest.mark.skipif(
    shutil.which("Xvnc") is None, reason="Xvnc is not installed (tigervnc-standalone-server)"
)


@pytest.fixture
def desktops_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty place for runtime directories; short, because unix socket paths are."""
    with tempfile.TemporaryDirectory(prefix="dr-") as home:
        monkeypatch.setenv("XDG_RUNTIME_DIR", home)
        yield Path(home)
        left = living(Path(home))
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"left running: {left}"


def living(home: Path) -> dict[int, str]:
    """Process id to program name of all processes of desktops under `home`."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            environment = (process / "environ").read_bytes()
            if f"{MARKER}={home}/".encode() in environment:
                found[int(process.name)] = (process / "comm").read_text().strip()
        except OSError:
            continue
    return found


def write_program(path: Path, script: str) -> None:
    """A shell script in the place of a program."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def pid_of(home: Path, program: str) -> int:
    (pid,) = [pid for pid, name in living(home).items() if name == program]
    return pid


def directories(home: Path) -> list[str]:
    return [path.name for path in home.glob("deskrelay-*/*")]


def tcp_listeners(pid: int) -> list[str]:
    """Local addresses (hexadecimal, as in /proc) on which a process listens."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if match := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())):
                inodes.add(match[1])
        except FileNotFoundError:  # closed just now
            continue
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[9] in inodes and row[3] == "0A"]


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what other processes do in their own time."""
    with trio.fail_after(10):
        while not condition():  # nothing in this process could set an event
            await trio.sleep(0.02)


def runs(home: Path, *programs: str) -> bool:
    return set(programs) <= set(living(home).values())


def can_read(pid: int, secret: bytes) -> bool:
    """Whether a process has `secret` in its environment; one that has just ended has nothing."""
    try:
        return secret in Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def start_stray(directory: str) -> subprocess.Popen[bytes]:
    """A process as somebody could start it in a desktop's terminal: detached, deaf to TERM."""
    return subprocess.Popen(
        ["env", f"{MARKER}={directory}", "sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
        start_new_session=True,
    )


RELAY = """
import sys, trio
from relay.desktops import provider_for

async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(provider_for(sys.argv[1]).run)
        print("started", flush=True)

trio.run(main)
"""


def start_relay(spec: str) -> subprocess.Popen[bytes]:
    """A relay in a process of its own, with one desktop that has started."""
    relay = subprocess.Popen([sys.executable, "-c", RELAY, spec], stdout=subprocess.PIPE)
    assert relay.stdout is not None
    assert relay.stdout.readline() == b"started\n"
    return relay


def kill_relay(relay: subprocess.Popen[bytes]) -> None:
    assert relay.stdout is not None
    relay.kill()
    relay.wait()
    relay.stdout.close()
