"""What a 405 says of an address, beside what the address does."""

from __future__ import annotations

from http import HTTPMethod
from uuid import uuid4

import httpx
import pytest
import trio

from api.app import PREFIXES
from tests.labs.web import UPGRADE, start_web
from tests.labs.workspace_agent import FakeDesktop, workspace_agent

# CONNECT has no path, and a client of ours has no way to say it.
METHODS = [method.value for method in HTTPMethod if method is not HTTPMethod.CONNECT] + ["BREW"]
PAGES = ["/", "/chats/{chat}", "/open/x", "/viewer/style.css", "/openapi.json"]


async def problems(client: httpx.AsyncClient, path: str, **headers: str) -> list[str]:
    """Where `Allow` is another set than that of the methods that are no 405."""
    answers = {m: await client.request(m, path, headers=headers) for m in METHODS}
    taken = {method for method, answer in answers.items() if answer.status_code != 405}
    return [
        f"{method} {path}: {answer.headers.get('allow')!r}, not {sorted(taken)}"
        for method, answer in answers.items()
        if answer.status_code == 405
        and (
            answer.headers.get("allow") != ", ".join(sorted(taken))
            or (method != "HEAD" and answer.json()["message"] != "Method not allowed.")
        )
    ]


@pytest.mark.parametrize("chat", [str(uuid4()), "42"], ids=["a chat", "no UUID"])
async def test_allow_has_every_method_of_the_address(nursery: trio.Nursery, chat: str) -> None:
    server = await start_web(nursery)
    paths = [
        path
        for path in [*server.app.openapi()["paths"], *PAGES]
        if not path.startswith(PREFIXES[1]) or path.endswith(("/messages", "/desktop"))
    ]
    async with server.without_token() as client:
        wrong = []
        for path in paths:
            wrong += await problems(client, path.format(chat=chat, file=uuid4(), user=1, token=1))
        answer = await client.options(f"{PREFIXES[1]}/chats/{chat}/messages")
    assert wrong == []
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    await server.aclose()


async def test_a_desktops_address_takes_upgrades_by_get_alone(nursery: trio.Nursery) -> None:
    server = await start_web(nursery)
    async with server.without_token() as client:
        for headers in ({}, UPGRADE):
            assert await problems(client, f"/api/v2/chats/{uuid4()}/desktop", **headers) == []
    await server.aclose()


async def test_the_workspace_agents() -> None:
    async with workspace_agent(FakeDesktop()) as lab:
        for path in ("/healthz", "/api/v0/desktop/action", "/api/v0/desktop/vnc"):
            assert await problems(lab.client, path) == []
