"""MCP over stdio: the official client, the command as a process, and desktops that are real."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.client import Client

from relay.desktops import RunningDesktop
from tests.labs.desktop_processes import desktops_home, living, needs_xvnc, pid_of, runs, until
from tests.labs.mcp_clients import COMMAND, NONSENSE, STOP_S, over_stdio, pictures, texts
from tests.labs.places import README
from tests.labs.xvnc import HEIGHT, WIDTH, Window, window, xvnc

__all__ = ["desktops_home", "window", "xvnc"]


MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])


@MODES
async def test_a_client_sees_the_desktop(mode: str, desktops_home: Path, tmp_path: Path) -> None:
    async with over_stdio("pattern", tmp_path, mode=mode) as client:
        assert client.server_info is not None
        assert client.server_info.name == "deskrelay"
        assert client.instructions is not None
        assert "newest screenshot" in client.instructions
        tools = (await client.list_tools()).tools
        assert {"screenshot", "left_click", "type"} < {tool.name for tool in tools}
        result = await client.call_tool("screenshot", {})
        assert not result.is_error
        assert [picture.size for picture in pictures(result)] == [(1280, 800)]
        # What may have changed the screen shows it.
        result = await client.call_tool("left_click", {"coordinate": [10, 20]})
        assert (texts(result), len(pictures(result))) == (["OK"], 1)
        result = await client.call_tool("cursor_position", {})
        assert (texts(result), len(pictures(result))) == (["X=10, Y=20"], 0)
    assert not living(desktops_home)


async def test_how_long_a_screen_may_take_to_settle(desktops_home: Path, tmp_path: Path) -> None:
    options = ("--quiet", "0.1", "--settle-limit", "0.05")
    async with over_stdio("pattern", tmp_path, *options) as client:
        result = await client.call_tool("wait", {"duration": 0})
        assert texts(result) == ["OK", "The screen was still changing after 0.05 s."]


async def test_errors_say_what_would_be_right(desktops_home: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("left_click", {"coordinate": [1280, 0]}, "coordinate [1280, 0] is out of bounds: "),
        ("left_click", {"coordinates": [1, 2]}, "'coordinates' is not accepted for left_click"),
        ("key", {"text": "Entre"}, "text: "),
        ("wait", {"duration": 301}, "duration is in seconds, at most 300 at once, not 301"),
        ("click", {}, "Error: unknown computer toolset member 'click'. Choose one of: "),
    ]
    async with over_stdio("pattern", tmp_path) as client:
        for name, given, text in cases:
            result = await client.call_tool(name, given)
            assert result.is_error
            (said,) = texts(result)
            assert said.startswith(text)


async def test_a_desktop_that_cannot_be_reached(desktops_home: Path, tmp_path: Path) -> None:
    async with over_stdio(f"unix:{tmp_path}/none", tmp_path) as client:
        for _ in range(2):
            result = await client.call_tool("screenshot", {})
            assert result.is_error
            (said,) = texts(result)
            assert said.startswith("The desktop cannot be reached: cannot connect to unix:")


@needs_xvnc
@MODES
async def test_clicks_and_keys_arrive(
    mode: str, xvnc: RunningDesktop, window: Window, tmp_path: Path
) -> None:
    async with over_stdio(str(xvnc.address), tmp_path, mode=mode) as client:
        (picture,) = pictures(await client.call_tool("screenshot", {}))
        assert picture.size == (WIDTH, HEIGHT)
        await client.call_tool("left_click", {"coordinate": [10, 20]})
        await client.call_tool("type", {"text": "ab"})
        await window.hears(
            "down 1 10 20", "up 1 10 20",
            "press 0x61", "release 0x61", "press 0x62", "release 0x62",
        )  # fmt: skip


async def held(client: Client, window: Window) -> None:
    """Holds a key, and is cancelled when it is down."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.call_tool, "hold_key", {"text": "a", "duration": 200})
        await until(lambda: window.heard[-1:] == ["press 0x61"])
        nursery.cancel_scope.cancel()


@needs_xvnc
@MODES
async def test_a_cancelled_call_lets_go_of_its_keys(
    mode: str, xvnc: RunningDesktop, window: Window, tmp_path: Path
) -> None:
    async with over_stdio(str(xvnc.address), tmp_path, mode=mode) as client:
        await held(client, window)
        await window.hears("press 0x61", "release 0x61")
        # And it goes on.
        assert not (await client.call_tool("screenshot", {})).is_error
        assert not (await client.call_tool("left_click", {"coordinate": [1, 2]})).is_error


@needs_xvnc
async def test_a_client_that_leaves_holds_nothing(
    xvnc: RunningDesktop, window: Window, tmp_path: Path
) -> None:
    async with over_stdio(str(xvnc.address), tmp_path) as client:
        await client.call_tool("mouse_move", {"coordinate": [5, 6]})
        await client.call_tool("left_mouse_down", {})
        await window.hears("down 1 5 6")
    await window.hears("down 1 5 6", "up 1 5 6")


@needs_xvnc
async def test_the_readmes_configuration(desktops_home: Path, tmp_path: Path) -> None:
    stdio, http = re.findall(r"```json\n(.*?)```", README.read_text(), re.DOTALL)
    server = json.loads(stdio)["mcpServers"]["desktop"]
    assert server == {"command": "deskrelay", "args": ["mcp", "--desktop", "xvnc"]}
    assert json.loads(http)["mcpServers"]["desktop"]["url"].endswith("/mcp")
    async with over_stdio(server["args"][-1], tmp_path) as client:
        (picture,) = pictures(await client.call_tool("screenshot", {}))
    assert picture.size == (1280, 800)


