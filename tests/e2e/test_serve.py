"""The server for real use: settings, commands, store, and a browser that outlives it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
from playwright.sync_api import Page

from tests.e2e.conftest import STOP_S, connected, shows, until


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


def test_a_browser_finds_its_desktop_again_after_a_restart(
    environment: dict[str, str], page: Page
) -> None:
    link = run(environment, "token", "create", "--user", "ann", "--link")
    run(environment, "workspace", "add", "box", "--user", "ann", "--desktop", "pattern")
    run(environment, "chat", "create", "--user", "ann", "--title", "Work", "--workspace", "box")
    with server(environment):
        page.goto(link)
        page.get_by_role("link", name="Work").click()
        connected(page)
        again = page.context.new_page()
        answer = again.goto(link)
        assert answer is not None
        assert answer.status == 410
        shows(again, "This link cannot be used")
        again.close()
    shows(page, "The server cannot be reached")
    with server(environment):
        connected(page)  # by itself
