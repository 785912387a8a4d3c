"""Commands that serve: where they are, and that they end what they have started."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from api.cli.commands import run
from relay.rfb.errors import CloseCode
from tests.labs.processes import descendants
from tests.labs.waiting import until

COMMAND = [sys.executable, "-m", "api"]
START_S = 30.0
STOP_S = 5.0  # what the command promises


@contextmanager
def started(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running command; killed at the end if the test has not ended it."""
    errors = (cwd / "stderr.txt").open("wb")
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=errors, cwd=cwd
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        errors.close()


def first_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> tuple[int, bytes]:
    """Exit status and the rest of stdout; fails if it takes longer than promised."""
    process.send_signal(number)
    status = process.wait(STOP_S)
    assert process.stdout is not None
    return status, process.stdout.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_demo(folder: Path, number: signal.Signals) -> None:
    with started(
        "demo", "--desktop", "pattern", "--bind", "127.0.0.1:0", "--json", cwd=folder
    ) as process:
        line = await trio.to_thread.run_sync(first_line, process)
        assert line.keys() == {"url", "viewer_url", "ws_url", "token", "chat", "pid"}
        assert line["pid"] == process.pid
        assert urlsplit(line["url"]).port
        assert line["ws_url"] == (
            f"ws{line['url'].removeprefix('http')}/api/v2/chats/{line['chat']}/desktop"
        )

        headers = {"Coder-Session-Token": line["token"]}
        async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
            chat = (await client.get(f"{line['url']}/api/v2/chats/{line['chat']}")).json()
            assert chat["archived"] is False
        async with httpx.AsyncClient(trust_env=False, headers={"Origin": line["url"]}) as browser:
            assert "Sign in as demo" in (await browser.get(line["viewer_url"])).text
            response = await browser.post(line["viewer_url"])
            assert (response.status_code, response.headers["location"]) == (
                303,
                f"/chats/{line['chat']}",
            )
            assert (await browser.get(line["viewer_url"])).status_code == 410
            assert (await browser.get(f"{line['url']}/api/v2/chats")).status_code == 200

        address = urlsplit(line["ws_url"])
        token = (b"Coder-Session-Token", line["token"].encode())
        with trio.fail_after(START_S):
            assert address.port is not None
            async with (
                await trio.open_tcp_stream("127.0.0.1", address.port) as stream,
                trio.open_nursery() as nursery,
            ):
                websocket = await wrap_client_stream(
                    nursery, stream, address.netloc, address.path, extra_headers=[token]
                )
                assert await websocket.get_message() == b"RFB 003.008\n"
                status, rest = await trio.to_thread.run_sync(end, process, number)
                with pytest.raises(ConnectionClosed) as closed:
                    await websocket.get_message()
                assert closed.value.reason is not None
                assert closed.value.reason.code == CloseCode.GOING_AWAY
    assert (status, rest) == (0, b"")
    errors = (folder / "stderr.txt").read_text()
    assert [json.loads(entry)["logger"] for entry in errors.splitlines()]
    assert line["token"] not in errors
    assert not (folder / "deskrelay.db").exists()


def test_demo_says_where_it_is(folder: Path) -> None:
    with started("demo", "--desktop", "pattern", "--bind", "127.0.0.1:0", cwd=folder) as process:
        assert process.stdout is not None
        text = b""
        while b"Ctrl-C" not in text:
            text += process.stdout.readline()
        assert re.search(rb"  The desktop is at  http://127.0.0.1:\d+/open/\w{32}\n", text)
        assert end(process, signal.SIGINT)[0] == 0


def test_desktop_that_does_not_start_is_told(folder: Path) -> None:
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))  # and does not listen
        port = refusing.getsockname()[1]
        with started(
            *("demo", "--desktop", f"tcp://127.0.0.1:{port}", "--bind", "127.0.0.1:0", "--json"),
            cwd=folder,
        ) as process:
            line = first_line(process)
            response = httpx.get(
                line["ws_url"].replace("ws:", "http:", 1),
                headers={
                    "Coder-Session-Token": line["token"],
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec-WebSocket-Version": "13",
                    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                },
                trust_env=False,
            )
            assert response.status_code == 500
            assert response.json()["message"] == "Failed to connect to agent desktop."
            # Where the desktop is, is for the log alone.
            told = "cannot connect to the desktop: Connection refused"
            assert response.json()["detail"] == told
            assert end(process, signal.SIGTERM)[0] == 0


def test_port_in_use_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        result = subprocess.run(
            [*COMMAND, "demo", "--desktop", "pattern", "--bind", bind],
            capture_output=True,
            text=True,
            timeout=START_S,
        )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"deskrelay: cannot listen on {bind}: Address already in use\n"


def test_serve_keeps_what_it_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "deskrelay.toml").write_text('bind = ["127.0.0.1:0"]')
    assert run(["token", "create", "--user", "alice"]) == 0
    assert run(["chat", "create", "--user", "alice"]) == 0
    token, chat = capsys.readouterr().out.split()
    for archived in (False, True):  # the second server finds what the first one kept
        with started("serve", cwd=folder) as process:
            url = wait_for_url(folder / "stderr.txt")
            with httpx.Client(
                base_url=url, headers={"Coder-Session-Token": token}, trust_env=False
            ) as client:
                assert client.get(f"/api/v2/chats/{chat}").json()["archived"] is archived
                status = client.post(f"/api/v2/chats/{chat}/archive").status_code
                assert status == (400 if archived else 204)
            assert end(process, signal.SIGTERM)[0] == 0


def wait_for_url(path: Path) -> str:
    deadline = time.monotonic() + START_S
    while not (match := re.search(r"serving at (http\S+)\n", path.read_text())):
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.05)
    return match[1]


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("Xvnc") is None, reason="Xvnc is not installed (see .ci/run)")
def test_nothing_is_left_of_a_real_desktop(folder: Path) -> None:
    with started("demo", "--desktop", "xvnc", "--bind", "127.0.0.1:0", "--json", cwd=folder) as p:
        first_line(p)
        log = folder / "stderr.txt"
        until(lambda: "the desktop runs" in log.read_text(), "the desktop", within_s=START_S)
        children = descendants(p.pid)
        assert any(name == "Xvnc" for name in children.values())
        assert end(p, signal.SIGTERM)[0] == 0
    assert [name for pid, name in children.items() if is_running(pid)] == []


def is_running(pid: int) -> bool:
    """Not so a process that has ended and waits to be reaped: what an X terminal ran is left to
    init, which takes its time."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
    except OSError:
        return False
    return state[0] not in "ZX"
