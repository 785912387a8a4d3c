"""The commands `deskrelay demo` and `deskrelay serve` in processes of their own."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from tests.labs.e2e.xdisplay import XDisplay
from tests.labs.processes import descendants
from tests.labs.waiting import until

START_S = 30.0
STOP_S = 5.0  # what the command promises


@dataclass(frozen=True)
class XServer:
    """The demo's X server, and what its programs were told to reach it."""

    pid: int
    display: int
    authority: Path

    def look(self) -> XDisplay:
        return XDisplay(self.display, self.authority)


@dataclass(frozen=True)
class Demo:
    """A running `deskrelay demo`, and what its one line of JSON said."""

    process: subprocess.Popen[bytes]
    url: str
    viewer_url: str  # the link that signs in
    ws_url: str
    token: str
    chat: str
    pid: int

    @property
    def page_url(self) -> str:
        """Where the link leads."""
        return f"{self.url}/chats/{self.chat}"

    def http(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Coder-Session-Token": self.token}, trust_env=False
        )

    def x_server(self) -> XServer:
        """The demo's X server with its terminal, which comes last; waits for both."""
        return until(self._x_server, "Xvnc and an xterm of the demo")

    def _x_server(self) -> XServer | None:
        programs = {program: pid for pid, program in descendants(self.process.pid).items()}
        if not {"Xvnc", "xterm"} <= programs.keys():
            return None
        try:
            told = Path(f"/proc/{programs['xterm']}/environ").read_bytes().decode()
        except OSError:
            return None  # it has ended
        environment = dict(entry.partition("=")[::2] for entry in told.split("\0") if entry)
        display = int(environment["DISPLAY"].removeprefix(":"))
        return XServer(programs["Xvnc"], display, Path(environment["XAUTHORITY"]))


@contextmanager
def started(tmp_path: Path, desktop: str) -> Iterator[Demo]:
    log = tmp_path / "demo.log"
    command = [sys.executable, "-m", "api", "demo", "--desktop", desktop, "--bind", "127.0.0.1:0"]
    # The terminal's shell is not to run this machine's start-up files, which may be slow.
    environment = os.environ | {"HOME": str(tmp_path), "SHELL": "/bin/sh"}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--json"], stdout=subprocess.PIPE, stderr=errors, env=environment
        )
    assert process.stdout is not None
    with process:
        try:
            yield Demo(process, **json.loads(_first_line(process.stdout)))
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            finally:
                print(log.read_text(errors="replace"))  # pytest shows it with a failure


def _first_line(stream: IO[bytes]) -> str:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        assert selector.select(START_S), f"the demo said nothing within {START_S:g} s"
    return stream.readline().decode()


def run(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "api", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def server(environment: dict[str, str], log: IO[bytes] | None = None) -> Iterator[None]:
    command = [sys.executable, "-m", "api", "serve"]
    health = f"http://{environment['DESKRELAY_BIND']}/healthz"

    def healthy() -> bool:
        try:
            return httpx.get(health, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    with subprocess.Popen(command, env=environment, stderr=log) as process:
        try:
            until(healthy, "a healthy server")
            yield
        finally:
            process.terminate()
            process.wait(STOP_S)
