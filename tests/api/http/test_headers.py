"""The headers that every answer has."""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from api.store import Conversations, File
from tests.labs.web import UPGRADE, Web, start_web

HSTS = "strict-transport-security"


async def answers(server: Web) -> dict[str, httpx.Response]:
    """One of each kind, JSON or not, good or refused."""
    async with server.without_token() as nobody:
        found = {
            "a list": await server.client.get("/api/v2/chats"),
            "something made": await server.client.post("/api/v2/chats", json={}),
            "nothing": await server.client.get("/healthz"),
            "no route": await nobody.get("/nope"),
            "no method": await nobody.put("/api/v2/chats"),
            "a refused upgrade": await nobody.get("/api/v2/chats/x/desktop", headers=UPGRADE),
            "no upgrade": await nobody.get("/api/v2/chats/x/desktop"),
            "signed out": await nobody.get("/api/v2/chats"),
            "bad JSON": await server.client.post("/api/v2/chats", content=b"{"),
            "a foreign host": await nobody.get("/healthz", headers={"Host": "evil.example"}),
            "too large": await nobody.get("/healthz", headers={"X-Long": "x" * 16_384}),
            "the schema": await nobody.get("/openapi.json"),
            "the metrics": await server.client.get("/metrics"),
            "a notice": await nobody.get("/open/bad"),
        }
        await server.break_table("chats")
        found["a broken store"] = await server.client.get("/api/v2/chats")

        async def bug(*_: object, **__: object) -> None:
            raise LookupError("a bug")

        server.store.chats = bug  # type: ignore[assignment]
        with capture_logs():
            found["a bug"] = await server.client.get("/api/v2/chats")
    return found


@pytest.mark.parametrize(
    ("public_url", "hsts"),
    [(None, False), ("http://desk.example", False), ("https://desk.example/desk", True)],
)
async def test_every_answer_has_them(
    nursery: trio.Nursery, public_url: str | None, hsts: bool
) -> None:
    server = await start_web(nursery, public_url=public_url)
    found = await answers(server)
    assert {response.status_code for response in found.values()} >= {
        *(200, 201, 400, 401, 404, 405, 410, 421, 426, 431, 500)
    }
    for kind, response in found.items():
        assert response.headers.get_list("x-content-type-options") == ["nosniff"], kind
        assert response.headers.get_list("referrer-policy") == ["no-referrer"], kind
        assert response.headers.get_list("cache-control") == ["no-store"], kind
        assert (HSTS in response.headers) is hsts, kind
        if hsts:
            assert response.headers[HSTS] == "max-age=31536000"
    await server.aclose()


async def test_pictures_and_pages_are_kept_as_ever(nursery: trio.Nursery) -> None:
    server = await start_web(nursery)
    chat = await server.store.create_chat(server.alice.id)
    picture = File(uuid4(), chat.id, "image/png", b"PNG")
    await Conversations(server.store).add(chat.id, "user", [], [picture])
    shown = await server.client.get(f"/api/v2/chats/{chat.id}/files/{picture.id}")
    assert shown.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert shown.headers["x-content-type-options"] == "nosniff"
    page = await server.client.get("/viewer/viewer.js")
    assert page.headers.get_list("cache-control") == ["no-cache"]
    await server.aclose()
