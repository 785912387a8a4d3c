"""Nothing holds Trio's thread up: the commands in processes of their own, with a watchdog each, on
their main paths from start to end. Every session of a server waits while one thing blocks."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import trio
import trio_websocket

from tests.labs.desktop_processes import desktops_home, living, needs_xvnc
from tests.labs.e2e.commands import run
from tests.labs.language_model.server import (
    Message,
    ModelServer,
    model_server,
    text_reply,
    tool_reply,
    tool_use,
)
from tests.labs.mcp_clients import over_http
from tests.labs.watchdog import LIMIT_MS, available, read_blocks

__all__ = ["desktops_home"]

pytestmark = [
    pytest.mark.skipif(
        not available(), reason="this system does not tell a wait for a CPU from other waits"
    ),
    pytest.mark.filterwarnings(
        "ignore:Async generator '(httpx2?|httpcore2?)[.].*was garbage collected:ResourceWarning"
    ),
]

ALLOWED: dict[str, str] = {
    "api/run.py:model_of:": "before the server listens: the model's SDK is imported",
    "api/run.py:_settle_memory:": "at the start: nobody has been told the address yet",
}
"""By `file:function:` of a call in what may be longer: why it may."""

PATIENCE_S = 60.0
SECRET = "correct horse battery"
REQUEST = bytes([3, 0, 0, 0, 0, 0, 1, 0, 1, 0])  # of 256x256 pixels (RFC 6143, Section 7.5.3)


@dataclass(frozen=True)
class Watched:
    """A command that serves, with its watchdog."""

    process: trio.Process
    url: str
    told: str
    blocks: Path

    async def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE_S):
            assert await self.process.wait() == 0

    def nothing_blocked(self) -> None:
        found = [
            block for block in read_blocks(self.blocks) if block.held_outside_ms(ALLOWED) > LIMIT_MS
        ]
        # The most frequent of its stacks, from the inside.
        shown = "\n".join(
            f"{replace(block, stacks=[])} {block.stacks[0][1][:-20:-1] if block.stacks else ''}"
            for block in found
        )
        assert not found, f"{len(found)} blocks:\n{shown}"


@asynccontextmanager
async def watched(
    folder: Path, environment: dict[str, str], *arguments: str
) -> AsyncIterator[Watched]:
    name = f"{arguments[0]}-{len(os.listdir(folder))}"
    log, blocks = folder / f"{name}.log", folder / f"{name}.blocks"
    command = [sys.executable, "-m", "tests.labs.watchdog", str(blocks), *arguments]
    with log.open("wb") as errors:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stderr=errors, env=environment
        )
    try:
        with trio.fail_after(PATIENCE_S):
            while (told := re.search(r"serving.* at (\S+)\n", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                await trio.sleep(0.05)
        yield Watched(process, told[1], log.read_text(), blocks)
        if process.returncode is None:
            await Watched(process, told[1], "", blocks).end()
        assert "Traceback" not in log.read_text()
        Watched(process, told[1], "", blocks).nothing_blocked()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@pytest.fixture
def environment(tmp_path: Path, desktops_home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "XDG_RUNTIME_DIR")}
    return kept | {
        "HOME": str(tmp_path),
        "SHELL": "/bin/sh",
        "DESKRELAY_BIND": "127.0.0.1:0",
        "DESKRELAY_DATABASE_URL": f"sqlite:///{tmp_path}/store.db",
    }


def test_what_agents_need_is_imported_before_the_server_listens(
    environment: dict[str, str],
) -> None:
    code = """
import sys
from api.run import model_of
from api.settings import ModelSettings
assert model_of(ModelSettings(api_key="key")) is not None
before = set(sys.modules)
from relay.client import connect
from relay.computer import Computer, Settings
print(sorted(set(sys.modules) - before))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def chat_on(environment: dict[str, str], desktop: str) -> str:
    """A chat of ann's."""
    name = re.sub("[^a-z]", "-", desktop)
    run(environment, "workspace", "add", name, "--user", "ann", "--desktop", desktop)
    return run(environment, "chat", "create", "--user", "ann", "--workspace", name)


