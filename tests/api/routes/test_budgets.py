"""What one user, desktop or address uses up, and that others have theirs all the same."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import trio

from api.agents.model import Reply
from api.budgets import BudgetSettings
from api.live import CAPACITY_LIMIT
from api.services import Services
from api.store import User
from relay.desktops import Desktops, provider_for
from tests.labs.language_model.scripted import Talker, calls
from tests.labs.web import UPGRADE, Web, start_web

AT_ONCE = 150
PATIENCE_S = 30.0

DESKTOPS = [
    f"/api/{prefix}/chats/{{}}/{path}"
    for prefix in ("v2", "experimental")
    for path in ("desktop", "stream/desktop")
]


@asynccontextmanager
async def serving(
    answers: Talker | None = None, *, hops: int = 0, **budgets: float
) -> AsyncIterator[Web]:
    async with trio.open_nursery() as nursery:
        web = await start_web(
            nursery,
            desktops=Desktops(nursery, provider_for),
            answers=answers,
            budgets=BudgetSettings.model_validate(budgets),
            trusted_proxy_hops=hops,
        )
        web.client.timeout = PATIENCE_S
        yield web
        nursery.cancel_scope.cancel()
    await web.aclose()


async def client_of(
    web: Web, user: User, *, address: str = "127.0.0.1", token: str = ""
) -> httpx.AsyncClient:
    """A client at an address that makes as many connections as it needs."""
    token = token or await web.store.create_token(user.id)
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(
        base_url=web.url,
        headers={"Coder-Session-Token": token},
        transport=httpx.AsyncHTTPTransport(limits=limits, local_address=address),
        timeout=PATIENCE_S,
    )


async def a_chat(web: Web, user: User, desktop: str = "pattern") -> str:
    workspace = await web.store.add_workspace(user.id, uuid4().hex[:8], desktop)
    return str((await web.store.create_chat(user.id, workspace_id=workspace.id)).id)


async def held(
    stack: AsyncExitStack, client: httpx.AsyncClient, url: str, **headers: str
) -> httpx.Response:
    """An answer that goes on until the stack ends."""
    response = await stack.enter_async_context(client.stream("GET", url, headers=headers))
    if response.status_code >= 400:
        await response.aread()
    return response


async def all_at_once(ask: Callable[[], Awaitable[httpx.Response]]) -> Counter[int]:
    statuses: Counter[int] = Counter()

    async def one() -> None:
        statuses[(await ask()).status_code] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(one)
    return statuses


def services_of(web: Web) -> Services:
    services: Services = web.app.state.services
    return services


def is_refused(response: httpx.Response, status: int, message: str, detail: str = "") -> None:
    body = response.json()
    assert (response.status_code, body["message"]) == (status, message)
    assert detail in body["detail"]
    assert int(response.headers["retry-after"]) >= 1


async def until(what: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not what():
            await trio.sleep(0.01)


# Sessions.


async def test_the_sessions_of_one_user_leave_another_theirs() -> None:
    async with serving(sessions_per_user=4) as web, await client_of(web, web.bob) as bob:
        mine, bobs = await a_chat(web, web.alice), await a_chat(web, web.bob)
        async with AsyncExitStack() as stack:
            for url in DESKTOPS:
                response = await held(stack, web.client, url.format(mine), **UPGRADE)
                assert response.status_code == 101
            for url in DESKTOPS:
                response = await web.client.get(url.format(mine), headers=UPGRADE)
                detail = "One user has 4 at the most."
                is_refused(response, 429, "Too many desktop sessions.", detail)
                assert response.headers["connection"] == "close"
            response = await held(stack, bob, DESKTOPS[0].format(bobs), **UPGRADE)
            assert response.status_code == 101
            refusals = 'deskrelay_budget_refusals_total{budget="sessions_per_user"} 4.0'
            assert refusals in (await bob.get("/metrics")).text
        await until(lambda: web.live.count == 0)
        async with AsyncExitStack() as stack:
            response = await held(stack, web.client, DESKTOPS[0].format(mine), **UPGRADE)
            assert response.status_code == 101, "the places were given back"


@pytest.mark.parametrize("scope", ["desktop", "address"])
async def test_other_users_sessions_count_for_a_desktop_and_an_address(scope: str) -> None:
    async with (
        serving(None, **{f"sessions_per_{scope}": 1}) as web,
        await client_of(web, web.bob) as bob,
    ):
        mine, bobs = await a_chat(web, web.alice), await a_chat(web, web.bob)
        async with AsyncExitStack() as stack:
            await held(stack, web.client, DESKTOPS[0].format(mine), **UPGRADE)
            same = {"desktop": (web.client, mine), "address": (bob, bobs)}[scope]
            response = await same[0].get(DESKTOPS[1].format(same[1]), headers=UPGRADE)
            is_refused(response, 429, "Too many desktop sessions.", f"One {scope} has 1 at")
            async with await client_of(web, web.bob, address="127.0.0.2") as elsewhere:
                response = await held(stack, elsewhere, DESKTOPS[0].format(bobs), **UPGRADE)
                assert response.status_code == 101


async def test_a_place_is_given_back_however_a_start_ends() -> None:
    async with serving(sessions_per_user=1, sessions_per_desktop=1) as web:
        nowhere = await a_chat(web, web.alice, "tcp://127.0.0.1:1")
        bare = (await web.store.create_chat(web.alice.id)).id
        for chat in (nowhere, bare, uuid4(), "42", nowhere):
            response = await web.client.get(DESKTOPS[0].format(chat), headers=UPGRADE)
            assert response.status_code in (400, 404, 500), response.text
        async with AsyncExitStack() as stack:
            url = DESKTOPS[0].format(await a_chat(web, web.alice))
            assert (await held(stack, web.client, url, **UPGRADE)).status_code == 101


async def test_of_many_sessions_at_once_no_more_begin_than_may() -> None:
    async with serving(sessions_per_user=7) as web, AsyncExitStack() as stack:
        url = DESKTOPS[0].format(await a_chat(web, web.alice))
        client = await stack.enter_async_context(await client_of(web, web.alice))

        async def ask() -> httpx.Response:
            return await held(stack, client, url, **UPGRADE)

        assert await all_at_once(ask) == {101: 7, 429: AT_ONCE - 7}


# Streams.


async def test_a_hundred_streams_of_one_user_leave_another_theirs() -> None:
    async with serving() as web, await client_of(web, web.bob) as bob, AsyncExitStack() as stack:
        chats = [await a_chat(web, web.alice) for _ in range(100)]
        client = await stack.enter_async_context(await client_of(web, web.alice))
        statuses = Counter(
            [
                (await held(stack, client, f"/api/{prefix}/chats/{chat}/stream")).status_code
                for chat, prefix in zip(chats, ("v2", "experimental") * 50, strict=True)
            ]
        )
        assert statuses == {200: 50, 429: 50}
        # What was refused takes no place, and whoever follows already is not disturbed.
        bobs = await a_chat(web, web.bob)
        assert (await held(stack, bob, f"/api/v2/chats/{bobs}/stream")).status_code == 200
        assert web.live.streams == 51


@pytest.mark.parametrize("scope", ["user", "chat", "address"])
async def test_streams_are_bounded_for_each(scope: str) -> None:
    async with serving(None, **{f"streams_per_{scope}": 1}) as web:
        url = f"/api/v2/chats/{await a_chat(web, web.alice)}/stream"
        for _ in range(3):
            async with AsyncExitStack() as stack:
                assert (await held(stack, web.client, url)).status_code == 200
                response = await web.client.get(url)
                is_refused(response, 429, "Too many streams.", f"One {scope} has 1 at the most.")
            await until(lambda: web.live.streams == 0)


async def test_of_many_streams_at_once_no_more_begin_than_may() -> None:
    async with serving(streams_per_user=7) as web, AsyncExitStack() as stack:
        url = f"/api/v2/chats/{await a_chat(web, web.alice)}/stream"
        client = await stack.enter_async_context(await client_of(web, web.alice))

        async def ask() -> httpx.Response:
            return await held(stack, client, url)

        assert await all_at_once(ask) == {200: 7, 429: AT_ONCE - 7}


async def test_sessions_and_streams_share_what_there_is() -> None:
    async with serving() as web, AsyncExitStack() as stack:
        web.live.capacity = 2
        chat = await a_chat(web, web.alice)
        stream, desktop = f"/api/v2/chats/{chat}/stream", DESKTOPS[0].format(chat)
        assert (await web.client.get("/readyz")).status_code == 200
        assert (await held(stack, web.client, stream)).status_code == 200
        assert (await held(stack, web.client, desktop, **UPGRADE)).status_code == 101
        response = await web.client.get(stream)
        is_refused(response, 503, "Too many streams.", "This server has as many as it takes.")
        response = await web.client.get(desktop, headers=UPGRADE)
        is_refused(response, 503, "Too many desktop sessions.", "This server has as many")
        response = await web.client.get("/readyz")
        is_refused(response, 503, "Not ready.", "It has as many sessions and streams as it takes.")
        assert (await web.client.get("/healthz")).status_code == 200


async def test_a_server_without_a_free_connection_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.http.serve.SPARE_CONNECTIONS", 3 - CAPACITY_LIMIT)
    async with serving() as web:
        assert (await web.client.get("/readyz")).status_code == 200
        async with AsyncExitStack() as stack:
            for address in ("127.0.0.2", "127.0.0.3"):
                idle = await trio.open_tcp_stream("127.0.0.1", _port(web), local_address=address)
                await stack.enter_async_context(idle)
            await trio.testing.wait_all_tasks_blocked(0.05)
            response = await web.client.get("/readyz")
            is_refused(response, 503, "Not ready.", "It has as many connections as it takes.")
            assert (await web.client.get("/healthz")).status_code == 200
        with trio.fail_after(PATIENCE_S):
            while (await web.client.get("/readyz")).status_code == 503:
                await trio.sleep(0.01)


def _port(web: Web) -> int:
    return int(web.url.rpartition(":")[2])


# Chats at work.


async def hang(_asked: dict[str, Any]) -> Reply:
    await trio.sleep_forever()
    raise AssertionError


async def test_sixty_held_chats_of_one_user_leave_another_theirs() -> None:
    talker = Talker(parent=[hang] * 20)
    async with serving(talker) as web, await client_of(web, web.bob) as bob:
        statuses: Counter[int] = Counter()
        for _ in range(60):
            url = f"/api/v2/chats/{await a_chat(web, web.alice)}/messages"
            response = await web.client.post(url, json={"text": "Hello."})
            statuses[response.status_code] += 1
        assert statuses == {202: 20, 429: 40}
        is_refused(response, 429, "Too many chats are at work.", "One user has 20 at the most.")
        url = f"/api/v2/chats/{await a_chat(web, web.bob)}"
        assert (await bob.post(f"{url}/messages", json={"text": "Hello."})).status_code == 202
        with trio.fail_after(PATIENCE_S):
            while "status" in (await bob.get(url)).json():
                await trio.sleep(0.01)
        (_, answer) = (await bob.get(f"{url}/messages")).json()
        assert answer["content"][0]["text"] == "done"


async def test_all_chats_at_work_are_everybodys() -> None:
    async with serving(Talker(parent=[hang]), chats_at_work=1) as web:
        first, second = [f"/api/v2/chats/{await a_chat(web, web.alice)}" for _ in range(2)]
        text = {"text": "Hello."}
        assert (await web.client.post(f"{first}/messages", json=text)).status_code == 202
        response = await web.client.post(f"{second}/messages", json=text)
        is_refused(response, 503, "Too many chats are at work.", "This server has as many")
        assert (await web.client.get(f"{second}/messages")).json() == []
        # Whoever is at work is talked to all the same, and gives its place back at the end.
        assert (await web.client.post(f"{first}/messages", json=text)).status_code == 202
        assert (await web.client.post(f"{first}/interrupt")).status_code == 204
        assert (await web.client.post(f"{second}/messages", json=text)).status_code == 202


async def test_of_many_chats_at_once_no_more_are_at_work_than_may() -> None:
    async with serving(Talker(parent=[hang] * 9), chats_at_work_per_user=7) as web:
        chats = [await a_chat(web, web.alice) for _ in range(AT_ONCE)]

        async def ask() -> httpx.Response:
            url = f"/api/v2/chats/{chats.pop()}/messages"
            return await web.client.post(url, json={"text": "Hello."})

        assert await all_at_once(ask) == {202: 7, 429: AT_ONCE - 7}


# What is stored.


async def test_chats_are_bounded_and_none_is_made_beyond() -> None:
    async with serving(chats_per_user=9) as web, await client_of(web, web.bob) as bob:

        async def ask() -> httpx.Response:
            return await web.client.post("/api/v2/chats", json={})

        assert await all_at_once(ask) == {201: 9, 429: AT_ONCE - 9}
        assert len((await web.client.get("/api/v2/chats")).json()) == 9
        response = await web.client.post("/api/experimental/chats", json={})
        is_refused(response, 429, "Too many chats.", "One user has 9 at the most.")
        assert (await bob.post("/api/v2/chats", json={})).status_code == 201


async def test_a_run_ends_where_no_more_may_be_stored() -> None:
    talker = Talker()
    async with serving(talker, stored_bytes_per_user=6_000) as web:
        url = f"/api/v2/chats/{await a_chat(web, web.alice)}"
        talker.parent = [calls({"type": "tool_use", "id": "a", "name": "list_agents", "input": {}})]
        talker.parent += [Reply([{"type": "text", "text": "x" * 6_000}], "end_turn", 1, 1)]
        assert (await web.client.post(f"{url}/messages", json={"text": "Go."})).status_code == 202
        with trio.fail_after(PATIENCE_S):
            while (found := (await web.client.get(url)).json()).get("status") != "error":
                await trio.sleep(0.01)
        assert found["last_error"] == (
            "Stopped: Too much is stored. One user has 6000 bytes at the most."
        )
        roles = [m["role"] for m in (await web.client.get(f"{url}/messages")).json()]
        assert roles == ["user", "assistant", "user"], "what there was stays, nothing is half there"
        response = await web.client.post(f"{url}/messages", json={"text": "y" * 6_000})
        is_refused(response, 429, "Too much is stored.", "6000 bytes")
        names = re.findall(r'budget="(\w+)"', services_of(web).metrics.text().decode())
        assert set(names) == {"stored_bytes_per_user"}


# Requests.


@pytest.mark.parametrize("scope", ["user", "address"])
async def test_requests_are_bounded_except_for_health(scope: str) -> None:
    # Three at once, and one more each minute.
    budgets: dict[str, Any] = {f"requests_per_s_per_{scope}": 1 / 60, "requests_burst_s": 180}
    async with serving(None, **budgets) as web, await client_of(web, web.bob) as bob:
        for _ in range(3):
            assert (await web.client.get("/api/v2/chats")).status_code == 200
        response = await web.client.get("/api/experimental/chats")
        is_refused(response, 429, "Too many requests.", f"One {scope} has ")
        assert 50 <= int(response.headers["retry-after"]) <= 60
        url = DESKTOPS[1].format(await a_chat(web, web.alice))
        is_refused(await web.client.get(url, headers=UPGRADE), 429, "Too many requests.")
        for path in ("/healthz", "/readyz"):
            assert (await web.client.get(path)).status_code == 200
        assert (await bob.get("/api/v2/chats")).status_code == (200 if scope == "user" else 429)


@pytest.mark.parametrize("kind", ["asks slowly", "does not read"])
async def test_requests_at_once_are_bounded_until_they_are_answered(kind: str) -> None:
    async with serving(None, requests_at_once_per_user=2) as web:
        url = f"/api/v2/chats/{await a_chat(web, web.alice)}/messages"
        for _ in range(8):
            text = "\U0001f5a5" * 32_000
            content = [{"type": "text", "text": text}]
            chat_id = UUID(url.split("/")[-2])
            await services_of(web).conversations.add(chat_id, "user", content)
        method = "GET" if kind == "does not read" else "POST"
        head = f"{method} {url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
        head %= 0 if kind == "does not read" else 100
        head += f"Coder-Session-Token: {web.token}\r\n\r\n"
        port = int(web.url.rpartition(":")[2])
        at_once = services_of(web).budgets.requests_at_once
        place = ("user", web.alice.id)
        async with AsyncExitStack() as stack:
            for _ in range(2):
                raw = trio.socket.socket()
                stack.callback(raw.close)
                # A page is more than this socket and the server's hold.
                raw.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4_096)
                await raw.connect(("127.0.0.1", port))
                await raw.send(head.encode())
            await until(lambda: at_once.count(place) == 2)
            response = await web.client.get("/api/v2/chats")
            is_refused(response, 429, "Too many requests at once.", "One user has 2 at the most.")
            async with await client_of(web, web.bob) as bob:
                assert (await bob.get("/api/v2/chats")).status_code == 200
            stream = await held(stack, web.client, url.replace("messages", "stream"))
            assert stream.status_code == 200
        await until(lambda: at_once.count(place) == 0)
        assert (await web.client.get("/api/v2/chats")).status_code == 200


async def test_behind_proxies_the_address_is_the_clients() -> None:
    budgets: dict[str, Any] = {"requests_per_s_per_address": 1 / 60, "requests_burst_s": 60}
    async with serving(None, hops=1, **budgets) as web:
        seen = []
        for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"):
            headers = {"X-Forwarded-For": address}
            seen.append((await web.client.get("/api/v2/chats", headers=headers)).status_code)
        assert seen == [200, 429, 200, 200, 429]


async def test_the_log_tells_of_a_flood_once(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(chats_per_user=1) as web:
        with caplog.at_level(logging.WARNING):
            for _ in range(20):
                await web.client.post("/api/v2/chats", json={})
        lines = [record.getMessage() for record in caplog.records]
        assert lines == [f"budget chats_per_user is used up by {web.alice.id}"]
