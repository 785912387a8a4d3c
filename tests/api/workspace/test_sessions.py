"""The whole way: Xvnc, `deskrelay agent`, a relay, a viewer. Each in a process of its own, or the
relay in this one."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
import trio
from PIL import Image

import relay
from api.cli import commands
from relay import (
    Password,
    WorkspaceAgentCredentials,
    WorkspaceAgentError,
    WorkspaceAgentStep,
    parse_address,
)
from relay.desktops import Desktops, provider_for
from relay.dialling.workspace_agent import client_tls
from tests.labs.certificates import Authority
from tests.labs.desktop_processes import (
    desktops_home,
    living,
    needs_xvnc,
    pid_of,
    runs,
    tcp_listeners,
    until,
)
from tests.labs.desktop_server import KEY, parse, read_all, read_head
from tests.labs.peers import Frames, client_frame
from tests.labs.web import Web, start_web

# The fixture.
__all__ = ["desktops_home"]

COMMAND = [sys.executable, "-m", "api"]
SECRET = "correct horse battery"
STOP_S = 5.0


@contextmanager
def serving(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[Any]:
    """A command that serves, and the address that it says it serves at."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stderr is not None
    try:
        said = ""
        while "serving at " not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield process, said.rpartition("serving at ")[2].strip()
    finally:
        process.terminate()
        process.communicate(timeout=STOP_S)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\nnot this line\n")
    return file


def ws(url: str) -> str:
    return url.replace("http", "ws", 1)


@dataclass
class Relay:
    """A relay in this process, and a chat whose desktop is behind a workspace agent."""

    web: Web
    chat: UUID

    @property
    def path(self) -> str:
        return f"/api/v2/chats/{self.chat}/desktop"

    async def upgrade(self) -> tuple[trio.SocketStream, bytes]:
        return await upgrade(int(self.web.url.rpartition(":")[2]), self.path, self.web.token)

    async def refusal(self) -> tuple[int, Any]:
        stream, head = await self.upgrade()
        async with stream:
            status, _, body = parse(head + await read_all(stream))
        return status, httpx.Response(status, content=body).json()


async def upgrade(port: int, path: str, token: str) -> tuple[trio.SocketStream, bytes]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
        f"Coder-Session-Token: {token}\r\n\r\n".encode()
    )
    with trio.fail_after(30):
        return stream, await read_head(stream)


@asynccontextmanager
async def relay_to(
    desktop: str, credentials: WorkspaceAgentCredentials | None
) -> AsyncIterator[Relay]:
    async with trio.open_nursery() as nursery:
        desktops = Desktops(nursery, partial(provider_for, workspace_agent=credentials))
        web = await start_web(nursery, desktops=desktops)
        workspace = await web.store.add_workspace(web.alice.id, "far", desktop)
        chat = await web.store.create_chat(web.alice.id, title="", workspace_id=workspace.id)
        yield Relay(web, chat.id)
        await web.aclose()
        nursery.cancel_scope.cancel()


async def see(stream: trio.abc.Stream) -> tuple[Frames, tuple[int, int]]:
    """A viewer's handshake, and its first update: whole rows of raw pixels, not all of one
    colour. Returns the desktop's size."""
    frames = Frames(stream)
    for expected, answer in ((12, b"RFB 003.008\n"), (2, b"\x01"), (4, b"\x01")):
        await frames.binary(expected)
        await stream.send_all(client_frame(answer))
    width, height = struct.unpack(">HH", await frames.binary(4))
    await frames.binary(16)
    (length,) = struct.unpack(">I", await frames.binary(4))
    await frames.binary(length)
    await stream.send_all(
        client_frame(
            struct.pack(">BxHi", 2, 1, 0) + struct.pack(">BBHHHH", 3, 0, 0, 0, width, height)
        )
    )
    assert await frames.binary(2) == b"\0\0"
    (count,) = struct.unpack(">H", await frames.binary(2))
    area_px = 0
    for _ in range(count):
        _, _, w, h, encoding = struct.unpack(">HHHHi", await frames.binary(12))
        assert encoding == 0
        await frames.binary(w * h * 4)
        area_px += w * h
    assert area_px == width * height
    return frames, (width, height)


