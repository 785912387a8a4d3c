"""Bodies that are too long, too slow or without an end, on a connection in the test's hands."""

from __future__ import annotations

import json

import pytest
import structlog
import trio

from api.workspace.server import ACTION_PATH, BODY_BYTES
from tests.labs.desktop_server import parse, read_all
from tests.labs.workspace_agent import SECRET, FakeDesktop, Lab, workspace_agent


async def began(lab: Lab, length: int, body: bytes) -> trio.SocketStream:
    """A request whose body has begun."""
    stream = await trio.open_tcp_stream("127.0.0.1", lab.port)
    head = f"POST {ACTION_PATH} HTTP/1.1\r\nHost: desk\r\nAuthorization: Bearer {SECRET}\r\n"
    await stream.send_all(f"{head}Content-Length: {length}\r\n\r\n".encode() + body)
    return stream


@pytest.mark.parametrize(
    ("length", "body", "status", "message"),
    [
        (10**9, bytes(BODY_BYTES + 1), 413, "Request body is too large."),
        (10, b"{", 408, "Request body took too long."),
    ],
    ids=["too long", "too slow"],
)
async def test_its_rest_is_no_request(
    monkeypatch: pytest.MonkeyPatch, length: int, body: bytes, status: int, message: str
) -> None:
    """The connection ends with the answer, and the client is told."""
    monkeypatch.setattr("api.http.body.BODY_S", 0.3)
    async with workspace_agent(FakeDesktop()) as lab, await began(lab, length, body) as stream:
        with trio.fail_after(5):
            found, headers, answer = parse(await read_all(stream))
        assert (found, json.loads(answer)["message"]) == (status, message)
        assert headers["connection"] == "close"
        assert lab.desktop.starts == 0


async def test_a_client_that_leaves_in_the_middle_is_no_bug() -> None:
    async with workspace_agent(FakeDesktop()) as lab:
        with structlog.testing.capture_logs() as lines:
            async with await began(lab, 10, b"{"):
                pass
            with trio.fail_after(5):
                while not lines:
                    await trio.sleep(0.01)
    assert [(line["event"], line["log_level"]) for line in lines] == [("request", "info")]
    assert lines[0]["status"] == 400