async def view(url: str, token: str, chat: str) -> None:
    """A session: a login, a picture of some of the screen, a key, and the end."""
    address = f"{url.replace('http', 'ws', 1)}/api/v2/chats/{chat}/desktop"
    headers = [(b"Coder-Session-Token", token.encode())]
    with trio.fail_after(PATIENCE_S):
        async with trio_websocket.open_websocket_url(address, extra_headers=headers) as viewer:
            got = bytearray()

            async def more(count: int) -> None:
                while len(got) < count:
                    message = await viewer.get_message()
                    assert isinstance(message, bytes)
                    got.extend(message)
                del got[:count]

            await more(12)
            for said, answer in ((b"RFB 003.008\n", 2), (b"\1", 4), (b"\1", 24)):
                await viewer.send_message(said)
                await more(answer)
            await viewer.send_message(REQUEST)
            await more(256 * 256)
            await viewer.send_message(bytes([4, 1, 0, 0, 0, 0, 0, 0x61]))


async def signs_in(http: httpx.AsyncClient, link: str) -> None:
    answer = await http.get(link)
    if answer.status_code == 200:  # a page that asks first
        answer = await http.post(link, headers={"Origin": str(httpx.URL(link).copy_with(path=""))})
    assert answer.is_redirect
    assert http.cookies


async def talks(http: httpx.AsyncClient, chat: str) -> None:
    """Says something, follows what comes of it, and reads all of that again."""
    path = f"/api/v2/chats/{chat}"
    heard: list[str] = []
    async with trio.open_nursery() as nursery:

        async def follow() -> None:
            async with http.stream("GET", f"{path}/stream", timeout=PATIENCE_S) as stream:
                async for line in stream.aiter_lines():
                    heard.append(line)

        nursery.start_soon(follow)
        assert (await http.post(f"{path}/messages", json={"text": "Look."})).status_code == 202
        with trio.fail_after(PATIENCE_S):
            while not any("It is a wall." in line for line in heard):
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    parts = (await http.get(f"{path}/messages")).text
    pictures = 0
    for one in {chat, *re.findall(r'chat_id[\\": ]+([0-9a-f-]{36})', parts)}:
        said = (await http.get(f"/api/v2/chats/{one}/messages")).text
        for file in re.findall(r'"file_id": ?"([0-9a-f-]{36})"', said):
            picture = await http.get(f"/api/v2/chats/{one}/files/{UUID(file)}")
            assert picture.status_code == 200
            pictures += 1
    assert pictures


def is_agent(request: dict[str, Any]) -> bool:
    return any(tool.get("type", "").startswith("computer") for tool in request["tools"])


def waits(request: dict[str, Any]) -> Message:
    spawned = json.loads(request["messages"][-1]["content"][-1]["content"][0]["text"])
    return tool_reply(tool_use("wait_agent", {"chat_id": spawned["chat_id"]}))


def script(model: ModelServer) -> None:
    """Has an agent look, click and type."""
    model.script(
        tool_reply(tool_use("spawn_computer_use_agent", {"prompt": "Look at it."})),
        waits,
        text_reply("It is a wall."),
        when=lambda request: not is_agent(request),
    )
    actions: list[tuple[str, dict[str, Any]]] = [
        ("screenshot", {}),
        ("left_click", {"coordinate": [100, 100]}),
        ("type", {"text": "ls"}),
        ("zoom", {"region": [0, 0, 200, 200]}),
    ]
    for name, given in actions:
        model.script(tool_reply(tool_use(name, given, toolset="computer")), when=is_agent)
    model.script(text_reply("There is a wall."), when=is_agent)