@needs_xvnc
async def test_a_desktop_that_died_comes_back(desktops_home: Path, tmp_path: Path) -> None:
    async with over_stdio("xvnc", tmp_path) as client:
        await client.call_tool("screenshot", {})
        os.kill(pid_of(desktops_home, "Xvnc"), signal.SIGKILL)
        await until(lambda: not runs(desktops_home, "Xvnc"))
        said = texts(await client.call_tool("left_click", {"coordinate": [1, 2]}))
        assert said[0].startswith("The desktop failed: the desktop has closed the connection. Take")
        # What was seen of the one is nothing to act by on the other.
        result = await client.call_tool("left_click", {"coordinate": [1, 2]})
        assert result.is_error
        assert "is new, so earlier screenshots are void" in texts(result)[0]
        assert len(pictures(await client.call_tool("screenshot", {}))) == 1
        assert not (await client.call_tool("left_click", {"coordinate": [1, 2]})).is_error
    assert not living(desktops_home)


def request(number: int, method: str, **parameters: object) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
    return json.dumps(message).encode() + b"\n"


HELLO = request(
    1,
    "initialize",
    protocolVersion="2025-11-25",
    capabilities={},
    clientInfo={"name": "t", "version": "1"},
)
HOLD = request(2, "tools/call", name="wait", arguments={"duration": 200})


def begun(process: subprocess.Popen[bytes], messages: Sequence[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(messages[0])
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "deskrelay"
    process.stdin.write(b"".join(messages[1:]))
    process.stdin.flush()


def start(desktop: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    command = [*COMMAND, "--desktop", desktop]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)


@needs_xvnc
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "stdin", "stdout"])
async def test_its_end_is_its_xvncs_end(how: str, desktops_home: Path) -> None:
    with start("xvnc") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        begun(process, [HELLO, HOLD])
        await until(lambda: runs(desktops_home, "Xvnc"))
        began_s = time.monotonic()
        if how == "stdin":
            process.stdin.close()
        elif how == "stdout":
            process.stdout.close()
            process.stdin.write(request(3, "tools/list"))
            process.stdin.flush()
        else:
            process.send_signal(signal.Signals[how])
        status = await trio.to_thread.run_sync(process.wait, STOP_S)
        assert time.monotonic() - began_s < STOP_S
        assert process.stderr is not None
        errors = process.stderr.read()
        assert (status, b"Traceback" in errors) == (0, False), errors
    assert not living(desktops_home)


def test_a_message_without_end_is_the_end(desktops_home: Path) -> None:
    with start("pattern") as process:
        begun(process, [HELLO])
        _, errors = process.communicate(b"x" * (3 << 20), timeout=10)
        assert process.returncode == 0
        assert b"a message has more than 1048576 bytes" in errors


def test_nonsense_is_survived_and_in_no_log(desktops_home: Path) -> None:
    wrong: list[Any] = [{"name": 5}, {"name": "type", "arguments": ["hunter2"]}, {}]
    calls = [request(n, "tools/call", **given) for n, given in enumerate(wrong, 10)]
    nonsense = b"".join(line + b"\n" for line in NONSENSE)
    with start("pattern") as process:
        # Before it is greeted, and after that.
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(nonsense)
        begun(process, [HELLO, nonsense, *calls, request(20, "no/method"), request(21, "ping")])
        told: dict[int, Any] = {}
        while len(told) < 5:
            answer = json.loads(process.stdout.readline())
            told[answer["id"]] = answer.get("error", {}).get("code")
        assert told == {**dict.fromkeys((10, 11, 12), -32602), 20: -32601, 21: None}
        _, errors = process.communicate(timeout=10)
        assert (process.returncode, b"hunter2" in errors, b"Traceback" in errors) == (
            0,
            False,
            False,
        )


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_without_stdin_or_stdout_it_is_of_no_use(closed: str, desktops_home: Path) -> None:
    command = f"{shlex.join([*COMMAND, '--desktop', 'pattern'])} {closed}"
    done = subprocess.run(
        ["sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2,
        b"deskrelay: an MCP client speaks on stdin and stdout, and one of them is closed\n",
    )


def test_a_client_that_reads_nothing_holds_nothing_up(desktops_home: Path) -> None:
    look = [request(n, "tools/call", name="screenshot", arguments={}) for n in range(2, 22)]
    with start("pattern") as process:
        begun(process, [HELLO, *look])
        # The pipe is full by then, at 35 KB a picture.
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0


def test_nothing_but_messages_is_on_stdout(desktops_home: Path) -> None:
    """What prints all the same, prints to stderr."""
    code = (
        "import sys, api.mcp.session as s; from api.cli.commands import run\n"
        "old = s.ComputerSession.call\n"
        "async def call(self, *given):\n"
        "    print('noise'); return await old(self, *given)\n"
        "s.ComputerSession.call = call\n"
        "sys.exit(run(['mcp', '--desktop', 'pattern']))"
    )
    look = request(2, "tools/call", name="cursor_position", arguments={})
    done = subprocess.run(
        [sys.executable, "-u", "-W", "error", "-c", code],
        input=HELLO + look,
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in done.stdout.splitlines())
    assert b"noise" in done.stderr
