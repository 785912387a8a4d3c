"""One's own tokens and sessions: who sees and ends which, and what goes with them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import trio

from api.store import StoreError
from relay import CloseCode
from tests.api.routes.test_messages import follow
from tests.labs.desktop_server import Lab, lab, parse, read_all
from tests.labs.peers import Frames
from tests.labs.web import Web, start_web

# The fixture.
__all__ = ["lab"]

LOGOUT = "/api/v2/users/logout"
TOKENS = "/api/v2/tokens"
NOT_FOUND = "Resource not found or you do not have access to this resource"


@pytest.fixture
async def server(nursery: trio.Nursery) -> AsyncIterator[Web]:
    server = await start_web(nursery)
    yield server
    await server.aclose()


def detail(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("detail", answer.json()["message"])


# Tokens


async def test_one_sees_ones_own_tokens_and_no_secret(server: Web) -> None:
    server.clock.advance(hours=3)
    newer = await server.store.create_token(server.alice.id)
    await server.store.create_token(server.bob.id)
    answer = await server.client.get(TOKENS)
    assert answer.json() == [
        {
            "id": newer[:10],
            "created_at": "2026-03-01T15:00:00Z",
            "last_used_at": "2026-03-01T15:00:00Z",
            "expires_at": "2026-03-08T15:00:00Z",
            "current": False,
        },
        {
            "id": server.token[:10],
            "created_at": "2026-03-01T12:00:00Z",
            "last_used_at": "2026-03-01T15:00:00Z",
            "expires_at": "2026-03-08T15:00:00Z",
            "current": True,
        },
    ]
    for token in (newer, server.token):
        assert token[11:] not in answer.text


async def test_tokens_are_walked_by_their_links(server: Web) -> None:
    ids = [server.token[:10]]
    for _ in range(4):
        server.clock.advance(seconds=1)
        # Two of one moment.
        ids += [(await server.store.create_token(server.alice.id))[:10] for _ in range(2)]
    await server.store.create_token(server.bob.id)
    seen: list[str] = []
    address = f"{TOKENS}?limit=2"
    while address:
        answer = await server.client.get(address)
        assert len(answer.json()) <= 2
        seen += [token["id"] for token in answer.json()]
        link = answer.headers.get("Link", "").partition(">")[0]
        address = link and f"{TOKENS}{link[1:]}"
    assert sorted(seen) == sorted(ids)
    assert seen[-1] == server.token[:10]


async def test_nothing_is_behind_a_token_that_is_not_ones_own(server: Web) -> None:
    theirs = (await server.store.create_token(server.bob.id))[:10]
    for after in (theirs, "0" * 10, "%00", ""):
        answer = await server.client.get(f"{TOKENS}?after={after}")
        assert answer.status_code == 400
        assert answer.json()["validations"][0]["field"] == "after"


async def test_a_revoked_token_is_gone_at_once(server: Web) -> None:
    other = await server.store.create_token(server.alice.id)
    async with server.without_token(**{"Coder-Session-Token": other}) as client:
        assert (await client.get(TOKENS)).status_code == 200
        answer = await server.client.delete(f"{TOKENS}/{other[:10]}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert detail(await client.get(TOKENS)) == (401, "API key is invalid.")
    assert detail(await server.client.delete(f"{TOKENS}/{other[:10]}")) == (404, NOT_FOUND)


@pytest.mark.parametrize(
    "token_id", ["unknown000", "x", "%00", "%C3%A9123456789", "a" * 5000, "bob"]
)
async def test_unknown_and_foreign_tokens_look_the_same(server: Web, token_id: str) -> None:
    foreign = (await server.store.create_token(server.bob.id))[:10]
    path = f"{TOKENS}/{foreign if token_id == 'bob' else token_id}"
    answer = await server.client.delete(path)
    assert (answer.status_code, answer.json()) == (404, {"message": NOT_FOUND})
    assert await server.store.token(foreign) is not None


# Signing out


async def test_signing_out_revokes_the_token_and_takes_the_cookie(server: Web) -> None:
    other = await server.store.create_token(server.alice.id)
    async with server.without_token(Cookie=f"coder_session_token={server.token}") as browser:
        answer = await browser.post(LOGOUT, headers={"Origin": server.url})
        assert (answer.status_code, answer.json()) == (200, {"message": "Logged out!"})
        (cookie,) = answer.headers.get_list("set-cookie")
        assert cookie.startswith('coder_session_token=""; ')
        assert {"Max-Age=0", "Path=/"} <= set(cookie.split("; "))
        again = await browser.post(LOGOUT, headers={"Origin": server.url})
        assert detail(again) == (401, "API key is invalid.")
    assert await server.store.token(other[:10]) is not None
    assert await server.store.token(server.token[:10]) is None


@pytest.mark.parametrize(
    ("path", "name", "attributes"),
    [("", "__Host-", {"Path=/", "Secure"}), ("/desk", "__Secure-", {"Path=/desk/", "Secure"})],
)
async def test_under_https_both_names_are_taken(
    nursery: trio.Nursery, path: str, name: str, attributes: set[str]
) -> None:
    server = await start_web(nursery, public_url=f"https://desk.example{path}")
    cookies = (await server.client.post(LOGOUT)).headers.get_list("set-cookie")
    assert {cookie.partition("=")[0] for cookie in cookies} == {
        f"{name}coder_session_token",
        "coder_session_token",
    }
    for cookie in cookies:
        assert attributes | {"Max-Age=0"} <= set(cookie.split("; "))
    await server.aclose()


async def test_signing_out_everywhere_is_of_ones_own_tokens(server: Web) -> None:
    own = [await server.store.create_token(server.alice.id) for _ in range(3)]
    foreign = await server.store.create_token(server.bob.id)
    assert (await server.client.post(f"{LOGOUT}?everywhere=perhaps")).status_code == 400
    assert (await server.client.post(f"{LOGOUT}?everywhere=true")).status_code == 200
    for token in (server.token, *own):
        assert await server.store.token(token[:10]) is None
    assert await server.store.token(foreign[:10]) is not None


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", LOGOUT), ("POST", f"{LOGOUT}?everywhere=1"), ("DELETE", f"{TOKENS}/own")],
)
async def test_no_other_sites_page_signs_anybody_out(server: Web, method: str, path: str) -> None:
    own = server.token[:10]
    async with server.without_token(Cookie=f"coder_session_token={server.token}") as browser:
        for headers in ({}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "same-site"}):
            answer = await browser.request(method, path.replace("own", own), headers=headers)
            assert (answer.status_code, answer.json()["message"]) == (403, "Forbidden.")
            assert "set-cookie" not in answer.headers
    assert await server.store.token(own) is not None


@pytest.mark.parametrize("path", [TOKENS, "/api/v2/sessions"])
async def test_who_is_not_signed_in_sees_nothing(server: Web, path: str) -> None:
    async with server.without_token() as nobody:
        assert (await nobody.get(path)).status_code == 401
        assert (await nobody.post(LOGOUT)).status_code == 401
    await server.store.set_user_status(server.alice.id, "suspended")
    assert (await server.client.get(path)).status_code == 401
    assert (await server.client.post(LOGOUT)).status_code == 401


async def test_a_store_that_fails_signs_nobody_out(
    server: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object, **__: object) -> None:
        raise StoreError("gone")

    for name in ("revoke_tokens_of", "tokens_page"):
        monkeypatch.setattr(server.store, name, gone)
    answer = await server.client.post(LOGOUT)
    assert (answer.status_code, answer.json()["message"]) == (500, "Failed to sign out.")
    assert "set-cookie" not in answer.headers
    answer = await server.client.delete(f"{TOKENS}/{server.token[:10]}")
    assert (answer.status_code, answer.json()["message"]) == (500, "Failed to revoke the token.")
    answer = await server.client.get(TOKENS)
    assert (answer.status_code, answer.json()["message"]) == (
        500,
        "Internal error fetching tokens.",
    )


# What a token has open


@pytest.mark.parametrize("how", ["sign out", "revoke", "everywhere"])
async def test_a_stream_ends_at_once(
    server: Web, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.messages.ALIVE_S", 3600.0)  # no look at the token ends it
    chat = await server.store.create_chat(server.alice.id)
    other = await server.store.create_token(server.alice.id)
    async with (
        server.without_token(**{"Coder-Session-Token": other}) as second,
        follow(server, f"/api/v2/chats/{chat.id}") as events,
    ):
        await events.next()
        if how == "sign out":
            answer = await server.client.post(LOGOUT)
        elif how == "revoke":
            answer = await second.delete(f"{TOKENS}/{server.token[:10]}")
        else:
            answer = await second.post(f"{LOGOUT}?everywhere=true")
        assert answer.is_success
        assert await events.end() == []


async def test_anothers_stream_goes_on(server: Web) -> None:
    chat = await server.store.create_chat(server.alice.id)
    other = await server.store.create_token(server.alice.id)
    async with follow(server, f"/api/v2/chats/{chat.id}") as events:
        await events.next()
        assert (await server.client.delete(f"{TOKENS}/{other[:10]}")).status_code == 204
        await server.client.post(f"/api/v2/chats/{chat.id}/archive")
        await events.end()


async def ask(lab: Lab, method: str, path: str, token: str | None = None) -> tuple[int, Any]:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{lab.port}\r\nConnection: close\r\n"
        f"Content-Length: 0\r\nCoder-Session-Token: {token or lab.token}\r\n\r\n"
    )
    status, _, body = await lab.ask(head.encode())
    return status, json.loads(body) if body else None


async def another(lab: Lab) -> str:
    user = await lab.store.user("alice")
    assert user is not None
    return await lab.store.create_token(user.id)


async def test_a_session_is_listed_with_whose_and_where_and_since_when(lab: Lab) -> None:
    second = await another(lab)
    bob = await lab.store.ensure_user("bob")
    foreign = await lab.store.create_token(bob.id)
    assert await ask(lab, "GET", "/api/v2/sessions") == (200, [])
    before = lab.store.now()
    first, _ = await lab.open()
    looking, _ = await lab.open(path=f"{lab.path}?view_only=1", Coder_Session_Token=second)
    async with first, looking:
        status, sessions = await ask(lab, "GET", "/api/v2/sessions")
        assert status == 200
        since = [session.pop("since") for session in sessions]
        assert before.isoformat() <= since[1] <= since[0] <= lab.store.now().isoformat()
        common = {"chat_id": str(lab.chat), "address": "127.0.0.1"}
        assert sessions == [
            common | {"token_id": second[:10], "view_only": True},
            common | {"token_id": lab.token[:10], "view_only": False},
        ]
        assert await ask(lab, "GET", "/api/v2/sessions", foreign) == (200, [])


@pytest.mark.parametrize("path", [LOGOUT, f"{LOGOUT}?everywhere=true"])
async def test_signing_out_ends_live_sessions_at_once(lab: Lab, path: str) -> None:
    second = await another(lab)
    mine, _ = await lab.open(Coder_Session_Token=second)
    others, _ = await lab.open()
    async with mine, others:
        frames = [Frames(mine), Frames(others)]
        for frame in frames:
            await frame.binary(12)
        assert (await ask(lab, "POST", path, second))[0] == 200
        with trio.fail_after(5):
            assert await frames[0].close() == (CloseCode.SIGNED_OUT, "signed out")
        if path == LOGOUT:
            _, (left,) = await ask(lab, "GET", "/api/v2/sessions")
            assert left["token_id"] == lab.token[:10]
        else:
            assert await frames[1].close() == (CloseCode.SIGNED_OUT, "signed out")


async def test_a_session_that_waits_for_its_desktop_is_refused(lab: Lab) -> None:
    lab.desktops.hold = trio.Event()
    async with await lab.connect() as stream:
        await stream.send_all(lab.head())
        await lab.desktops.asked.wait()
        assert (await ask(lab, "POST", LOGOUT))[0] == 200
        status, _, body = parse(await read_all(stream))
    assert status == 401
    assert json.loads(body)["detail"] == "API key was revoked or has expired."


async def test_a_token_revoked_while_its_session_was_looked_up_opens_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = lab.store.access

    async def slow(*given: Any) -> Any:
        access = await look(*given)
        await lab.store.revoke_token(lab.token[:10])  # as somebody else's sign-out would
        return access

    monkeypatch.setattr(lab.store, "access", slow)
    status, _, body = await lab.ask(lab.head())
    assert (status, json.loads(body)["detail"]) == (401, "API key was revoked or has expired.")
    assert lab.desktops.starts == 0


async def test_another_write_while_a_session_is_looked_up_costs_one_look_more(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, in_thread = lab.store.access, lab.store.database._in_thread
    calls = 0

    async def counted(work: Any) -> Any:
        nonlocal calls
        calls += 1
        return await in_thread(work)

    async def overtaken(*given: Any) -> Any:
        access = await look(*given)
        monkeypatch.setattr(lab.store, "access", look)
        await lab.store.ensure_user("carol")
        monkeypatch.setattr(lab.store.database, "_in_thread", counted)
        return access

    monkeypatch.setattr(lab.store, "access", overtaken)
    stream, _ = await lab.open()
    async with stream:
        assert calls == 1


async def test_a_new_sign_in_ends_what_the_browsers_old_one_had_open(lab: Lab) -> None:
    user = await lab.store.user("alice")
    assert user is not None
    code = await lab.store.create_link(user.id, "/")
    stream, _ = await lab.open(
        Coder_Session_Token=None,
        Cookie=f"coder_session_token={lab.token}",
        Origin=f"http://127.0.0.1:{lab.port}",
    )
    async with stream:
        frames = Frames(stream)
        await frames.binary(12)
        request = (
            f"POST /open/{code} HTTP/1.1\r\nHost: 127.0.0.1:{lab.port}\r\nConnection: close\r\n"
            f"Content-Length: 0\r\nOrigin: http://127.0.0.1:{lab.port}\r\n"
            f"Cookie: coder_session_token={lab.token}\r\n\r\n"
        )
        assert (await lab.ask(request.encode()))[0] == 303
        with trio.fail_after(5):
            assert await frames.close() == (CloseCode.SIGNED_OUT, "signed out")


# The greatest age


async def test_a_token_in_use_ends_all_the_same(server: Web) -> None:
    for _ in range(29):
        server.clock.advance(days=1)
        assert (await server.client.get(TOKENS)).status_code == 200
    (token,) = (await server.client.get(TOKENS)).json()
    assert token["expires_at"] == "2026-03-31T12:00:00Z"
    server.clock.advance(days=1)
    assert detail(await server.client.get(TOKENS)) == (
        401,
        'API key expired at "2026-03-31T12:00:00+00:00"',
    )


async def test_a_chat_that_is_no_session_yet_is_in_no_list(server: Web) -> None:
    with server.live.enter(str(uuid4()), server.token[:10]):
        assert (await server.client.get("/api/v2/sessions")).json() == []