def credentials(secret: str = SECRET) -> WorkspaceAgentCredentials:
    return WorkspaceAgentCredentials(Password(secret))


# One workspace agent for those that need no Xvnc.


@pytest.fixture(scope="module")
def workspace_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("workspace") / "secret"
    file.write_text(SECRET)
    bind = ("--bind", "127.0.0.1:0")
    with serving("agent", "--desktop", "pattern", *bind, "--secret-file", str(file)) as (_, url):
        yield ws(url)


async def test_a_viewer_through_relay_and_workspace_agent(workspace_agent: str) -> None:
    async with relay_to(workspace_agent, credentials()) as lab:
        stream, head = await lab.upgrade()
        async with stream:
            assert b" 101 " in head
            with trio.fail_after(10):
                _, size = await see(stream)
        assert size == (1280, 800)


async def test_a_client_through_a_workspace_agent(workspace_agent: str) -> None:
    async with relay.connect(parse_address(workspace_agent, credentials())) as desktop:
        await desktop.click(10, 20)
        assert len(await desktop.screenshot()) > 1000


async def test_a_client_without_the_secret(workspace_agent: str) -> None:
    with pytest.raises(WorkspaceAgentError, match="answered 401: Unauthorized") as caught:
        async with relay.connect(workspace_agent):
            pass
    assert caught.value.step is WorkspaceAgentStep.DIAL


@pytest.mark.parametrize("given", [None, credentials("a wrong secret of a fair length")])
async def test_a_wrong_secret(
    workspace_agent: str, given: WorkspaceAgentCredentials | None
) -> None:
    async with relay_to(workspace_agent, given) as lab:
        status, body = await lab.refusal()
        look = (await lab.web.client.get(lab.path.removesuffix("/desktop"))).json()
    assert (status, body["message"]) == (500, "Failed to dial workspace agent.")
    assert "answered 401: Unauthorized." in body["detail"]
    assert look["desktop_problem"] == body["detail"]


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with relay_to(f"ws://127.0.0.1:{port}", credentials()) as lab:
        status, body = await lab.refusal()
    assert status == 400
    assert body == {
        "message": 'Agent state is "disconnected", must be connected.',
        "detail": "cannot connect to the workspace agent: Connection refused",
    }


async def test_a_workspace_agent_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.dialling.workspace_agent.ANSWER_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        async with relay_to(address, credentials()) as lab:
            status, body = await lab.refusal()
    assert (status, body["message"]) == (400, 'Agent state is "timeout", must be connected.')
    assert body["detail"] == "the workspace agent did not answer in time"


