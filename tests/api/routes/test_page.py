"""The pages: their headers and files, and the one-time link."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
import trio

from api.routes import page
from api.store import StoreError
from relay import CloseCode
from tests.labs.web import Web, start_web


@pytest.fixture
async def server(nursery: trio.Nursery) -> AsyncIterator[Web]:
    server = await start_web(nursery)
    yield server
    await server.aclose()


@pytest.fixture
async def client(server: Web) -> AsyncIterator[httpx.AsyncClient]:
    async with server.without_token() as client:
        yield client


async def link(server: Web) -> str:
    return f"/open/{await server.store.create_link(server.alice.id, '/chats/the-chat')}"


def written(server: Web) -> object:
    """What changes whenever anything is written."""
    return server.store.database.changes


async def test_a_link_asks_and_its_button_signs_in(server: Web, client: httpx.AsyncClient) -> None:
    path = await link(server)
    before = written(server)
    question = await client.get(path)
    assert (question.status_code, written(server)) == (200, before)
    assert "<h1>Sign in as alice</h1>" in question.text
    assert "signed in as" not in question.text.replace("Sign in as", "")
    assert re.search(r'<form[^>]* method="post">', question.text), "to the address it is at"
    assert "set-cookie" not in question.headers
    assert question.headers["cache-control"] == "no-store"
    # With no-referrer browsers would send the form with the Origin "null".
    assert question.headers.get_list("referrer-policy") == ["strict-origin"]
    assert "form-action 'self'" in question.headers["content-security-policy"]

    response = await client.post(path, headers={"Origin": server.url})
    assert (response.status_code, response.headers["location"]) == (303, "/chats/the-chat")
    cookie, *attributes = response.headers["set-cookie"].split("; ")
    name, _, token = cookie.partition("=")
    assert name == "coder_session_token"
    assert {a.lower() for a in attributes} == {"httponly", "samesite=lax", "path=/"}
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert token not in response.text
    assert (await client.get("/api/v2/chats")).status_code == 200


async def test_a_link_works_once(server: Web, client: httpx.AsyncClient) -> None:
    path = await link(server)
    assert (await client.post(path, headers={"Origin": server.url})).status_code == 303
    for method in ("GET", "POST"):
        again = await client.request(method, path, headers={"Origin": server.url})
        assert again.status_code == 410
        assert "was used before" in again.text
        assert "set-cookie" not in again.headers
        assert again.headers["cache-control"] == "no-store"


async def test_a_link_that_is_late_or_none_signs_nobody_in(
    server: Web, client: httpx.AsyncClient
) -> None:
    late = await link(server)
    server.clock.advance(seconds=600)
    for path in (late, "/open/bad", "/open/%00", "/open/" + "x" * 5000):
        for method in ("GET", "POST"):
            answer = await client.request(method, path, headers={"Origin": server.url})
            assert (answer.status_code, "alice" in answer.text) == (410, False)


async def test_who_tries_codes_is_made_to_wait(server: Web, client: httpx.AsyncClient) -> None:
    path = await link(server)
    own = {"Origin": server.url}
    for number in range(10):
        method = "POST" if number % 2 else "GET"
        assert (await client.request(method, f"/open/{number}", headers=own)).status_code == 410
    for method in ("GET", "POST"):
        response = await client.request(method, path, headers=own)
        assert (response.status_code, response.headers["retry-after"]) == (429, "60")
        assert "Too many links" in response.text
        assert response.headers["cache-control"] == "no-store"
    # Others are not asked to, and the code was not spent.
    elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(transport=elsewhere, base_url=server.url) as other:
        assert (await other.post(path, headers=own)).status_code == 303


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {}),
        ("HEAD", {}),
        ("GET", {"Sec-Purpose": "prefetch;prerender"}),
        ("GET", {"Purpose": "prefetch"}),
        ("OPTIONS", {}),
        ("PUT", {"Origin": "{url}"}),
        ("POST", {}),
        ("POST", {"Origin": "http://evil.example"}),
        ("POST", {"Origin": "null", "Sec-Fetch-Site": "same-origin"}),
        ("POST", {"Sec-Fetch-Site": "cross-site"}),
        ("POST", {"Sec-Fetch-Site": "same-site"}),
        ("POST", {"Sec-Fetch-Site": "none"}),
        ("POST", {"Origin": "https://friend.example"}),
    ],
)
async def test_nothing_but_the_pages_button_uses_a_link_up(
    nursery: trio.Nursery, method: str, headers: dict[str, str]
) -> None:
    server = await start_web(nursery, allowed_origins=["https://friend.example"])
    path = await link(server)
    before = written(server)
    sent = {name: value.format(url=server.url) for name, value in headers.items()}
    async with server.without_token() as client:
        other = await client.request(method, path, headers=sent)
        assert other.status_code == {"POST": 403, "PUT": 405, "OPTIONS": 405}.get(method, 200)
        assert "set-cookie" not in other.headers
        assert written(server) == before
        answer = await client.post(path, headers={"Sec-Fetch-Site": "same-origin"})
        assert answer.status_code == 303
    await server.aclose()


async def test_a_browser_that_is_signed_in_is_told_that_this_ends(
    server: Web, client: httpx.AsyncClient
) -> None:
    old = await server.store.create_token(server.bob.id)
    client.headers["Cookie"] = f"coder_session_token={old}"
    server.clock.advance(hours=2)  # a use would be written
    path, before = await link(server), written(server)
    question = await client.get(path)
    assert "<h1>Sign in as alice</h1>" in question.text
    assert "This browser is signed in as bob" in question.text
    assert written(server) == before
    assert await server.store.token(old[:10]) is not None
    assert (await client.post(path, headers={"Origin": server.url})).status_code == 303
    assert await server.store.token(old[:10]) is None, "nobody has it any more"


@pytest.mark.parametrize(
    "cookie",
    [b"nonsense", b"x" * 5000, b"abcdefghij-abcdefghijklmnopqrstuv", b"\xe9" * 10 + b"-" * 23],
)
async def test_a_bad_cookie_is_no_reason_not_to_sign_in(
    server: Web, client: httpx.AsyncClient, cookie: bytes
) -> None:
    path = await link(server)
    headers = [(b"Cookie", b"coder_session_token=" + cookie), (b"Origin", server.url.encode())]
    assert "is signed in as" not in (await client.get(path, headers=headers)).text
    assert (await client.post(path, headers=headers)).status_code == 303


async def test_a_suspended_users_link_is_refused_and_not_spent(
    server: Web, client: httpx.AsyncClient
) -> None:
    path = await link(server)
    await server.store.set_user_status(server.alice.id, "suspended")
    before = written(server)
    for method in ("GET", "POST"):
        answer = await client.request(method, path, headers={"Origin": server.url})
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
        assert "This user is suspended" in answer.text
    assert written(server) == before
    await server.store.set_user_status(server.alice.id, "active")
    assert (await client.post(path, headers={"Origin": server.url})).status_code == 303


async def test_names_are_text(server: Web, client: httpx.AsyncClient) -> None:
    user = await server.store.ensure_user("<script>$user & co")
    code = await server.store.create_link(user.id, "/")
    text = (await client.get(f"/open/{code}")).text
    assert "<h1>Sign in as &lt;script&gt;$user &amp; co</h1>" in text
    client.headers["Cookie"] = f"coder_session_token={await server.store.create_token(user.id)}"
    text = (await client.get(await link(server))).text
    assert "signed in as &lt;script&gt;$user &amp; co;" in text


async def test_a_store_that_fails_spends_nothing(
    server: Web, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await link(server)

    async def gone(*_: object, **__: object) -> None:
        raise StoreError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(server.store, "redeem_link", gone)
        answer = await client.post(path, headers={"Origin": server.url})
        assert (answer.status_code, "The server had a problem" in answer.text) == (500, True)
        broken.setattr(server.store, "link_user", gone)
        assert (await client.get(path)).status_code == 500
    assert (await client.post(path, headers={"Origin": server.url})).status_code == 303


@pytest.mark.parametrize("path", ["/", "/chats/x", "/open/bad", "/viewer/viewer.js"])
async def test_every_answer_carries_the_policy(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    policy = dict(
        part.strip().split(" ", 1)
        for part in response.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'self'"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", sorted(p.name for p in page.VIEWER.glob("*.html")))
def test_pages_have_nothing_the_policy_forbids(name: str) -> None:
    text = (page.VIEWER / name).read_text(encoding="utf-8")
    assert not re.search(r"\sstyle=|<style|\son[a-z]+=|javascript:", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"(src|href)=\"(?!(\.\./)?viewer/)", text), "only files of our own"
    assert " action=" not in text


@pytest.mark.parametrize("name", sorted(p.name for p in page.VIEWER.glob("*.js")))
def test_scripts_never_write_markup_nor_read_the_query(name: str) -> None:
    text = (page.VIEWER / name).read_text(encoding="utf-8")
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "location.search",
        "location.hash",
        "location.href",
        "eval(",
    ):
        assert forbidden not in text


@pytest.mark.parametrize(
    ("path", "types"),
    [
        ("viewer.js", {"text/javascript", "application/javascript"}),
        ("style.css", {"text/css"}),
        ("icon.svg", {"image/svg+xml"}),
    ],
)
async def test_files_have_their_types_and_are_not_sent_twice(
    client: httpx.AsyncClient, path: str, types: set[str]
) -> None:
    first = await client.get(f"/viewer/{path}")
    assert first.status_code == 200
    assert first.headers["content-type"].split(";")[0] in types
    assert first.headers["cache-control"] == "no-cache"
    again = await client.get(f"/viewer/{path}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_every_file_a_page_names_is_there(client: httpx.AsyncClient) -> None:
    for name in page.VIEWER.glob("*.html"):
        at = {"home.html": "/"}.get(name.name, "/chats/x")
        for path in re.findall(r"(?:src|href)=\"([^\"]+)\"", name.read_text(encoding="utf-8")):
            # Relative, as a proxy may have put the server under a path.
            assert not path.startswith("/")
            assert (await client.get(urljoin(at, path))).status_code == 200, path


@pytest.mark.parametrize(
    "path",
    [
        "/viewer/../page.py",
        "/viewer/%2e%2e/page.py",
        "/viewer/..%2fpage.py",
        "/viewer/novnc/..%2f..%2fpage.py",
        "/viewer//etc/passwd",
        "/viewer/%2fetc/passwd",
        "/viewer/..%5cpage.py",
        "/viewer/viewer.js%00",
        "/viewer/",
    ],
)
async def test_nothing_outside_the_folder_is_served(client: httpx.AsyncClient, path: str) -> None:
    # The URL as it stands: httpx would tidy the dots away.
    url = client.base_url.copy_with(raw_path=path.encode())
    assert (await client.get(url)).status_code == 404


async def test_a_long_path_is_not_looked_for(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked_for(path: str) -> tuple[str, None]:
        raise AssertionError("each of its directories takes a moment")

    monkeypatch.setattr(page._files, "lookup_path", looked_for)
    response = await client.get("/viewer/" + "a/" * 3_000)
    assert response.status_code == 404
    assert response.json()["message"] == "Route not found."


def test_every_close_code_has_its_words() -> None:
    text = (page.VIEWER / "endings.js").read_text(encoding="utf-8")
    explained = {int(code) for code in re.findall(r"^  \[(\d{4}), \{ title: ", text, re.MULTILINE)}
    assert explained >= set(CloseCode)


async def test_missing_novnc_is_said_in_words(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page, "NOVNC", tmp_path / "rfb.js")
    response = await client.get("/chats/x")
    assert response.status_code == 503
    assert "make novnc" in response.text


async def test_notices_are_text() -> None:
    response = page._notice("<b>", "&<script>", 410)
    assert b"<script>" not in bytes(response.body)
    assert b"&amp;&lt;script&gt;" in bytes(response.body)
