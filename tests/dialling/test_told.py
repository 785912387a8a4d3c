"""What those are told who only look at a desktop: useful, and no word of where it is."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from relay import (
    DesktopError,
    Password,
    PasswordFile,
    TcpAddress,
    UnixAddress,
    WorkspaceAgentAddress,
    WorkspaceAgentCredentials,
)
from relay.desktops import RunningDesktop
from relay.dialling.addresses import Address
from relay.dialling.passwords import PasswordSource
from relay.limits import Limits

HOST = "127.0.0.1"


async def failure(
    address: Address, password: PasswordSource | None = None, limits: Limits | None = None
) -> DesktopError:
    with pytest.raises(DesktopError) as raised:
        await RunningDesktop(address, password).open(limits or Limits())
    return raised.value


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A port where whoever connects is told `answer`, and no more."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(answer)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host=HOST))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def closed_port() -> int:
    with socket.create_server((HOST, 0)) as closed:
        port: int = closed.getsockname()[1]
    return port


async def test_nobody_listens(tmp_path: Path) -> None:
    port = closed_port()
    cases: list[tuple[Address, str]] = [
        (TcpAddress(HOST, port), "cannot connect to the desktop: Connection refused"),
        (UnixAddress(f"{tmp_path}/x"), "cannot connect to the desktop: No such file or directory"),
        (
            WorkspaceAgentAddress("ws", HOST, port),
            "cannot connect to the workspace agent: Connection refused",
        ),
    ]
    for address, told in cases:
        error = await failure(address)
        assert error.told == told
        assert str(address) in str(error)


async def test_a_name_that_is_none() -> None:
    for host in ("nowhere.invalid", "a" * 70 + ".invalid", "x..y"):
        error = await failure(TcpAddress(host, 5900))
        assert error.told.startswith("cannot connect to the desktop: ")
        assert host not in error.told
        assert host in str(error)


def answer(status: str, body: object) -> bytes:
    text = body if isinstance(body, str) else json.dumps(body)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            answer("500 x", {"message": "Failed to start desktop session.", "detail": "/opt/x"}),
            "the workspace agent answered 500: Failed to start desktop session.",
        ),
        (answer("401 x", {"message": "Unauthorized."}), "answered 401: Unauthorized."),
        (answer("500 x", {"message": "no way to 10.1.2.3"}), "the workspace agent answered 500"),
        (answer("502 x", {"message": "db.internal failed"}), "the workspace agent answered 502"),
        (answer("500 x", {"message": "/run/x: no file"}), "the workspace agent answered 500"),
        (answer("404 x", "no desktop at db.internal"), "the workspace agent answered 404"),
        (answer("200 x", ["db.internal"]), "the workspace agent answered 200"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "the workspace agent does not answer as a workspace agent"),
    ],
)
async def test_what_a_workspace_agent_answers(said: bytes, told: str) -> None:
    async with answering(said) as port:
        error = await failure(WorkspaceAgentAddress("ws", HOST, port))
    assert error.told.endswith(told)
    assert f"ws://{HOST}:{port}" in str(error)


async def test_tls_that_fails() -> None:
    async with answering(b"HTTP/1.1 400 no TLS here\r\n\r\n") as port:
        credentials = WorkspaceAgentCredentials(tls=ssl.create_default_context())
        error = await failure(WorkspaceAgentAddress("wss", HOST, port, credentials=credentials))
    assert error.told == "no TLS with the workspace agent"
    assert f"wss://{HOST}:{port}" in str(error)


async def test_a_password_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "password"
    # RFB 3.8, VNC authentication alone, a challenge.
    async with answering(b"RFB 003.008\n\x01\x02" + bytes(16)) as port:
        for _ in range(2):
            error = await failure(TcpAddress(HOST, port), PasswordFile(file))
            assert error.told == "the server cannot read the desktop's password"
            assert str(file) in str(error)
            file.write_text("\n")


async def test_what_a_desktop_says_itself_is_told() -> None:
    async with answering(b"RFB 003.008\n\0\0\0\0\x08too many") as port:
        error = await failure(TcpAddress(HOST, port), Password("x"))
    assert error.told == str(error)
    assert "too many" in error.told


async def test_no_answer(autojump_clock: trio.testing.MockClock) -> None:
    running = RunningDesktop(UnixAddress("/run/nowhere"))
    for _ in range(3):
        running._logins.acquire_on_behalf_of_nowait(object())
    with pytest.raises(DesktopError) as raised:
        await running.open(Limits())
    assert raised.value.told.startswith("the desktop keeps others waiting")
    assert "/run/nowhere" in str(raised.value)