async def test_a_workspace_agent_whose_desktop_does_not_start(secret_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
    arguments = ("--bind", "127.0.0.1:0", "--secret-file", str(secret_file))
    with serving("agent", "--desktop", address, *arguments) as (_, url):
        async with relay_to(ws(url), credentials()) as lab:
            status, body = await lab.refusal()
    assert (status, body["message"]) == (500, "Failed to connect to agent desktop.")
    told = "the workspace agent answered 500: Failed to connect to VNC server."
    assert body["detail"] == told


async def test_a_workspace_agent_on_a_unix_socket(secret_file: Path, tmp_path: Path) -> None:
    bind = f"unix:{tmp_path}/workspace.sock"
    arguments = ("--desktop", "pattern", "--bind", bind, "--secret-file", str(secret_file))
    with serving("agent", *arguments) as (_, url):
        assert url == bind
        transport = httpx.AsyncHTTPTransport(uds=f"{tmp_path}/workspace.sock")
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://workspace/healthz")).text == "OK"


# Xvnc


def client_of(url: str, tls: ssl.SSLContext | bool = True) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {SECRET}"}
    return httpx.AsyncClient(base_url=url, verify=tls, headers=headers, trust_env=False)


async def act(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/api/v0/desktop/action", json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.e2e
@needs_xvnc
async def test_mutual_tls_with_everything_real(
    desktops_home: Path, secret_file: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "authority")
    theirs, ours = authority.vouch("workspace"), authority.vouch("relay")
    environment = os.environ | {
        "DESKRELAY_BIND": "127.0.0.1:0",
        "DESKRELAY_DATABASE_URL": f"sqlite:///{tmp_path}/relay.db",
        "DESKRELAY_DESKTOP__WORKSPACE_AGENT_SECRET_FILE": str(secret_file),
        "DESKRELAY_DESKTOP__WORKSPACE_AGENT_CA_FILE": str(authority.cert),
        "DESKRELAY_DESKTOP__WORKSPACE_AGENT_CERT_FILE": str(ours.cert),
        "DESKRELAY_DESKTOP__WORKSPACE_AGENT_KEY_FILE": str(ours.key),
    }
    workspace_arguments = (
        *("--desktop", "xvnc", "--geometry", "800x600", "--bind", "127.0.0.1:0"),
        *("--secret-file", str(secret_file), "--client-ca", str(authority.cert)),
        *("--tls-cert", str(theirs.cert), "--tls-key", str(theirs.key)),
    )
    with serving("agent", *workspace_arguments) as (workspace_process, url):
        assert url.startswith("https://127.0.0.1:")
        token = run(environment, "token", "create", "--user", "ann")
        run(environment, "workspace", "add", "far", "--user", "ann", "--desktop", ws(url))
        chat = run(environment, "chat", "create", "--user", "ann", "--workspace", "far")
        path = f"/api/v2/chats/{chat}/desktop"
        with serving("serve", environment=environment) as (_, relay_url):
            port = int(relay_url.rpartition(":")[2])
            stream, head = await upgrade(port, path, token)
            async with stream:
                assert b" 101 " in head
                with trio.fail_after(20):
                    frames, size = await see(stream)
                assert size == (800, 600)
                assert not tcp_listeners(pid_of(desktops_home, "Xvnc"))

                # Whoever has no certificate of the authority does not get as far as the secret.
                async with client_of(url, client_tls(authority.cert)) as client:
                    with pytest.raises(httpx.TransportError):
                        await client.get("/healthz")
                known = client_tls(authority.cert, ours.cert, ours.key)
                async with client_of(url, known) as client:
                    assert (await client.get("/healthz")).text == "OK"
                    del client.headers["Authorization"]
                    assert (await client.post("/api/v0/desktop/action")).status_code == 401
                async with client_of(url, known) as client:
                    await act_on_it(client)

                os.kill(workspace_process.pid, signal.SIGKILL)
                with trio.fail_after(10):
                    code, _ = await frames.close()
                assert code == relay.CloseCode.DESKTOP_GONE
            # Its listener may outlive its connections, until it has ended whole.
            await trio.to_thread.run_sync(workspace_process.wait)
            stream, head = await upgrade(port, path, token)
            async with stream:
                status, _, body = parse(head + await read_all(stream))
            assert status == 400
            assert b'Agent state is \\"disconnected\\", must be connected.' in body


async def act_on_it(client: httpx.AsyncClient) -> None:
    await act(client, action="mouse_move", coordinate=[0, 0])
    assert await act(client, action="cursor_position") == {"output": "x=0,y=0"}
    scaled = {"scaled_width": 400, "scaled_height": 300}
    await act(client, action="left_click", coordinate=[200, 150], **scaled)
    assert await act(client, action="cursor_position") == {"output": "x=401,y=301"}
    screen = pixels(await act(client, action="screenshot"))
    assert screen.shape == (600, 800, 3)
    zoom = pixels(await act(client, action="zoom", region=[0, 0, 400, 300]))
    assert zoom.shape == (600, 800, 3)


def pixels(answer: dict[str, Any]) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["screenshot_data"]))))


@pytest.mark.e2e
@needs_xvnc
async def test_a_desktop_that_ends_is_started_again(desktops_home: Path, secret_file: Path) -> None:
    bind = ("--bind", "127.0.0.1:0")
    arguments = ("--desktop", "xvnc", *bind, "--secret-file", str(secret_file))
    with serving("agent", *arguments) as (_, url):
        async with client_of(url) as client:
            await act(client, action="mouse_move", coordinate=[7, 8])
            async with relay_to(ws(url), credentials()) as lab:
                stream, _ = await lab.upgrade()
                async with stream:
                    frames, _ = await see(stream)
                    first = pid_of(desktops_home, "Xvnc")
                    os.kill(first, signal.SIGKILL)
                    with trio.fail_after(10):
                        assert (await frames.close())[0] == relay.CloseCode.DESKTOP_GONE
                stream, head = await lab.upgrade()
                async with stream:
                    assert b" 101 " in head
                    await see(stream)
            await act(client, action="mouse_move", coordinate=[9, 9])
            assert pid_of(desktops_home, "Xvnc") != first


