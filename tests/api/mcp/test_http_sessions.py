"""Sessions over HTTP: how many there may be, which one goes, and those that end at work."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from relay.desktops import RunningDesktop
from tests.labs.desktop_processes import desktops_home, needs_xvnc
from tests.labs.mcp_clients import HELLO, Served, over_http, serving
from tests.labs.xvnc import Window, window, xvnc

__all__ = ["desktops_home", "window", "xvnc"]

pytestmark = pytest.mark.filterwarnings(
    "ignore:Async generator '(httpx2?|httpcore2?)[.].*was garbage collected:ResourceWarning"
)

LIMIT = 32
PING = {"jsonrpc": "2.0", "id": 2, "method": "ping"}


def wait(number: int | str, duration_s: float) -> dict[str, Any]:
    params = {"name": "wait", "arguments": {"duration": duration_s}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


@asynccontextmanager
async def http_for(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(headers=served.headers, timeout=30, limits=limits) as http:
        yield http


async def opened(http: httpx.AsyncClient, url: str) -> dict[str, str]:
    """The header of a new session."""
    answer = await http.post(url, json=HELLO)
    assert answer.status_code == 200
    return {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"]}


async def lives(http: httpx.AsyncClient, url: str, session: dict[str, str]) -> bool:
    answer = await http.post(url, json=PING, headers=session)
    assert answer.status_code in (200, 404)
    return answer.status_code == 200


@needs_xvnc
async def test_the_one_that_was_idle_the_longest_makes_room(
    xvnc: RunningDesktop, window: Window, tmp_path: Path
) -> None:
    """What it held goes up. One that listens, or has a call at work, is not idle."""
    async with (
        serving(str(xvnc.address), tmp_path) as served,
        http_for(served) as http,
        over_http(served.url, token=served.token, says_goodbye=False) as listening,
        trio.open_nursery() as nursery,
    ):
        await listening.call_tool("mouse_move", {"coordinate": [5, 6]})
        at_work = await opened(http, served.url)
        nursery.start_soon(
            lambda: http.post(served.url, json=wait(9, 200), headers=at_work, timeout=300)
        )
        holding = await opened(http, served.url)
        for name, arguments in (("mouse_move", {"coordinate": [7, 8]}), ("left_mouse_down", {})):
            call = wait(3, 0) | {"params": {"name": name, "arguments": arguments}}
            assert (
                '"isError":false' in (await http.post(served.url, json=call, headers=holding)).text
            )
        await window.hears("down 1 7 8")
        others = [await opened(http, served.url) for _ in range(LIMIT - 3)]
        newest = await opened(http, served.url)
        await window.hears("down 1 7 8", "up 1 7 8")
        assert not await lives(http, served.url, holding)
        for session in (at_work, others[0], newest):
            assert await lives(http, served.url, session)
        assert not (await listening.call_tool("mouse_move", {"coordinate": [5, 6]})).is_error
        # Now the first has been used behind all others.
        await opened(http, served.url)
        assert [await lives(http, served.url, s) for s in others[:3]] == [True, False, True]
        assert holding["Mcp-Session-Id"] not in served.log.read_text()
        nursery.cancel_scope.cancel()


async def test_nobody_goes_for_what_opens_no_session(desktops_home: Path, tmp_path: Path) -> None:
    async with serving("pattern", tmp_path, "--no-token") as served, http_for(served) as http:
        sessions = [await opened(http, served.url) for _ in range(LIMIT)]
        assert (await http.delete(served.url, headers=sessions.pop())).status_code == 200
        sessions.append(await opened(http, served.url))
        for headers, status in (
            ({"Host": "evil.example"}, 421),
            ({"Origin": "https://evil.example"}, 403),
            ({"Content-Type": "text/plain"}, 400),
            ({"Mcp-Protocol-Version": "1999-01-01"}, 400),
            ({"Mcp-Session-Id": "nobody's"}, 404),
            ({"Last-Event-ID": "1"}, 400),
        ):
            async with httpx.AsyncClient(headers=served.headers) as once:
                answer = await once.post(served.url, json=HELLO, headers=headers)
                assert answer.status_code == status
        for body in (b"", b"{", b"[]", b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'):
            json_ = {"Content-Type": "application/json"}
            answer = await http.post(served.url, content=body, headers=json_)
            assert answer.status_code == 400
        for method, status in (("GET", 400), ("DELETE", 400), ("PUT", 405), ("OPTIONS", 405)):
            async with httpx.AsyncClient(headers=served.headers) as once:
                assert (await once.request(method, served.url)).status_code == status
        for session in sessions:
            assert await lives(http, served.url, session)


async def test_only_where_all_are_busy_one_is_refused(desktops_home: Path, tmp_path: Path) -> None:
    async with (
        serving("pattern", tmp_path) as served,
        http_for(served) as http,
        AsyncExitStack() as streams,
    ):
        for _ in range(LIMIT):
            session = await opened(http, served.url)
            stream = http.stream("GET", served.url, headers=session)
            assert (await streams.enter_async_context(stream)).status_code == 200
        answer = await http.post(served.url, json=HELLO)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        assert answer.json()["error"]["message"].startswith("All 32 sessions are at work; try")
        await streams.aclose()

        async def has_room() -> None:
            while (await http.post(served.url, json=HELLO)).status_code != 200:
                await trio.sleep(0.05)

        with trio.fail_after(30):
            await has_room()


async def test_many_that_come_at_once_are_no_more(desktops_home: Path, tmp_path: Path) -> None:
    async with serving("pattern", tmp_path) as served, http_for(served) as http:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await http.post(served.url, json=HELLO))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask)
        assert {answer.status_code for answer in answers} <= {200, 503}
        sessions = [
            {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"]}
            for answer in answers
            if answer.status_code == 200
        ]
        assert sum([await lives(http, served.url, session) for session in sessions]) == LIMIT


async def test_one_that_ends_in_the_middle_of_work(desktops_home: Path, tmp_path: Path) -> None:
    """Whoever waits gets an end or a 404, and there is no traceback."""
    async with serving("pattern", tmp_path) as served, http_for(served) as http:
        statuses: set[int] = set()

        async def ask(number: int, session: dict[str, str]) -> None:
            await trio.sleep(random.random() * 0.03)
            note = {"jsonrpc": "2.0", "method": "notifications/nothing"}
            message = random.choice([wait(number, 0), wait(number, 1), note])
            answer = await http.post(served.url, json=message, headers=session)
            statuses.add(answer.status_code)

        async def listen(session: dict[str, str]) -> None:
            statuses.add((await http.get(served.url, headers=session)).status_code)

        for _ in range(10):
            session = await opened(http, served.url)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, session)
                for number in range(20):
                    nursery.start_soon(ask, number, session)
                await trio.sleep(random.random() * 0.04)
                deleted = await http.delete(served.url, headers=session)
                again = await http.delete(served.url, headers=session)
                assert (deleted.status_code, again.status_code) == (200, 404)
        assert statuses <= {200, 202, 404}
        # So it is at the end of the server, which some meet when it has gone.
        session = await opened(http, served.url)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(too_late, ask, number, session)
            nursery.start_soon(too_late, listen, session)
            await trio.sleep(0.02)
            served.process.terminate()
            with trio.fail_after(60):
                assert await served.process.wait() == 0


async def too_late(ask: Callable[..., Awaitable[None]], *arguments: object) -> None:
    with suppress(httpx.TransportError):
        await ask(*arguments)


async def test_one_answer_for_each_id(desktops_home: Path, tmp_path: Path) -> None:
    """A number and a string that read the same are one to the package: the first would wait for
    ever."""
    async with serving("pattern", tmp_path) as served, http_for(served) as http:
        session = await opened(http, served.url)
        answers: dict[int | str, httpx.Response] = {}

        async def ask(number: int | str) -> None:
            answers[number] = await http.post(served.url, json=wait(number, 1), headers=session)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 7)
            nursery.start_soon(ask, "7")
        # Which of them comes first is the machine's.
        assert sorted(answer.status_code for answer in answers.values()) == [200, 400]
        for answer in answers.values():
            told = "A request of this id is in work" if answer.status_code == 400 else "OK"
            assert told in answer.text

        async with http.stream("GET", served.url, headers=session) as listening:
            assert listening.status_code == 200
            assert (await http.get(served.url, headers=session)).status_code == 409
            strange = PING | {"id": "_GET_stream"}
            assert (await http.post(served.url, json=strange, headers=session)).status_code == 400
            assert await lives(http, served.url, session)
