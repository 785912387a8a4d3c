"""The real thing from end to end: the command, a real X server, a real browser.

Playwright's synchronous API keeps an asyncio loop in its thread, so nothing here is async: a
browser stays open only while the tests of this folder run.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.labs.e2e.commands import Demo, started
from tests.labs.missing import missing

NEEDED = ("chromium", "Xvnc", "xterm", "openbox")
BROWSER_ARGUMENTS = (
    "--no-sandbox",  # chromium refuses to run as root with it, and containers are root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP desk.example 127.0.0.1",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="package", autouse=True)
def _programs() -> None:
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking:
        missing(f"not installed: {', '.join(lacking)} (see .ci/run for the packages)")


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    with started(tmp_path, "xvnc") as demo:
        yield demo


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return os.environ | {
        "DESKRELAY_BIND": f"127.0.0.1:{port}",
        "DESKRELAY_DATABASE_URL": f"sqlite:///{tmp_path}/relay.db",
        # A terminal's shell is not to run this machine's start-up files, which may be slow.
        "HOME": str(tmp_path),
        "SHELL": "/bin/sh",
    }


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
