"""Connections that keep others out, or would: idle, half open, and never read from."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from api.budgets import Budgets, BudgetSettings
from api.http.serve import serve, serve_app
from api.live import SPARE_CONNECTIONS, LiveSessions
from api.settings import Settings

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = GET[:20]
PATIENCE_S = 30.0


async def app(scope: Any, _receive: Any, send: Any) -> None:
    """`/big` sends 64 MiB, `/never` does not answer."""
    if scope["path"] == "/never":
        await trio.sleep_forever()
    parts = [b"x" * 1_048_576] * 64 if scope["path"] == "/big" else [b"OK"]
    size = str(sum(map(len, parts))).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", size)]}
    )
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class App:
    """`app` with what `serve` wants of an application."""

    def __init__(self, capacity: int, *, hops: int = 0, idle: int = 3, most: int = 300) -> None:
        budgets = BudgetSettings(idle_connections_per_address=idle, connections_per_address=most)
        self.refused: list[str] = []
        self.state = SimpleNamespace(
            services=SimpleNamespace(
                live=LiveSessions(capacity),
                store=None,
                followers=SimpleNamespace(close=lambda: None),
                settings=Settings.model_construct(trusted_proxy_hops=hops, budgets=budgets),
                budgets=Budgets(budgets, self.refused.append),
            )
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)


async def started(nursery: trio.Nursery, app: App, bind: str = "127.0.0.1:0") -> int:
    (url,) = await nursery.start(partial(serve, cast(Any, app), bind=[bind]))
    return int(url.rpartition(":")[2]) if url.startswith("http") else 0


async def connect(stack: ExitStack, port: int, address: str, say: bytes = b"") -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=address)
    stack.callback(stream.socket.close)
    if say:
        await stream.send_all(say)
    return stream


async def is_closed(stream: trio.SocketStream, within_s: float = PATIENCE_S) -> bool:
    """Whether the server closes it, behind what it has answered."""
    with trio.move_on_after(within_s):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        return True
    return False


async def stays_open(*streams: trio.SocketStream) -> bool:
    """As far as can be told: whatever else was to be closed has been."""
    return not any([await is_closed(stream, 0.1) for stream in streams])


async def answers(stream: trio.SocketStream, say: bytes = GET) -> bool:
    with trio.fail_after(PATIENCE_S):
        try:
            await stream.send_all(say)
            answer = b""
            while not answer.endswith(b"\r\n\r\nOK"):
                more = await stream.receive_some(65_536)
                if not more:
                    return False
                answer += more
            return answer.startswith(b"HTTP/1.1 200 ")
        except trio.BrokenResourceError:
            return False


@contextmanager
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("said", [b"", HALF], ids=["nothing", "half a head"])
async def test_of_one_address_the_oldest_idle_goes(nursery: trio.Nursery, said: bytes) -> None:
    app = App(4_000)
    port = await started(nursery, app)
    with sockets() as stack:
        streams = [await connect(stack, port, "127.0.0.2", said) for _ in range(3)]
        other = await connect(stack, port, "127.0.0.3", said)
        streams += [await connect(stack, port, "127.0.0.2", said) for _ in range(2)]
        assert await is_closed(streams[0])
        assert await is_closed(streams[1])
        assert await stays_open(*streams[2:], other)
        assert await answers(streams[-1], GET[len(said) :])
        assert app.refused == ["idle_connections_per_address"] * 2


async def test_what_is_being_answered_is_not_idle(nursery: trio.Nursery) -> None:
    port = await started(nursery, App(4_000))
    never = GET.replace(b"/healthz", b"/never")
    with sockets() as stack:
        busy = [await connect(stack, port, "127.0.0.2", never) for _ in range(20)]
        await trio.testing.wait_all_tasks_blocked(0.1)
        kept = await connect(stack, port, "127.0.0.2")
        assert await answers(kept)
        assert await answers(kept), "between two requests it is idle, and not one too many"
        assert await stays_open(*busy[:2])
        for _ in range(3):
            await connect(stack, port, "127.0.0.2")
        assert await is_closed(kept)


async def test_between_requests_connections_are_idle_again(nursery: trio.Nursery) -> None:
    port = await started(nursery, App(4_000))
    with sockets() as stack:
        streams = [await connect(stack, port, "127.0.0.2") for _ in range(3)]
        assert all([await answers(stream) for stream in reversed(streams)])
        await connect(stack, port, "127.0.0.2")
        assert await is_closed(streams[2])
        assert await stays_open(*streams[:2])


async def test_a_flood_is_closed_unread_and_others_are_answered(nursery: trio.Nursery) -> None:
    port = await started(nursery, App(100))  # and the spare ones
    with sockets() as stack:
        flood = []
        for _ in range(500):
            one = socket.socket()
            stack.callback(one.close)
            one.setblocking(False)
            one.bind(("127.0.0.2", 0))
            one.connect_ex(("127.0.0.1", port))
            flood.append(one)
        stream = await connect(stack, port, "127.0.0.3")
        assert await answers(stream)
        with trio.fail_after(PATIENCE_S):
            while len([one for one in flood if _is_open(one)]) > 3:
                await trio.sleep(0.01)


async def test_what_is_closed_unread_keeps_nobody_waiting_for_its_turn(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.http.serve.ACCEPTS_AT_ONCE", 1)
    turns = 0
    wait = trio.lowlevel.wait_readable

    async def counted(sock: Any) -> None:
        nonlocal turns
        turns += isinstance(sock, socket.socket)  # a listener: Trio's own are of its type
        await wait(sock)

    port = await started(nursery, App(4_000, idle=1, most=1))
    with sockets() as stack:
        assert await answers(await connect(stack, port, "127.0.0.2"))
        monkeypatch.setattr(trio.lowlevel, "wait_readable", counted)
        for _ in range(200):
            one = socket.socket()
            stack.callback(one.close)
            one.bind(("127.0.0.2", 0))
            one.connect(("127.0.0.1", port))
        assert await answers(await connect(stack, port, "127.0.0.3"))
    assert 0 < turns < 10, "one a turn for those that are served, and not for the others"


def _is_open(one: socket.socket) -> bool:
    try:
        return one.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.mark.parametrize("path", [b"/big", b"/never"])
async def test_of_one_address_so_many_are_answered_at_once(
    nursery: trio.Nursery, path: bytes
) -> None:
    """Else it would fill the server, which tells its load balancer that it is full."""
    app = App(4_000, most=5)
    port = await started(nursery, app)
    with sockets() as stack:
        asks = GET.replace(b"/healthz", path)
        many = []
        for _ in range(7):
            many.append(await connect(stack, port, "127.0.0.2", asks))
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert await is_closed(many[0])
        assert await is_closed(many[1])
        assert app.refused == ["connections_per_address"] * 2
        assert await answers(await connect(stack, port, "127.0.0.3"))


@pytest.mark.parametrize("path", [b"/big", b"/never"])
async def test_where_all_are_taken_whoever_has_most_gives_one_up(
    nursery: trio.Nursery, path: bytes
) -> None:
    """Connections that are being answered, for ever."""
    port = await started(nursery, App(8 - SPARE_CONNECTIONS))
    with sockets() as stack:
        asks = GET.replace(b"/healthz", path)
        many = [await connect(stack, port, "127.0.0.2", asks) for _ in range(8)]
        await trio.testing.wait_all_tasks_blocked(0.2)
        for _ in range(3):
            assert await answers(await connect(stack, port, "127.0.0.3"))
        one_more = await connect(stack, port, "127.0.0.2")
        assert not await answers(one_more), "its own address has the most"
        assert await is_closed(many[0])


@pytest.mark.parametrize("kind", ["proxy", "unix"])
async def test_a_proxys_connections_are_not_one_clients(
    nursery: trio.Nursery, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "relay.sock"
    bind = "127.0.0.1:0" if kind == "proxy" else f"unix:{path}"
    port = await started(nursery, App(4_000, hops=int(kind == "proxy")), bind)
    with sockets() as stack:
        streams = []
        for _ in range(20):
            if port:
                streams.append(await connect(stack, port, "127.0.0.2"))
            else:
                streams.append(await trio.open_unix_socket(path))
                stack.callback(streams[-1].socket.close)
        assert all([await answers(stream) for stream in streams])


async def test_other_servers_leave_half_to_other_addresses(nursery: trio.Nursery) -> None:
    (url,) = await nursery.start(partial(serve_app, app, bind=["127.0.0.1:0"], limit=8))
    port = int(url.rpartition(":")[2])
    with sockets() as stack:
        streams = [await connect(stack, port, "127.0.0.2") for _ in range(8)]
        assert await answers(await connect(stack, port, "127.0.0.3"))
        assert all([await is_closed(stream) for stream in streams[:4]])
        assert await stays_open(*streams[4:])


@pytest.fixture(autouse=True)
async def ended(nursery: trio.Nursery) -> AsyncIterator[None]:
    yield
    nursery.cancel_scope.cancel()
