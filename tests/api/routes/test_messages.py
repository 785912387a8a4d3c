"""Talking to a chat over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import trio

from api.agents.model import Reply
from api.http.serve import serve_app
from api.services import Services
from api.store import Chat, Page
from relay.desktops import Desktops, provider_for
from tests.labs.agents import to_spawned
from tests.labs.language_model.scripted import Talker, call, calls, on_screen, said
from tests.labs.web import Web, start_web

CHATS = "/api/v2/chats"
PATIENCE_S = 10.0


@pytest.fixture
async def talker() -> Talker:
    return Talker()


@pytest.fixture
async def server(nursery: trio.Nursery, talker: Talker) -> AsyncIterator[Web]:
    server = await start_web(nursery, desktops=Desktops(nursery, provider_for), answers=talker)
    yield server
    await server.aclose()


async def new_chat(server: Web) -> str:
    body = {"workspace_id": str(server.workspace.id)}
    return f"{CHATS}/{(await server.client.post(CHATS, json=body)).json()['id']}"


def services_of(server: Web) -> Services:
    return cast(Services, server.app.state.services)


class Events:
    """Server-sent events as they come."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def next(self) -> tuple[str, Any, str]:
        """The kind, the data and the id of the next event."""
        fields: dict[str, str] = {}
        with trio.fail_after(PATIENCE_S):
            async for line in self._lines:
                if not line and fields:
                    return fields["event"], json.loads(fields["data"]), fields.get("id", "")
                name, colon, value = line.partition(": ")
                if colon and name:
                    fields[name] = value
        raise EOFError

    async def end(self) -> list[tuple[str, Any, str]]:
        """All that comes, to the end."""
        events = []
        try:
            while True:
                events.append(await self.next())
        except EOFError:
            return events


@asynccontextmanager
async def follow(server: Web, chat: str, **headers: str) -> AsyncIterator[Events]:
    async with server.client.stream("GET", f"{chat}/stream", headers=headers) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        async with aclosing(cast(AsyncGenerator[str], response.aiter_lines())) as lines:
            yield Events(lines)


async def test_a_conversation_as_it_happens(server: Web, talker: Talker) -> None:
    chat = await new_chat(server)
    talker.parent = [said("Hello yourself.")]
    async with follow(server, chat) as events:
        assert await events.next() == ("status", {"status": "waiting"}, "")
        told = await server.client.post(f"{chat}/messages", json={"text": "Hello."})
        assert (told.status_code, told.json()["title"]) == (202, "")
        assert told.json()["status"] in ("pending", "running")
        seen: list[tuple[str, Any, str]] = []
        while not seen or seen[-1][1] != {"status": "waiting"}:
            seen.append(await events.next())
        await server.client.post(f"{chat}/archive")
        await events.end()
    messages = [data for kind, data, _ in seen if kind == "message"]
    assert [(m["role"], m["content"][0]["text"]) for m in messages] == [
        ("user", "Hello."),
        ("assistant", "Hello yourself."),
    ]
    assert [e for kind, _, e in seen if kind == "message"] == [str(m["id"]) for m in messages]
    assert (await server.client.get(f"{chat}/messages")).json() == messages
    after = messages[0]["id"]
    assert (await server.client.get(f"{chat}/messages?after={after}")).json() == messages[1:]

    # Cut off, it goes on where it was.
    await server.client.post(f"{chat}/unarchive")
    async with follow(server, chat, **{"Last-Event-ID": str(after)}) as events:
        assert (await events.next())[1] == messages[1]
        await server.client.post(f"{chat}/archive")
        await events.end()


async def test_an_agents_screenshots_can_be_seen_by_its_owner_alone(
    server: Web, talker: Talker
) -> None:
    chat = await new_chat(server)
    talker.parent = [
        calls(call("spawn_computer_use_agent", {"prompt": "Look."})),
        to_spawned("wait_agent"),
        said("Seen."),
    ]
    talker.agent = [calls(on_screen("screenshot")), said("A pattern.")]
    await server.client.post(f"{chat}/messages", json={"text": "What is there?"})
    with trio.fail_after(PATIENCE_S):
        while (await server.client.get(chat)).json().get("status", "waiting") != "waiting":
            await trio.sleep(0.02)
    (child,) = [c for c in (await server.client.get(CHATS)).json() if "parent_id" in c]
    assert (child["mode"], child["title"], f"{CHATS}/{child['parent_id']}") == (
        "computer_use",
        "Look.",
        chat,
    )
    messages = (await server.client.get(f"{CHATS}/{child['id']}/messages")).json()
    file_id = messages[2]["content"][0]["content"][0]["source"]["file_id"]
    url = f"{CHATS}/{child['id']}/files/{file_id}"
    picture = await server.client.get(url)
    assert (picture.headers["content-type"], picture.content[:8]) == (
        "image/png",
        b"\x89PNG\r\n\x1a\n",
    )
    assert (await server.client.get(f"{chat}/files/{file_id}")).status_code == 404
    bobs = await server.store.create_token(server.bob.id)
    async with server.without_token(Authorization=f"Bearer {bobs}") as bob:
        assert (await bob.get(url)).status_code == 404
        assert (await bob.get(f"{chat}/stream")).status_code == 404

    # Archiving a chat archives its agents, and back.
    await server.client.post(f"{chat}/archive")
    assert (await server.client.get(f"{CHATS}/{child['id']}")).json()["archived"]
    await server.client.post(f"{chat}/unarchive")
    assert not (await server.client.get(f"{CHATS}/{child['id']}")).json()["archived"]


