"""The schema tells the truth: what it documents happens, and what happens it documents."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import trio

from api.agents.runs import WAITING_LIMIT
from api.budgets import EVERYBODY, Budgets, Held
from api.http.errors import ErrorBody
from api.routes.chats import BODY_BYTES
from api.routes.messages import BODY_BYTES as MESSAGE_BYTES
from api.store import Conversations, File, StoreError
from relay.desktops import Desktops, provider_for
from tests.labs.language_model.scripted import Talker
from tests.labs.web import UPGRADE, Web, start_web


@pytest.fixture
async def server(nursery: trio.Nursery) -> AsyncIterator[Web]:
    server = await start_web(nursery, desktops=Desktops(nursery, provider_for))
    yield server
    await server.aclose()


@pytest.fixture
async def schema(server: Web) -> dict[str, Any]:
    async with server.without_token() as anonymous:
        response = await anonymous.get("/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


def operations(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method.upper(), operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]


async def test_what_is_there(schema: dict[str, Any]) -> None:
    chats = {
        ("GET", ""),
        ("POST", ""),
        ("GET", "/{chat}"),
        ("POST", "/{chat}/archive"),
        ("POST", "/{chat}/unarchive"),
        ("POST", "/{chat}/messages"),
        ("GET", "/{chat}/messages"),
        ("GET", "/{chat}/files/{file}"),
        ("GET", "/{chat}/stream"),
        ("POST", "/{chat}/interrupt"),
        ("GET", "/{chat}/desktop"),
        ("GET", "/{chat}/stream/desktop"),
    }
    expected = {
        (method, f"/api/{version}/chats{path}")
        for version in ("v2", "experimental")
        for method, path in chats
    } | {
        (method, f"/api/{version}/{path}")
        for version in ("v2", "experimental")
        for method, path in (
            ("GET", "tokens"),
            ("DELETE", "tokens/{token}"),
            ("GET", "sessions"),
            ("POST", "users/logout"),
        )
    }
    expected |= {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")}
    assert {(method, path) for path, method, _ in operations(schema)} == expected


async def test_shape(schema: dict[str, Any]) -> None:
    schemes = schema["components"]["securitySchemes"]
    assert {(s.get("in"), s.get("name")) for s in schemes.values()} == {
        ("cookie", "coder_session_token"),
        ("query", "coder_session_token"),
        ("header", "Coder-Session-Token"),
        (None, None),
    }
    identifiers = [operation["operationId"] for _, _, operation in operations(schema)]
    assert len(identifiers) == len(set(identifiers))
    error = {"$ref": "#/components/schemas/ErrorBody"}
    for path, _, operation in operations(schema):
        assert bool(operation.get("security")) is path.startswith(("/api/", "/metrics"))
        assert "422" not in operation["responses"]
        named = re.findall(r"\{(\w+)\}", path)
        parameters = operation.get("parameters", [])
        assert [p["name"] for p in parameters if p["in"] == "path"] == named
        for status, response in operation["responses"].items():
            if status == "default" or int(status) >= 400:
                assert response["content"]["application/json"]["schema"] == error
    for reference in set(re.findall(r"'#/components/schemas/(\w+)'", str(schema))):
        assert reference in schema["components"]["schemas"]


async def slowly() -> AsyncIterator[bytes]:
    """A body that takes longer than is waited for."""
    yield b"{"
    await trio.sleep(0.3)


async def provoke(
    server: Web, path: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.Response]:
    """Every answer that can be had from one operation, failures of the store last."""
    store, client = server.store, server.client
    services = server.app.state.services
    budgets: Budgets = services.budgets

    async def chat_url(
        *, workspace: bool = True, archived: bool = False, running: bool = False
    ) -> str:
        workspace_id = server.workspace.id if workspace else None
        chat = await store.create_chat(server.alice.id, workspace_id=workspace_id)
        if archived:
            await store.set_archived(chat.id, True)
        if running:
            await Conversations(store).begin(chat.id, uuid4())
        picture = File(uuid4(), chat.id, "image/png", b"PNG")
        await Conversations(store).add(chat.id, "user", [], [picture])
        token = await store.create_token(server.alice.id)
        return path.format(chat=chat.id, file=picture.id, token=token[:10])

    async def ping() -> None:
        raise StoreError("gone")

    unarchives = path.endswith("/unarchive")
    upgrade = UPGRADE if path.endswith("/desktop") else {}
    text = '{"text": "hello"}' if path.endswith("/messages") else "{}"
    body = text.encode() if method == "POST" else None
    good = await chat_url(archived=unarchives)
    async with server.without_token(**upgrade) as anonymous:
        yield await anonymous.request(method, good)
    endless = path.endswith("/stream")
    if not endless:
        async with server.without_token(Cookie=f"coder_session_token={server.token}") as browser:
            headers = upgrade | {"Origin": "http://evil.example"}
            yield await browser.request(method, good, headers=headers)
    if path.endswith("/logout"):
        yield await client.request(method, f"{good}?everywhere=perhaps")
        yield await client.request(method, good)
        client.headers["Coder-Session-Token"] = await store.create_token(server.alice.id)
        await server.break_table("tokens")
        yield await client.request(method, good)
        return
    if upgrade:
        yield await client.get(good)
        yield await client.get(await chat_url(workspace=False), headers=upgrade)
        yield await client.get(await chat_url(archived=True), headers=upgrade)
        nowhere = await store.add_workspace(server.alice.id, str(uuid4()), "tcp://127.0.0.1:1")
        chat = await store.create_chat(server.alice.id, workspace_id=nowhere.id)
        yield await client.get(path.format(chat=chat.id), headers=upgrade)
        async with client.stream("GET", good, headers=upgrade) as response:
            yield response  # the 101 has no body to wait for
        budgets.sessions = Held("sessions", {"user": 9, "address": 9, "desktop": 0})
        yield await client.get(good, headers=upgrade)
        server.live.capacity = 0
        yield await client.get(good, headers=upgrade)
    elif endless:
        async with client.stream(method, good) as response:
            yield response
        server.live.capacity = 0
        yield await client.request(method, good)
        budgets.streams = Held("streams", {"user": 0})
        yield await client.request(method, good)
    else:
        yield await client.request(method, good, content=body)
        yield await client.request(method, good, content=body)
    if path.endswith("/messages") and method == "POST":
        busy = await chat_url(running=True)
        for _ in range(WAITING_LIMIT):
            await Conversations(store).ask(UUID(busy.split("/")[-2]), [], limit=WAITING_LIMIT)
        yield await client.request(method, busy, content=body)
        for scope in ("user", EVERYBODY):
            limits = {"user": 9, EVERYBODY: 9} | {scope: 0}
            budgets.chats_at_work = Held("chats_at_work", limits)
            yield await client.request(method, await chat_url(), content=body)
    if "{chat}" in path:
        for chat_id in ("42", uuid4()):
            url = path.format(chat=chat_id, file=uuid4())
            yield await client.request(method, url, headers=upgrade, content=body)
    if "{token}" in path:
        yield await client.request(method, path.format(token="nope"))
    if path.endswith("/tokens"):
        yield await client.get(f"{path}?limit=0")
    if path.endswith("/chats"):
        if method == "POST":
            with monkeypatch.context() as patch:
                patch.setattr(services.settings.budgets, "chats_per_user", 1)
                yield await client.post(path, content=body)
        yield await client.request(method, f"{path}?archived=perhaps", content=b"{")
    if method == "POST":
        limit_bytes = MESSAGE_BYTES if path.endswith("/messages") else BODY_BYTES
        yield await client.post(good, content=b" " * (limit_bytes + 1))
        if path.endswith(("/chats", "/messages")):  # others read no body
            yield await client.post(good, content=slowly())
    if path == "/readyz":
        store.database.ping = ping  # type: ignore[method-assign]
    of_tokens = path == "/metrics" or "/tokens" in path or path.endswith("/sessions")
    await server.break_table("tokens" if of_tokens else "chats")
    yield await client.request(method, good, headers=upgrade, content=body)


async def test_documented_statuses_are_the_real_ones(
    nursery: trio.Nursery, schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.http.body.BODY_S", 0.1)
    for path, method, operation in operations(schema):
        server = await start_web(
            nursery, desktops=Desktops(nursery, provider_for), answers=Talker()
        )
        seen: set[str] = set()
        async for response in provoke(server, path, method, monkeypatch):
            status = str(response.status_code)
            seen.add(status)
            documented = operation["responses"][status]
            kinds = documented.get("content", {None: None})
            content_type = response.headers.get("content-type")
            assert (content_type and content_type.partition(";")[0]) in kinds, (path, status)
            if response.status_code >= 400:
                ErrorBody.model_validate_json(response.content)
        await server.aclose()
        assert seen == operation["responses"].keys() - {"default"}, f"{method} {path}"
