"""The real thing from end to end: the command, a real X server, a real browser.

Playwright's synchronous API keeps an asyncio loop in its thread, so nothing here is async: a
browser stays open only while the tests of this folder run.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.xdisplay import XDisplay

T = TypeVar("T")

NEEDED = ("chromium", "Xvnc", "xterm", "openbox")
START_S = 30.0
STOP_S = 5.0  # what the command promises
BROWSER_ARGUMENTS = (
    "--no-sandbox",  # chromium refuses to run as root with it, and containers are root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="package", autouse=True)
def _programs() -> None:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)} (see .ci/run for the packages)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def until(condition: Callable[[], T | None], what: str, *, within_s: float = 20.0) -> T:
    """Asks until the answer is true, and returns it. For what other processes do."""
    deadline = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)
    return answer


def shows(page: Page, title: str) -> None:
    expect(page.get_by_role("heading", level=1, name=title)).to_be_visible()


def connected(page: Page) -> None:
    expect(page.get_by_role("status").filter(has_text="Connected")).to_be_visible()
    expect(page.locator("#overlay")).to_be_hidden()


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
        programs = {program: pid for pid, program in _descendants(self.process.pid)}
        if not {"Xvnc", "xterm"} <= programs.keys():
            return None
        environment = dict(
            entry.partition("=")[::2] for entry in _words(programs["xterm"], "environ") if entry
        )
        display = int(environment["DISPLAY"].removeprefix(":"))
        return XServer(programs["Xvnc"], display, Path(environment["XAUTHORITY"]))


def _descendants(ancestor: int) -> Iterator[tuple[int, str]]:
    """Process id and program name of every process below `ancestor`."""
    parents = dict(_parents())
    for pid in parents:
        above = pid
        while above := parents.get(above, 0):
            if above == ancestor:
                yield pid, Path(_words(pid, "cmdline")[0]).name
                break


def _words(pid: int, file: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().decode().split("\0")
    except OSError:
        return [""]  # it has ended


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:
                continue  # it has ended
            yield int(entry.name), int(status.rpartition(")")[2].split()[1])


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    with started(tmp_path, "xvnc") as demo:
        yield demo


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


@pytest.fixture(scope="package")
def browser(_programs: None) -> Iterator[Browser]:
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(BROWSER_ARGUMENTS)
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page as large as the demo's desktop, so that its pixels are the desktop's.

    Fails the test for an exception in the page, or for anything its content policy stopped.
    """
    faults: list[str] = []
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda message: (
                faults.append(message.text) if "Content Security Policy" in message.text else None
            ),
        )
        yield page
    assert faults == []
