"""Failed log-ins, over HTTP and by upgrade requests: who is told to wait, and who is not."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
import trio

from api.http.budgets import address_key
from api.store.store import hash_secret
from tests.labs.web import UPGRADE, Web, start_web

CHATS = "/api/v2/chats"
WRONG_SECRET = "w" * 22
UNKNOWN = f"{'u' * 10}-{WRONG_SECRET}"

# Where a token can stand: headers, and the query.
PLACES: dict[str, Callable[[str], tuple[dict[str, str], str]]] = {
    "cookie": lambda token: ({"Cookie": f"coder_session_token={token}"}, ""),
    "query": lambda token: ({}, f"?coder_session_token={token}"),
    "header": lambda token: ({"Coder-Session-Token": token}, ""),
    "bearer": lambda token: ({"Authorization": f"Bearer {token}"}, ""),
}


@pytest.fixture
async def web(nursery: trio.Nursery) -> AsyncIterator[Web]:
    web = await start_web(nursery)
    yield web
    await web.aclose()


def at(web: Web, address: str) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(local_address=address)
    return httpx.AsyncClient(base_url=web.url, transport=transport)


async def status(
    client: httpx.AsyncClient, token: str, place: str = "header", path: str = CHATS
) -> int:
    headers, query = PLACES[place](token)
    if path.endswith("/desktop"):
        headers = headers | UPGRADE | {"Origin": str(client.base_url)}
    return (await client.get(path + query, headers=headers)).status_code


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "path", [CHATS, "/api/experimental/chats", f"{CHATS}/x/desktop", f"{CHATS}/x/stream/desktop"]
)
@pytest.mark.parametrize("token", [UNKNOWN, "nonsense"], ids=["unknown", "malformed"])
async def test_ten_failures_are_told_and_no_more(
    web: Web, place: str, path: str, token: str
) -> None:
    async with at(web, "127.0.0.2") as client, at(web, "127.0.0.3") as other:
        assert [await status(client, token, place, path) for _ in range(10)] == [401] * 10
        headers, query = PLACES[place](token)
        response = await client.get(CHATS + query, headers=headers)
        assert response.status_code == 429
        assert response.json() == {
            "message": "Too many failed log-ins.",
            "detail": "One address has 10 a minute at the most.",
        }
        assert 50 < int(response.headers["retry-after"]) <= 60
        assert await status(client, token, place, path) == 429
        # Without a token nothing is guessed, and whoever is elsewhere has done nothing.
        assert (await client.get(CHATS)).status_code == 401
        assert (await client.get("/healthz")).status_code == 200
        assert await status(other, web.token) == 200


async def test_what_is_limited_asks_no_database(web: Web) -> None:
    async with at(web, "127.0.0.2") as client:
        for _ in range(10):
            await status(client, UNKNOWN)
        await web.break_table("tokens")
        assert await status(client, UNKNOWN) == 429


async def test_those_who_share_the_address_go_on(web: Web) -> None:
    bobs = await web.store.create_token(web.bob.id)
    async with at(web, "127.0.0.2") as client:
        assert await status(client, web.token) == 200
        for number in range(12):
            await status(client, f"{number:010}-{WRONG_SECRET}")
        assert await status(client, web.token) == 200
        assert await status(client, bobs) == 429, "it was never seen here: it may be a guess"
        assert await status(client, UNKNOWN) == 429, "a success of another does not help"
        code = await web.store.create_link(web.bob.id, "/")
        response = await client.post(f"/open/{code}", headers={"Origin": web.url})
        assert response.status_code == 303, "links are counted by themselves"
        assert (await client.get(CHATS)).status_code == 200, "with the new cookie"


async def test_an_id_that_is_guessed_at_from_everywhere_locks_its_owner_not_out(web: Web) -> None:
    guess = f"{web.token.partition('-')[0]}-{WRONG_SECRET}"
    seen = []
    for number in range(12):
        async with at(web, f"127.0.1.{number + 1}") as client:
            seen.append(await status(client, guess))
    assert seen == [401] * 10 + [429] * 2
    async with at(web, "127.0.2.1") as client:
        assert await status(client, web.token) == 200


async def test_of_many_failures_at_once_no_more_are_told(web: Web) -> None:
    seen: list[int] = []

    async def one() -> None:
        seen.append(await status(client, UNKNOWN))

    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=web.url, limits=limits, timeout=30) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(150):
            nursery.start_soon(one)
    assert (seen.count(401), seen.count(429)) == (10, 140)


async def test_an_unknown_id_costs_what_a_wrong_secret_does(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            done.append(name)
            return real(*arguments)

        return call

    monkeypatch.setattr("api.http.auth.hash_secret", noted("hash", hash_secret))
    monkeypatch.setattr("hmac.compare_digest", noted("compare", hmac.compare_digest))

    async def asked(ask: Awaitable[int]) -> list[str]:
        done.clear()
        assert await ask == 401
        return list(done)

    async with at(web, "127.0.0.2") as client:
        wrong = f"{web.token.partition('-')[0]}-{WRONG_SECRET}"
        assert await asked(status(client, UNKNOWN)) == ["hash", "compare"]
        assert await asked(status(client, wrong)) == ["hash", "compare"]


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("unknown", "unknown"),
        ("a:b", "a:b"),
    ],
)
def test_an_address_counts_as(address: str, key: str) -> None:
    assert address_key(address) == key
