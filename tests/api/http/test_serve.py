"""The HTTP server below the application: HTTP/1.1 only, deadlines, addresses, and its end.

Also which of Hypercorn's internals moved, when its version is raised.
"""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from hypercorn.protocol import h11 as hypercorn_h11
from hypercorn.protocol.events import Request
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio import task_group, tcp_server
from hypercorn.trio.worker_context import TrioSingleTask

from api.budgets import Budgets, BudgetSettings
from api.http import serve as serving
from api.http import takeover
from api.http.serve import serve
from api.live import SPARE_CONNECTIONS, LiveSessions
from api.settings import Settings


async def app(scope: Any, _receive: Any, send: Any) -> None:
    """Answers every request with its path and never reads a body; `/big` sends 64 MiB."""
    assert scope["type"] == "http"
    parts = [b"x" * 1_048_576] * 64 if scope["path"] == "/big" else [scope["path"].encode()]
    size = str(sum(map(len, parts))).encode()
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", size)]}
    await send(head)
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class App:
    """`app` with what `serve` wants of an application."""

    state = SimpleNamespace(
        services=SimpleNamespace(
            live=LiveSessions(),
            store=None,
            followers=SimpleNamespace(close=lambda: None),
            settings=Settings.model_construct(),
            budgets=Budgets(BudgetSettings()),
        )
    )
    __call__ = staticmethod(app)


@contextmanager
def _small(monkeypatch: pytest.MonkeyPatch, name: str, seconds: float) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(serving if hasattr(serving, name) else takeover, name, seconds)
        yield


async def _start(nursery: trio.Nursery, *bind: str) -> list[str]:
    urls: list[str] = await nursery.start(partial(serve, cast(Any, App()), bind=bind))
    return urls


@pytest.fixture
async def port(nursery: trio.Nursery) -> int:
    (url,) = await _start(nursery, "127.0.0.1:0")
    return int(url.rpartition(":")[2])