@pytest.mark.e2e
@needs_xvnc
async def test_its_desktop_ends_with_the_workspace_agent(
    desktops_home: Path, secret_file: Path
) -> None:
    arguments = ("--desktop", "xvnc", "--bind", "127.0.0.1:0", "--secret-file", str(secret_file))
    with serving("agent", *arguments) as (process, url):
        async with relay.connect(parse_address(ws(url), credentials())):
            assert runs(desktops_home, "Xvnc")
            process.kill()
            await until(lambda: not living(desktops_home))


# The command line


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", "anybody could use the desktop: give --secret-file, or --client-ca with TLS, or both"),
        ("--client-ca {ca}", "--client-ca: it needs --tls-cert and --tls-key"),
        ("--secret-file {secret} --tls-cert {ca}", "--tls-cert and --tls-key go together"),
        (
            "--secret-file {secret} --tls-cert {ca} --tls-key {ca}",
            "--tls-cert: cannot use the cert",
        ),
        ("--client-ca {short} --tls-cert {ca} --tls-key {ca}", "--client-ca: cannot use the cert"),
        ("--secret-file {short}", "is not 16 or more characters of printable ASCII"),
        ("--secret-file {secret} --desktop ws://a:1", "'ws://a:1' is a workspace agent"),
        ("--secret-file {secret} --desktop tcp://192.0.2.1:5900", "is not on the loopback"),
        ("--secret-file {secret} --desktop tcp://desk:5900", "is not on the loopback"),
        ("--secret-file {secret} --desktop WS://a:1", "'WS://a:1' is a workspace agent"),
        ("--secret-file {secret} --desktop x", "'x' is no desktop"),
        ("--secret-file {secret} --bind 6081", "'6081' is not HOST:PORT"),
        ("--secret-file {secret} --password-file {short}", "the desktop xvnc has no password"),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path,
    secret_file: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    text: str,
) -> None:
    short = tmp_path / "short"
    short.write_text("short")
    files = {"ca": Authority(tmp_path, "ca").cert, "secret": secret_file, "short": short}
    status = commands.run(["agent", *arguments.format(**files).split()])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("deskrelay: ")
    assert text in err
    assert err.count("\n") == 1
    assert SECRET not in err


def test_without_its_packages_it_says_what_to_install(
    secret_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "api.workspace.server", raising=False)
    monkeypatch.setitem(sys.modules, "api.workspace.actions", None)
    assert commands.run(["agent", "--secret-file", str(secret_file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(' is not installed; pip install "deskrelay[server,client]" brings it\n')
    assert err.count("\n") == 1


def test_an_address_that_is_not_ours(secret_file: Path) -> None:
    arguments = ("agent", "--bind", "192.0.2.1:1", "--secret-file", str(secret_file))
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    warning, error = done.stderr.splitlines()
    assert warning == "Nothing is encrypted, the secret neither: see --tls-cert."
    assert error.startswith("deskrelay: cannot listen on 192.0.2.1:1: ")


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (
            'workspace_agent_secret = "a"\nworkspace_agent_secret_file = "b"',
            "workspace_agent_secret and workspace_agent_secret_file are both set; one is enough",
        ),
        (
            'workspace_agent_cert_file = "a"',
            "workspace_agent_cert_file and workspace_agent_key_file go together",
        ),
        (
            'workspace_agent_ca_file = "nowhere"',
            "cannot use the certificates in nowhere: No such file",
        ),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, lines: str, text: str) -> None:
    (tmp_path / "deskrelay.toml").write_text(
        f'database_url = "sqlite:///{tmp_path}/x.db"\n[desktop]\n{lines}\n'
    )
    done = subprocess.run(
        [*COMMAND, "serve"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1