@needs_xvnc
async def test_a_server(tmp_path: Path, environment: dict[str, str]) -> None:
    token = run(environment, "token", "create", "--user", "ann")
    (tmp_path / "secret").write_text(SECRET)
    agent = ("agent", "--desktop", "pattern", "--bind", "127.0.0.1:0")
    secret = ("--secret-file", str(tmp_path / "secret"))
    async with model_server() as model, watched(tmp_path, environment, *agent, *secret) as beside:
        settings = {
            "DESKRELAY_MODEL__API_KEY": model.api_key,
            "DESKRELAY_MODEL__BASE_URL": model.url,
            "DESKRELAY_DESKTOP__WORKSPACE_AGENT_SECRET": SECRET,
        }
        desktops = ["pattern", "xvnc", beside.url.replace("http", "ws", 1)]
        chats = [chat_on(environment, desktop) for desktop in desktops]
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {SECRET}"}) as http:
            action = f"{beside.url}/api/v0/desktop/action"
            for name in ("screenshot", "left_click", "zoom"):
                body = {"action": name, "coordinate": [5, 5], "region": [0, 0, 100, 100]}
                assert (await http.post(action, json=body, timeout=30)).status_code == 200
        async with (
            watched(tmp_path, environment | settings, "serve") as served,
            httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_S) as http,
        ):
            public = environment | {"DESKRELAY_PUBLIC_URL": served.url}
            link = run(public, "token", "create", "--user", "ann", "--link")
            await signs_in(http, link)
            http.headers["Coder-Session-Token"] = token
            http.cookies.clear()
            async with trio.open_nursery() as nursery:
                for chat in (*chats, chats[1]):
                    nursery.start_soon(view, served.url, token, chat)
            for chat in chats[:2]:
                script(model)
                await talks(http, chat)
            for path in ("/", f"/chats/{chats[0]}", "/readyz", "/metrics", "/openapi.json"):
                assert (await http.get(path)).status_code == 200
            archive = await http.post(f"/api/v2/chats/{chats[0]}/archive")
            assert archive.status_code == 204
            # Another on the same database and the same place for desktops, and its Xvnc.
            async with watched(tmp_path, environment | settings, "serve") as second:
                await view(second.url, token, chats[1])
        assert not living(Path(environment["XDG_RUNTIME_DIR"]))


@needs_xvnc
async def test_mcp(tmp_path: Path, environment: dict[str, str]) -> None:
    command = ("mcp", "--desktop", "xvnc", "--http", "127.0.0.1:0")
    async with watched(tmp_path, environment, *command) as served:
        told = re.search(r"Bearer (\S+)", served.told)
        assert told is not None
        async with over_http(served.url, token=told[1]) as client:
            assert (await client.list_tools()).tools
            for name, given in (
                ("screenshot", {}),
                ("left_click", {"coordinate": [10, 20]}),
                ("type", {"text": "ls"}),
                ("wait", {"duration": 0.1}),
            ):
                assert not (await client.call_tool(name, given)).is_error


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """As another relay has it while it makes a desktop's directory; or stops in the middle."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def starting_behind_a_lock(
    tmp_path: Path, environment: dict[str, str]
) -> AsyncIterator[Watched]:
    """A server, and a session that wants a desktop whose directory cannot be made for now."""
    token = run(environment, "token", "create", "--user", "ann")
    chat = chat_on(environment, "xvnc")
    async with (
        watched(tmp_path, environment, "serve") as served,
        httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_S) as http,
        trio.open_nursery() as nursery,
    ):
        place = Path(environment["XDG_RUNTIME_DIR"], f"deskrelay-{os.getuid()}")

        async def wants() -> None:
            with trio.move_on_after(PATIENCE_S):
                headers = {"Coder-Session-Token": token}
                try:
                    await http.get(f"/api/v2/chats/{chat}/desktop", headers=headers | UPGRADE)
                except httpx.TransportError:
                    pass  # The server has ended.

        with locked(place):
            nursery.start_soon(wants)
            await trio.sleep(1)
            yield served
        nursery.cancel_scope.cancel()


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@needs_xvnc
async def test_another_relays_lock_holds_one_desktop_up(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    async with starting_behind_a_lock(tmp_path, environment) as served, httpx.AsyncClient() as http:
        assert (await http.get(f"{served.url}/healthz", timeout=20)).status_code == 200


@needs_xvnc
async def test_sigterm_comes_through_another_relays_lock(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    async with starting_behind_a_lock(tmp_path, environment) as served:
        served.process.send_signal(signal.SIGTERM)
        with trio.fail_after(30):
            assert await served.process.wait() == 0


async def test_sigterm_while_clients_hold_on(tmp_path: Path, environment: dict[str, str]) -> None:
    """Streams, sessions and half a request are open when the signal comes."""
    token = run(environment, "token", "create", "--user", "ann")
    chat = chat_on(environment, "pattern")
    headers = {"Coder-Session-Token": token}
    async with (
        watched(tmp_path, environment, "serve") as served,
        httpx.AsyncClient(base_url=served.url, headers=headers) as http,
        http.stream("GET", f"/api/v2/chats/{chat}/stream", timeout=PATIENCE_S) as stream,
        await trio.open_tcp_stream("127.0.0.1", httpx.URL(served.url).port or 0) as half,
    ):
        assert stream.status_code == 200
        await half.send_all(b"GET /healthz HTTP/1.1\r\nHost: ")
        await view(served.url, token, chat)
        await served.end()