async def _answers(port: int, *pieces: bytes, count: int = 1) -> bytes:
    """What comes back until `count` answers are there or the server closes."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    answer = b""
    async with stream:
        with trio.fail_after(5):
            try:
                for piece in pieces:
                    await stream.send_all(piece)
            except trio.BrokenResourceError:
                pass  # It was answered before its end; what was answered can be read.
            try:
                while answer.count(b"HTTP/1.1 ") < count or b"\r\n\r\n" not in answer:
                    data = await stream.receive_some(65_536)
                    if not data:
                        break
                    answer += data
            except trio.BrokenResourceError:
                pass
    return answer


GET = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n"
H2C = GET.removesuffix(b"\r\n") + (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"


async def test_an_upgrade_to_h2c_is_ignored(port: int) -> None:
    # RFC 9110, Section 7.8: a server may ignore Upgrade. Java's HttpClient asks by default. What
    # follows may be meant for the other protocol, so it is not read.
    answer = await _answers(port, H2C, GET, count=2)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert b"connection: close\r\n" in answer
    assert b"101" not in answer


@pytest.mark.parametrize(
    "pieces",
    [(PREFACE,), (PREFACE[:2], PREFACE[2:]), (GET, PREFACE), tuple(bytes([b]) for b in PREFACE)],
    ids=["whole", "split", "after a request", "bytes"],
)
async def test_http2_by_prior_knowledge_is_not_spoken(port: int, pieces: tuple[bytes, ...]) -> None:
    answer = await _answers(port, *pieces, count=9)
    # A SETTINGS frame (RFC 9113, Section 6.5) is how a server begins to speak it.
    assert b"\0\0\0\x04" not in answer
    assert answer.startswith(b"HTTP/1.1 ")


async def test_what_is_no_http_is_refused_in_json(port: int) -> None:
    answer = await _answers(port, b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", count=2)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"message":"Malformed HTTP request."}')


async def test_a_head_of_any_size_stops_at_its_limit(port: int) -> None:
    # h11 bounds only what is incomplete: in one segment, this one would pass.
    headers = b"".join(b"X-%d: a\r\n" % number for number in range(5000))
    head = GET.removesuffix(b"\r\n") + headers + b"\r\n"
    assert (await _answers(port, head)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "next"])
async def test_a_head_must_be_whole_in_time(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    with _small(monkeypatch, "HEAD_TIMEOUT_S", 0.3):
        (url,) = await _start(nursery, "127.0.0.1:0")
    stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
    ended = trio.Event()

    async def drip() -> None:
        # Each byte comes well inside the deadline: it is the head that counts.
        try:
            while not ended.is_set():
                await stream.send_all(b"x")
                await trio.sleep(0.05)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with stream, trio.open_nursery() as dripping:
        await stream.send_all(before + b"GET /")
        dripping.start_soon(drip)
        with trio.fail_after(5):
            try:
                while await stream.receive_some(65_536):
                    pass
            except trio.BrokenResourceError:
                pass
        ended.set()


async def test_an_answer_before_the_body_leaves_nothing_behind(port: int) -> None:
    # More chunks than Hypercorn's queue holds, which its own task group waits on for ever.
    body = b"1\r\na\r\n" * 50 + b"0\r\n\r\n"
    head = b"POST /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    await _answers(port, head + body)
    with trio.fail_after(5):
        while _tasks() > 0:
            await trio.sleep(0.01)


def _tasks() -> int:
    """Connections that are being served."""
    found, todo = 0, [trio.lowlevel.current_root_task()]
    while todo:
        task = todo.pop()
        assert task is not None
        found += task.name.endswith("._serve")
        for child in task.child_nurseries:
            todo += child.child_tasks
    return found


async def test_a_client_that_reads_nothing_loses_its_connection(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Hypercorn finds out between requests only, so this takes both deadlines.
    with _small(monkeypatch, "HEAD_TIMEOUT_S", 0.3):
        (url,) = await _start(nursery, "127.0.0.1:0")
    with _small(monkeypatch, "SEND_TIMEOUT_S", 0.3):
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        async with stream:
            await stream.send_all(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with trio.fail_after(5):
                while _tasks() == 0:
                    await trio.sleep(0.01)
                while _tasks() > 0:
                    await trio.sleep(0.01)


async def test_stopping_cuts_a_client_that_reads_nothing() -> None:
    scope = trio.CancelScope()

    async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
        with scope:
            await serve(cast(Any, App()), bind=["127.0.0.1:0"], task_status=task_status)

    with trio.fail_after(serving.GRACE_S + 2):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(run)
            stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
            async with stream:
                await stream.send_all(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert await stream.receive_some(10)
                scope.cancel()
                while await _accepts(url):
                    await trio.sleep(0.01)
                while scope.cancelled_caught is False:
                    await trio.sleep(0.01)


async def _accepts(url: str) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
    except OSError:
        return False
    await stream.aclose()
    return True


async def test_several_addresses_and_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    async with trio.open_nursery() as nursery:
        urls = await _start(nursery, "127.0.0.1:0", "[::1]:0", f"unix:{path}")
        assert [url.rpartition(":")[0] for url in urls] == [
            "http://127.0.0.1",
            "http://[::1]",
            "unix",
        ]
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(GET)
            with trio.fail_after(5):
                assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200 ")
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with trio.open_nursery() as nursery:
        await _start(nursery, f"unix:{path}")
        with pytest.raises(OSError, match="in use"):
            await serve(cast(Any, App()), bind=[f"unix:{path}"])
        async with await trio.open_unix_socket(path):
            pass
        nursery.cancel_scope.cancel()


async def test_a_live_unix_socket_may_be_too_busy_to_answer(tmp_path: Path) -> None:
    """It must not be waited for: nothing else would go on in this thread."""
    path = tmp_path / "relay.sock"
    with socket.socket(socket.AF_UNIX) as live, ExitStack() as queue:
        live.bind(str(path))
        live.listen(0)
        waiting = True
        while waiting:
            client = queue.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            waiting = client.connect_ex(str(path)) == 0
        with pytest.raises(OSError, match="in use"):
            await serve(cast(Any, App()), bind=[f"unix:{path}"])
        assert path.exists()


async def test_connections_are_bounded(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(App.state.services.live, "capacity", 2 - SPARE_CONNECTIONS)
    (url,) = await _start(nursery, "127.0.0.1:0")
    port = int(url.rpartition(":")[2])
    idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert await _answers(port, GET) == b"", "closed unread"
    for stream in idle:
        await stream.aclose()
    with trio.fail_after(5):
        while not (answer := await _answers(port, GET)):
            await trio.sleep(0.01)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_connections_leave_no_descriptor(port: int) -> None:
    await _answers(port, GET)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        await _answers(port, GET)
    with trio.fail_after(5):
        while len(os.listdir("/proc/self/fd")) > before:
            await trio.sleep(0.01)


# What api/http/http1.py and api/http/serve.py lean on. A failure names what moved in this
# Hypercorn.
INTERNALS: list[tuple[str, Callable[..., Any], str]] = [
    (
        "H11Protocol",
        hypercorn_h11.H11Protocol,
        "app config context task_group connection_state ssl client server send",
    ),
    ("H11Protocol._check_protocol", hypercorn_h11.H11Protocol._check_protocol, "self event"),
    ("H11Protocol._create_stream", hypercorn_h11.H11Protocol._create_stream, "self request"),
    (
        "H11Protocol._send_error_response",
        hypercorn_h11.H11Protocol._send_error_response,
        "self status_code",
    ),
    ("H11WSConnection", hypercorn_h11.H11WSConnection, "h11_connection"),
    (
        "HTTPStream",
        HTTPStream,
        "app config context task_group ssl client server send stream_id",
    ),
    ("WSStream", WSStream, "app config context task_group ssl client server send stream_id"),
    ("Request", Request, "stream_id headers http_version method raw_path state"),
    ("TCPServer", tcp_server.TCPServer, "app config context state stream"),
    ("TCPServer._read_data", tcp_server.TCPServer._read_data, "self"),
    ("TCPServer._close", tcp_server.TCPServer._close, "self"),
    ("TrioSingleTask.stop", TrioSingleTask.stop, "self"),
    ("TCPServer._idle_timeout", tcp_server.TCPServer._idle_timeout, "self"),
    ("TaskGroup.spawn_app", task_group.TaskGroup.spawn_app, "self app config scope send"),
    ("_handle", task_group._handle, "app config scope receive send sync_spawn call_soon"),
]


@pytest.mark.parametrize(("name", "thing", "parameters"), INTERNALS, ids=[n for n, *_ in INTERNALS])
def test_hypercorn_is_as_expected(name: str, thing: Callable[..., Any], parameters: str) -> None:
    assert list(inspect.signature(thing).parameters) == parameters.split(), name