async def wait_for_an_agent(server: Web, talker: Talker, chat: str) -> None:
    """Has the chat wait for an agent that waits for 100 s."""
    talker.parent = [
        calls(call("spawn_computer_use_agent", {"prompt": "Wait."})),
        to_spawned("wait_agent"),
    ]
    talker.agent = [calls(on_screen("wait", {"duration": 100}))]
    await server.client.post(f"{chat}/messages", json={"text": "Wait."})
    with trio.fail_after(PATIENCE_S):
        while len(talker.requests) < 3:
            await trio.sleep(0.02)


@pytest.mark.parametrize("ending", ["interrupt", "archive"])
async def test_what_is_under_way_stops_at_once(server: Web, talker: Talker, ending: str) -> None:
    chat = await new_chat(server)
    await wait_for_an_agent(server, talker, chat)
    with trio.fail_after(2):
        assert (await server.client.post(f"{chat}/{ending}")).status_code == 204
    assert (await server.client.get(chat)).json().get("status", "waiting") == "waiting"
    chats = (await server.client.get(f"{CHATS}?archived=true")).json()
    (child,) = [c for c in chats if "parent_id" in c]
    assert child.get("status", "waiting") == ("running" if ending == "interrupt" else "waiting")


async def test_what_is_refused(nursery: trio.Nursery) -> None:
    server = await start_web(nursery)
    chat = await new_chat(server)
    refused = await server.client.post(f"{chat}/messages", json={"text": "Hello."})
    assert (refused.status_code, refused.json()) == (
        400,
        {
            "message": "No language model is configured.",
            "detail": "Set model.api_key_file in the server's settings.",
        },
    )
    for text in ("", "  \n ", "x" * 32_001, 7, "\U0001f5a5" * 32_001):
        answer = await server.client.post(f"{chat}/messages", json={"text": text})
        assert (answer.status_code, answer.json()["message"]) == (400, "Validation failed.")
    await server.client.post(f"{chat}/archive")
    refused = await server.client.post(f"{chat}/messages", json={"text": "Hello."})
    assert refused.json()["message"] == "Chat is archived."
    await server.aclose()


