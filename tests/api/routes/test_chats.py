"""Chats over HTTP: every status and text, and what stands in front of every route."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from api.store import StoreError
from relay.rfb.errors import CloseCode
from tests.labs.web import UPGRADE, Web, start_web

JSON = "application/json; charset=utf-8"
NOT_FOUND = "Resource not found or you do not have access to this resource"
SIGNED_OUT = "You are signed out or your session has expired. Please sign in again to continue."
UUID_FORM = "A UUID has the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx, in hexadecimal digits."
SEE_LOG = "The server's log has the cause."
CHATS = "/api/v2/chats"


@pytest.fixture
async def server(nursery: trio.Nursery) -> AsyncIterator[Web]:
    server = await start_web(nursery)
    yield server
    await server.aclose()


async def new_chat(server: Web, **fields: Any) -> str:
    response = await server.client.post(CHATS, json=fields)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def check_error(response: httpx.Response, status: int, body: dict[str, Any]) -> None:
    assert (response.status_code, response.json()) == (status, body)
    assert response.headers["content-type"] == JSON


@pytest.mark.parametrize("prefix", ["/api/v2", "/api/experimental"])
async def test_life_of_a_chat(server: Web, prefix: str) -> None:
    client, now = server.client, "2026-03-01T12:00:00Z"
    response = await client.post(
        f"{prefix}/chats", json={"title": "Hi <b>", "workspace_id": str(server.workspace.id)}
    )
    chat = response.json()
    assert response.status_code == 201
    assert response.headers["content-type"] == JSON
    assert b"<" not in response.content
    assert chat == {
        "id": chat["id"],
        "owner_id": str(server.alice.id),
        "workspace_id": str(server.workspace.id),
        "title": "Hi <b>",
        "archived": False,
        "created_at": now,
        "updated_at": now,
    }
    one = f"{prefix}/chats/{chat['id']}"
    assert (await client.get(one)).json() == chat
    assert (
        await client.get(one.upper().replace(prefix.upper() + "/CHATS", f"{prefix}/chats"))
    ).json() == chat
    assert (await client.get(f"{prefix}/chats")).json() == [chat]

    server.clock.advance(minutes=1)
    response = await client.post(f"{one}/archive")
    assert (response.status_code, response.content) == (204, b"")
    assert server.live.ended == [(UUID(chat["id"]), CloseCode.ARCHIVED, "chat archived")]
    archived = chat | {"archived": True, "updated_at": "2026-03-01T12:01:00Z"}
    assert (await client.get(one)).json() == archived
    assert (await client.get(f"{prefix}/chats")).json() == []
    assert (await client.get(f"{prefix}/chats?archived=true")).json() == [archived]
    check_error(await client.post(f"{one}/archive"), 400, {"message": "Chat is already archived."})

    response = await client.post(f"{one}/unarchive")
    assert (response.status_code, response.content) == (204, b"")
    assert len(set(server.live.ended)) == 1
    assert (await client.get(f"{prefix}/chats")).json()[0]["archived"] is False
    check_error(await client.post(f"{one}/unarchive"), 400, {"message": "Chat is not archived."})


async def test_chat_without_anything(server: Web) -> None:
    chat = (await server.client.post(CHATS, json={})).json()
    assert (chat["title"], chat["workspace_id"]) == ("", None)
    assert datetime.fromisoformat(chat["created_at"]) == datetime(2026, 3, 1, 12, tzinfo=UTC)


ROUTES = [
    ("GET", "{chat}"),
    ("POST", "{chat}/archive"),
    ("POST", "{chat}/unarchive"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_which_chat(server: Web, method: str, path: str) -> None:
    bobs = await server.store.create_chat(server.bob.id)
    not_found = (404, {"message": NOT_FOUND})
    invalid = (400, {"message": 'Invalid UUID "chat".', "detail": UUID_FORM})
    missing = (
        400,
        {"message": "Missing UUID in URL.", "detail": "The chat's UUID is empty."},
    )
    hexadecimal = uuid4().hex
    table = [
        (str(uuid4()), not_found),
        (str(bobs.id), not_found),
        ("", missing),
        ("42", invalid),
        (hexadecimal, invalid),
        (f"{{{uuid4()}}}", invalid),
        (f"urn:uuid:{uuid4()}", invalid),
        (f"{uuid4()}0", invalid),
        ("%00", invalid),
        ("%ff", invalid),
    ]
    for chat, (status, body) in table:
        url = f"{CHATS}/{path.format(chat=chat)}"
        check_error(await server.client.request(method, url), status, body)
        async with server.without_token() as anonymous:
            assert (await anonymous.request(method, url)).status_code == 401
    assert server.live.ended == []
    assert await server.store.chat(bobs.id) == bobs


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", ""), *ROUTES])
async def test_signed_out(server: Web, method: str, path: str) -> None:
    url = f"{CHATS}/{path.format(chat=uuid4())}" if path else CHATS
    async with server.without_token() as anonymous:
        response = await anonymous.request(method, url, content=b"not JSON")
    check_error(
        response,
        401,
        {
            "message": SIGNED_OUT,
            "detail": 'Cookie "coder_session_token" or query parameter must be provided.',
        },
    )
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", {"message": "Request body must be valid JSON."}),
        (b"{", {"message": "Request body must be valid JSON."}),
        (b'{"title": "\\ud800"}', {"message": "Request body must be valid JSON."}),
        (b'{"title": "\xff"}', {"message": "Request body must be valid JSON."}),
        (b"[" * 10_000, {"message": "Request body must be valid JSON."}),
        (b"[]", {"message": "Validation failed.", "field": "body"}),
        (b"null", {"message": "Validation failed.", "field": "body"}),
        (b'{"title": 5}', {"message": "Validation failed.", "field": "title"}),
        (b'{"title": "a\\u0000b"}', {"message": "Validation failed.", "field": "title"}),
        (b'{"title": "a\\u001b[31m"}', {"message": "Validation failed.", "field": "title"}),
        (b'{"title": "a\\n"}', {"message": "Validation failed.", "field": "title"}),
        *(
            (
                json.dumps({"title": f"a{control}b"}).encode(),
                {
                    "message": "Validation failed.",
                    "field": "title",
                    "detail": "A title has no control characters, line breaks, or marks of a "
                    "text's direction",
                },
            )
            for control in "\x07\x7f\x85\x9b\u200e\u200f\u061c\u2028\u2029\u202e\u2066\u2069"
        ),
        (
            json.dumps({"title": "x" * 257}).encode(),
            {"message": "Validation failed.", "field": "title"},
        ),
        (b'{"workspace_id": "x"}', {"message": "Validation failed.", "field": "workspace_id"}),
        (
            json.dumps({"workspace_id": str(uuid4())}).encode(),
            {"message": "Validation failed.", "field": "workspace_id"},
        ),
    ],
    ids=lambda value: repr(value)[:24] if isinstance(value, bytes) else "",
)
async def test_body_that_is_wrong(server: Web, body: bytes, expected: dict[str, str]) -> None:
    response = await server.client.post(CHATS, content=body)
    answer = response.json()
    assert (response.status_code, answer["message"]) == (400, expected["message"])
    if "field" in expected:
        assert [problem["field"] for problem in answer["validations"]] == [expected["field"]]
        assert all(problem["detail"] for problem in answer["validations"])
        if "detail" in expected:
            assert answer["validations"][0]["detail"] == expected["detail"]
    else:
        assert answer["detail"]
    assert await server.store.chats() == []


async def test_anothers_workspace_is_as_good_as_none(server: Web) -> None:
    workspace = await server.store.add_workspace(server.bob.id, "bobs", "pattern")
    response = await server.client.post(CHATS, json={"workspace_id": str(workspace.id)})
    check_error(
        response,
        400,
        {
            "message": "Validation failed.",
            "validations": [{"field": "workspace_id", "detail": NOT_FOUND}],
        },
    )


async def test_largest_body_and_one_more(server: Web) -> None:
    body = b'{"title":"x"}'
    response = await server.client.post(CHATS, content=body + b" " * (65_536 - len(body)))
    assert response.status_code == 201
    response = await server.client.post(CHATS, content=body + b" " * (65_537 - len(body)))
    check_error(
        response,
        413,
        {"message": "Request body is too large.", "detail": "At most 65536 bytes are read."},
    )


async def test_wrong_query(server: Web) -> None:
    response = await server.client.get(f"{CHATS}?archived=perhaps")
    answer = response.json()
    assert (response.status_code, answer["message"]) == (400, "Validation failed.")
    assert answer["validations"][0]["field"] == "archived"


Call = Callable[[Web, str], Awaitable[httpx.Response]]
FAILURES: list[tuple[str, str, dict[str, str], Call]] = [
    ("chats", "create", {"message": "Failed to create chat.", "detail": SEE_LOG},
     lambda s, _: s.client.post(CHATS, json={})),
    ("chats", "list", {"message": "Internal error fetching chats.", "detail": SEE_LOG},
     lambda s, _: s.client.get(CHATS)),
    ("chats", "get", {"message": "Internal error fetching chat.", "detail": SEE_LOG},
     lambda s, chat: s.client.get(f"{CHATS}/{chat}")),
    ("chats", "archive", {"message": "Internal error fetching chat.", "detail": SEE_LOG},
     lambda s, chat: s.client.post(f"{CHATS}/{chat}/archive")),
    ("workspaces", "create", {"message": "Failed to create chat.", "detail": SEE_LOG},
     lambda s, _: s.client.post(CHATS, json={"workspace_id": str(uuid4())})),
    ("tokens", "list", {
        "message": "An internal error occurred. Please try again or contact the system "
        "administrator."
    }, lambda s, _: s.client.get(CHATS)),
]  # fmt: skip


@pytest.mark.parametrize(("table", "name", "body", "call"), FAILURES)
async def test_store_that_fails(
    server: Web, table: str, name: str, body: dict[str, str], call: Call
) -> None:
    chat = await new_chat(server)
    await server.break_table(table)
    check_error(await call(server, chat), 500, body)


async def test_archive_that_fails_ends_no_session(server: Web) -> None:
    chat = await new_chat(server)
    # Reading goes on, writing fails.
    await server.store.database.run(
        lambda connection: connection.exec_driver_sql(
            "CREATE TRIGGER stop BEFORE UPDATE ON chats BEGIN SELECT RAISE(ABORT, 'no'); END"
        ),
        write=True,
    )
    response = await server.client.post(f"{CHATS}/{chat}/archive")
    check_error(response, 500, {"message": "Failed to archive chat.", "detail": SEE_LOG})
    response = await server.client.post(f"{CHATS}/{chat}/unarchive")
    check_error(response, 400, {"message": "Chat is not archived."})
    assert server.live.ended == []


async def test_cookie_takes_our_own_page(server: Web) -> None:
    chat = await new_chat(server)
    url = f"{CHATS}/{chat}/archive"
    async with server.without_token(Cookie=f"coder_session_token={server.token}") as browser:
        assert (await browser.get(CHATS)).status_code == 200
        for headers in ({}, {"Origin": "http://evil.example"}):
            response = await browser.post(url, headers=headers)
            assert (response.status_code, response.json()["message"]) == (403, "Forbidden.")
        assert server.live.ended == []
        response = await browser.post(url, headers={"Origin": server.url})
        assert response.status_code == 204


async def test_unknown_route_and_method(server: Web) -> None:
    for path in ("/nope", "/api/v2/nope", "/api/v2/chats/x/y/z", "/docs", "/redoc"):
        check_error(await server.client.get(path), 404, {"message": "Route not found."})
    response = await server.client.delete(CHATS)
    check_error(
        response,
        405,
        {"message": "Method not allowed.", "detail": "This address takes GET, POST."},
    )
    assert response.headers["allow"] == "GET, POST"


async def test_trailing_slash_is_an_empty_id(server: Web) -> None:
    response = await server.client.get(f"{CHATS}/")
    assert (response.status_code, response.json()["message"]) == (400, "Missing UUID in URL.")


async def test_health(server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    async with server.without_token() as anonymous:
        for path in ("/healthz", "/readyz"):
            response = await anonymous.get(path)
            assert (response.status_code, response.text) == (200, "OK")

        async def ping() -> None:
            raise StoreError("gone")

        monkeypatch.setattr(server.store.database, "ping", ping)
        check_error(
            await anonymous.get("/readyz"),
            503,
            {"message": "Not ready.", "detail": "The store does not answer."},
        )
        assert (await anonymous.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:6080", 200),
        ("[::1]:6080", 200),
        ("10.1.2.3", 200),
        ("localhost:6080", 200),
        ("desk.example", 200),
        ("DESK.example:443", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("[nonsense", 421),
    ],
)
async def test_host(nursery: trio.Nursery, host: str, status: int) -> None:
    server = await start_web(nursery, public_url="https://desk.example")
    response = await server.client.get("/healthz", headers={"Host": host})
    await server.aclose()
    assert response.status_code == status
    if status == 421:
        assert response.json()["message"] == "This server does not answer for that host."
        assert host not in response.text


async def test_header_limits(server: Web) -> None:
    for headers in (
        [(f"x-{number}", "") for number in range(100)],
        [("x-long", "x" * 16_384)],
    ):
        response = await server.client.get("/healthz", headers=headers)
        assert (response.status_code, response.json()["message"]) == (
            431,
            "Request headers are too large.",
        )


async def test_query_limit(server: Web) -> None:
    response = await server.client.get("/api/v2/chats?" + "&".join(["limit=3"] * 100))
    assert response.status_code == 200
    for path in ("/healthz", "/api/v2/chats"):
        for query in ("&" * 100, "a=b&" * 2_000):
            response = await server.client.get(f"{path}?{query}")
            detail = "A query has 100 at the most."
            check_error(response, 400, {"message": "Too many query parameters.", "detail": detail})


@pytest.mark.parametrize("name", ["Origin", "Cookie", "Authorization", "Coder-Session-Token"])
async def test_two_of_what_there_is_one_of(server: Web, name: str) -> None:
    async with server.without_token() as client:
        response = await client.get("/healthz", headers=[(name, "a"), (name, "a")])
    check_error(
        response, 400, {"message": "Ambiguous request.", "detail": f"Two {name.lower()} headers."}
    )
    assert response.headers["connection"] == "close"


async def test_upgrade_at_an_unknown_route(server: Web) -> None:
    response = await server.client.get("/api/v2/nope", headers=UPGRADE)
    check_error(response, 404, {"message": "Route not found."})


async def test_access_line_tells_no_secret(server: Web, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    code = await server.store.create_link(server.alice.id, "/")
    with capture_logs() as lines:
        async with server.without_token() as client:
            response = await client.get(f"{CHATS}?archived=true&coder_session_token={server.token}")
            assert response.status_code == 200
            confirmed = await client.post(f"/open/{code}", headers={"Origin": server.url})
            assert confirmed.status_code == 303
            await client.get("/%1b[31m%0a" + "x" * 300)
    assert [(line["path"][:20], line["status"]) for line in lines] == [
        (CHATS, 200),
        ("/open/...", 303),
        ("/%1b[31m%0axxxxxxxxx", 404),
    ]
    records = [record for record in caplog.records if not record.name.startswith("http")]  # httpx's
    everything = " ".join([str(lines), *(str(record.__dict__) for record in records)])
    assert server.token not in everything
    assert server.token[11:] not in everything
    assert code not in everything
    assert "x" * 250 not in everything


async def test_a_bug_is_logged_and_answered(server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    async def chats(*_: object, **__: object) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(server.store, "chats_page", chats)
    with capture_logs() as lines:
        response = await server.client.get(CHATS)
    check_error(
        response,
        500,
        {
            "message": "An internal error occurred. Please try again or contact the system "
            "administrator."
        },
    )
    assert lines[0]["exc_info"] is True
    assert lines[0]["path"] == CHATS
