"""Lists over HTTP: pages that lead to the next, nothing lost between them, and what slow readers
cost."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import parse_qs, urljoin, urlsplit
from uuid import UUID, uuid4

import httpx
import pytest
import trio
from sqlalchemy import Connection, text, update

from api.agents.watch import Words
from api.http.pages import LISTED_LIMIT
from api.routes import messages as messages_route
from api.services import Services
from api.store import Chat
from api.store.database import PAGE_BYTES
from api.store.schema import chats
from tests.labs.web import Web, start_web

CHATS = "/api/v2/chats"
EMOJI = "\U0001f5a5" * 32_000
PATIENCE_S = 20.0


@pytest.fixture
async def server(nursery: trio.Nursery) -> AsyncIterator[Web]:
    server = await start_web(nursery)
    yield server
    await server.aclose()


def services_of(server: Web) -> Services:
    return cast(Services, server.app.state.services)


async def new_chat(server: Web) -> Chat:
    return await server.store.create_chat(server.alice.id)


def messages_of(chat: Chat) -> str:
    return f"{CHATS}/{chat.id}/messages"


async def say(server: Web, chat: Chat, *texts: str) -> None:
    for words in texts:
        content = [{"type": "text", "text": words}]
        await services_of(server).conversations.add(chat.id, "user", content)


async def say_raw(server: Web, chat: Chat, raw: str) -> None:
    """As a database may hold it that others have written."""

    def write(connection: Connection) -> None:
        connection.execute(
            text(
                "INSERT INTO messages (chat_id, role, content, created_at) "
                "SELECT id, 'assistant', :raw, created_at FROM chats WHERE id = :id"
            ),
            {"raw": raw, "id": chat.id.hex},
        )

    await server.store.database.run(write, write=True)


async def pages_of(server: Web, path: str) -> list[httpx.Response]:
    """A list from its beginning to its end, by the links alone."""
    pages = []
    address: str | None = path
    while address is not None:
        response = await server.client.get(address)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json; charset=utf-8"
        pages.append(response)
        link = response.headers.get("Link")
        address = None
        if link is not None:
            found = re.fullmatch('<([^>]*)>; rel="next"', link)
            assert found is not None
            address = urljoin(str(response.url), found[1])
    return pages


async def test_chats_are_walked_by_their_links(server: Web) -> None:
    made = [str((await new_chat(server)).id) for _ in range(7)]
    await server.store.set_archived(UUID(made[3]), True)
    pages = await pages_of(server, f"{CHATS}?limit=3")
    assert [len(page.json()) for page in pages] == [3, 3]
    seen = [chat["id"] for page in pages for chat in page.json()]
    assert sorted(seen) == sorted(set(made) - {made[3]})
    pages = await pages_of(server, f"{CHATS}?limit=3&archived=true")
    assert [len(page.json()) for page in pages] == [3, 3, 1]
    assert sorted(chat["id"] for page in pages for chat in page.json()) == sorted(made)
    whole = await server.client.get(f"{CHATS}?archived=true")
    assert whole.json() == [chat for page in pages for chat in page.json()]
    assert "Link" not in whole.headers


async def test_a_link_holds_behind_any_prefix_and_tells_no_token(server: Web) -> None:
    for _ in range(2):
        await new_chat(server)
    async with server.without_token() as client:
        response = await client.get(f"{CHATS}?limit=1&coder_session_token={server.token}")
    link = response.headers["Link"]
    assert link.startswith("<?")
    assert server.token not in link
    assert parse_qs(link[2:].partition(">")[0]).keys() == {"after", "limit"}


async def test_there_is_a_page_where_nobody_asks_for_one(server: Web) -> None:
    for _ in range(LISTED_LIMIT + 1):
        await new_chat(server)
    pages = await pages_of(server, CHATS)
    assert [len(page.json()) for page in pages] == [LISTED_LIMIT, 1]


@pytest.mark.parametrize("whose", ["nobody's", "somebody else's"])
async def test_behind_a_chat_that_is_not_ones_own(server: Web, whose: str) -> None:
    after = uuid4()
    if whose == "somebody else's":
        after = (await server.store.create_chat(server.bob.id)).id
    response = await server.client.get(f"{CHATS}?after={after}")
    assert (response.status_code, response.json()) == (
        400,
        {
            "message": "Validation failed.",
            "validations": [{"field": "after", "detail": "No chat of yours has this id."}],
        },
    )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=1", "after"),
        ("after=", "after"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        (f"limit={'9' * 5000}", "limit"),
    ],
)
async def test_pages_that_there_cannot_be(server: Web, query: str, field: str) -> None:
    response = await server.client.get(f"{CHATS}?{query}")
    assert (response.status_code, response.json()["message"]) == (400, "Validation failed.")
    assert response.json()["validations"][0]["field"] == field


async def test_a_page_of_chats_is_bounded_by_bytes(server: Web) -> None:
    for _ in range(5):
        await new_chat(server)
    await server.store.database.write(update(chats).values(last_error="<" * (PAGE_BYTES // 20)))
    pages = await pages_of(server, CHATS)
    assert [len(page.json()) for page in pages] == [3, 2]
    assert all(len(page.content) <= PAGE_BYTES for page in pages)


async def test_long_messages_are_read_a_megabyte_at_a_time(server: Web) -> None:
    chat = await new_chat(server)
    await say(server, chat, *[EMOJI] * 5)
    pages = await pages_of(server, messages_of(chat))
    assert [len(page.json()) for page in pages] == [2, 2, 1]
    assert all(len(page.content) < PAGE_BYTES for page in pages)
    assert all(
        message["content"] == [{"type": "text", "text": EMOJI}]
        for page in pages
        for message in page.json()
    )


async def test_a_message_that_is_a_page_by_itself(server: Web) -> None:
    chat = await new_chat(server)
    await say(server, chat, "x", "y" * (2 * PAGE_BYTES), "z")
    pages = await pages_of(server, messages_of(chat))
    texts = [[message["content"][0]["text"][0] for message in page.json()] for page in pages]
    assert texts == [["x"], ["y"], ["z"]]


async def test_a_message_has_the_form_that_the_schema_says(server: Web) -> None:
    chat = await new_chat(server)
    server.clock.advance(microseconds=7)
    await say(server, chat, "<script>&", 'Ünï ☃ 𝄞 \r\n\0\x1f"\\')
    listed = await server.client.get(messages_of(chat))
    assert re.search(b"[<>&]", listed.content) is None
    said = await services_of(server).conversations.messages(chat.id)
    assert listed.json() == [
        messages_route.MessageBody.model_validate(message, from_attributes=True).model_dump(
            mode="json"
        )
        for message in said
    ]


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


async def data_lines(server: Web, chat: Chat, count: int) -> list[str]:
    """The data of the first events of a stream. The chat is archived then, which ends it."""
    found: list[str] = []
    async with server.client.stream("GET", f"{CHATS}/{chat.id}/stream") as response:
        assert response.status_code == 200
        lines = cast(AsyncGenerator[str], response.aiter_lines())
        async with aclosing(lines):
            with trio.fail_after(PATIENCE_S):
                async for line in lines:
                    assert not line or line.startswith(("id: ", "event: ", "data: ", ": "))
                    if line.startswith("data: "):
                        found.append(line.removeprefix("data: "))
                        if len(found) == count:
                            await server.client.post(f"{CHATS}/{chat.id}/archive")
    return found


async def test_what_was_stored_before_there_were_bounds_is_readable(server: Web) -> None:
    chat = await new_chat(server)
    content = [{"type": "tool_use", "id": "toolu_1", "name": "x", "input": nested(300)}]
    await say(server, chat, "Hello.")
    await say_raw(server, chat, json.dumps(content))
    await say_raw(server, chat, json.dumps(content, indent=1).replace("\n", "\r\n"))
    # Deeper than Python's own reader goes: this is looked at as text.
    await say_raw(server, chat, "[" * 5_000 + "]" * 5_000)
    listed = await server.client.get(f"{messages_of(chat)}?limit=3")
    assert listed.status_code == 200
    assert [message["content"] for message in listed.json()[1:]] == [content, content]
    assert "[" * 5_000 in (await server.client.get(messages_of(chat))).text
    events = await data_lines(server, chat, 4)
    assert [json.loads(event)["content"] for event in events[1:3]] == [content, content]


async def test_long_messages_are_followed_whole(server: Web) -> None:
    chat = await new_chat(server)
    await say(server, chat, *[EMOJI] * 5)
    events = await data_lines(server, chat, 6)
    assert [json.loads(event)["content"][0]["text"] == EMOJI for event in events[:5]] == [True] * 5
    assert json.loads(events[5]) == {"status": "waiting"}


async def test_who_waits_for_a_page_keeps_nobody_waiting(
    server: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = await new_chat(server)
    await say(server, chat, "Hello.")
    going_on = threading.Event()
    made = messages_route._made

    def slowly(message: Any) -> bytes:
        assert going_on.wait(PATIENCE_S)
        return made(message)

    monkeypatch.setattr(messages_route, "_made", slowly)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.client.get, messages_of(chat))
        with trio.fail_after(PATIENCE_S):
            for _ in range(5):
                assert (await server.client.get("/healthz")).status_code == 200
        going_on.set()


async def test_a_stream_that_nobody_reads_is_cut(
    server: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.http.takeover.SEND_TIMEOUT_S", 0.5)
    chat = await new_chat(server)
    # Far more than a loopback connection's buffers hold.
    for _ in range(4):
        await say(server, chat, *[EMOJI] * 10)
    live = services_of(server).live
    url = urlsplit(server.url)
    head = f"GET {CHATS}/{chat.id}/stream HTTP/1.1\r\nHost: {url.netloc}\r\n"
    head += f"Coder-Session-Token: {server.token}\r\n\r\n"
    async with await trio.open_tcp_stream(str(url.hostname), url.port or 0) as client:
        await client.send_all(head.encode())
        with trio.fail_after(PATIENCE_S):
            while not live.streams:
                await trio.sleep(0.01)
            while live.streams:
                await trio.sleep(0.01)


def test_words_that_were_not_taken_come_in_pieces() -> None:
    words = Words(0, True, "\U0001f5a5" * 65_536)
    restart, *events = list(messages_route._events(words))
    assert restart.startswith("event: restart\n")
    assert all(len(event) < 65_536 for event in events)
    said = [json.loads(event.partition("data: ")[2])["text"] for event in events]
    assert "".join(said) == words.text


async def test_the_schema_has_the_pages(server: Web) -> None:
    schema = (await server.client.get("/openapi.json")).json()
    lists = {
        CHATS: "ChatBody",
        f"{CHATS}/{{chat}}/messages": "MessageBody",
        "/api/v2/tokens": "TokenBody",
    }
    for path, model in lists.items():
        operation = schema["paths"][path]["get"]
        parameters = {p["name"]: p["schema"] for p in operation["parameters"]}
        assert "after" in parameters
        bounds = {name: parameters["limit"][name] for name in ("default", "minimum", "maximum")}
        assert bounds == {"default": 200, "minimum": 1, "maximum": 200}
        answer = operation["responses"]["200"]
        assert "Link" in answer["headers"]
        listed = answer["content"]["application/json"]["schema"]
        assert listed["items"] == {"$ref": f"#/components/schemas/{model}"}


DEEP = ["[" * 40_000, '{"text":' * 5_000, '{"title":' * 5_000 + "1" + "}" * 5_000]


@pytest.mark.parametrize("body", DEEP)
async def test_a_body_that_is_nested_without_end(server: Web, body: str) -> None:
    chat = await new_chat(server)
    for path in (CHATS, messages_of(chat)):
        response = await server.client.post(path, content=body)
        assert response.status_code == 400
        assert response.json()["message"] == "Request body must be valid JSON."