async def test_a_stream_ends_with_its_token(server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.messages.ALIVE_S", 0.2)
    monkeypatch.setattr("api.agents.watch.LOOK_AGAIN_S", 0.1)
    chat = await new_chat(server)
    async with follow(server, chat) as events:
        await events.next()
        await server.store.revoke_token(server.token[:10])
        await events.end()


async def test_the_longest_text_in_any_script(server: Web) -> None:
    chat = await new_chat(server)
    # Escaped, as many clients write it.
    body = json.dumps({"text": "\U0001f5a5" * 32_000})
    assert (await server.client.post(f"{chat}/messages", content=body)).status_code == 202


@pytest.mark.parametrize("after", [str(2**31), "9" * 20, "9" * 5000])
async def test_ids_that_no_message_has(server: Web, after: str) -> None:
    chat = await new_chat(server)
    for path in ("messages", "stream"):
        assert (await server.client.get(f"{chat}/{path}?after={after}")).status_code == 400
    await server.client.post(f"{chat}/messages", json={"text": "Hello."})
    async with follow(server, chat, **{"Last-Event-ID": after}) as events:
        while (await events.next())[0] != "message":
            pass
        await server.client.post(f"{chat}/archive")
        await events.end()


async def test_who_follows_a_chat_need_not_say_anything(
    nursery: trio.Nursery, talker: Talker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert serve_app.__kwdefaults__ is not None
    monkeypatch.setitem(serve_app.__kwdefaults__, "read_timeout_s", 0.6)
    server = await start_web(nursery, answers=talker)
    chat = await new_chat(server)
    async with follow(server, chat) as events:
        await events.next()
        await trio.sleep(1.2)
        await server.client.post(f"{chat}/messages", json={"text": "Hello."})
        assert (await events.next())[0] in ("message", "status")
        await server.client.post(f"{chat}/archive")
        await events.end()
    await server.aclose()


async def test_who_has_left_is_not_told(server: Web) -> None:
    chat, followers = await new_chat(server), services_of(server).followers
    url = urlsplit(server.url)
    head = f"GET {chat}/stream HTTP/1.1\r\nHost: {url.netloc}\r\n"
    head += f"Coder-Session-Token: {server.token}\r\n\r\n"
    async with await trio.open_tcp_stream(str(url.hostname), url.port or 0) as client:
        await client.send_all(head.encode())
        await client.receive_some()
        with trio.fail_after(PATIENCE_S):
            while not followers._watches:
                await trio.sleep(0.02)
    with trio.fail_after(PATIENCE_S):
        while followers._watches:
            await trio.sleep(0.02)


async def test_words_of_a_message_do_not_come_behind_it(
    server: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = services_of(server)
    messages = services.conversations.messages_page

    async def slow(*given: Any, **more: Any) -> Page:
        # Of the run the follower sees the end only.
        while services.runs._runs:
            await trio.sleep(0.01)
        return await messages(*given, **more)

    monkeypatch.setattr(services.conversations, "messages_page", slow)
    chat = await new_chat(server)
    async with follow(server, chat) as events:
        await events.next()
        await server.client.post(f"{chat}/messages", json={"text": "Hello."})
        kinds = [(await events.next())[0]]
        while kinds.count("message") < 2:
            kinds.append((await events.next())[0])
        await server.client.post(f"{chat}/archive")
        kinds += [kind for kind, _, _ in await events.end()]
    assert "text" not in kinds


async def test_words_that_become_no_message_are_void(server: Web, talker: Talker) -> None:
    async def hang(asked: dict[str, Any]) -> Reply:
        asked["on_text"]("Let me")
        await trio.sleep_forever()
        raise AssertionError

    talker.parent = [hang]
    chat = await new_chat(server)
    seen: list[tuple[str, Any]] = []
    async with follow(server, chat) as events:
        await events.next()
        await server.client.post(f"{chat}/messages", json={"text": "Hello."})
        while ("status", {"status": "waiting"}) not in seen:
            seen.append((await events.next())[:2])
            if seen[-1][0] == "text":
                await server.client.post(f"{chat}/interrupt")
        await server.client.post(f"{chat}/archive")
        await events.end()
    assert seen.index(("text", {"text": "Let me"})) < seen.index(("restart", {}))


async def test_words_cost_no_look_at_the_database(
    server: Web, talker: Talker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def speak(asked: dict[str, Any]) -> Reply:
        for _ in range(100):
            asked["on_text"]("ha")
            await trio.sleep(0.002)
        return Reply([{"type": "text", "text": "ha" * 100}], "end_turn", 1, 1)

    looks = 0
    find = server.store.chat

    async def count(chat_id: UUID) -> Chat | None:
        nonlocal looks
        looks += 1
        return await find(chat_id)

    monkeypatch.setattr(server.store, "chat", count)
    talker.parent = [speak]
    chat = await new_chat(server)
    async with follow(server, chat) as events:
        await events.next()
        await server.client.post(f"{chat}/messages", json={"text": "Tell me a joke."})
        seen = [await events.next()]
        while seen[-1][1] != {"status": "waiting"}:
            seen.append(await events.next())
        assert looks < 20
        await server.client.post(f"{chat}/archive")
        await events.end()
    assert len("".join(data["text"] for kind, data, _ in seen if kind == "text")) > 190


async def test_archiving_again_ends_what_the_first_time_left(server: Web, talker: Talker) -> None:
    chat = await new_chat(server)
    chat_id = UUID(chat.rpartition("/")[2])
    await wait_for_an_agent(server, talker, chat)
    # As where the database has archived it but its answer was lost.
    assert await server.store.set_archived(chat_id, True)
    refused = await server.client.post(f"{chat}/archive")
    assert (refused.status_code, refused.json()) == (400, {"message": "Chat is already archived."})
    (child,) = await services_of(server).conversations.children(chat_id)
    assert {ended[0] for ended in server.live.ended} == {chat_id, child.id}
    assert services_of(server).runs._runs == {}


async def test_a_long_conversation_is_followed_whole(
    server: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.messages.LISTED_LIMIT", 2)
    chat = await new_chat(server)
    chat_id = UUID(chat.rpartition("/")[2])
    for _ in range(5):
        await services_of(server).conversations.add(chat_id, "user", said("Hello.").content)
    async with follow(server, chat) as events:
        assert [(await events.next())[0] for _ in range(6)] == ["message"] * 5 + ["status"]
        await server.client.post(f"{chat}/archive")
        await events.end()
