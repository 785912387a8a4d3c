"""The pages: their headers and files, and the one-time link."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI

from api.budgets import Budgets, BudgetSettings
from api.routes import page
from relay import CloseCode

TOKEN = "abcdefghij-abcdefghijklmnopqrstuv"


class OneLink:
    """A store with one link in it, which can be redeemed once."""

    def __init__(self) -> None:
        self.links = {"good": (TOKEN, "/chats/the-chat")}

    async def redeem_link(self, code: str) -> tuple[str, str] | None:
        return self.links.pop(code, None)


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    app.state.services = SimpleNamespace(store=OneLink(), budgets=Budgets(BudgetSettings()))
    app.include_router(page.router)
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://relay.example") as client:
        yield client


async def test_link_sets_the_cookie_and_leaves_no_trace(client: httpx.AsyncClient) -> None:
    response = await client.get("/open/good")
    assert (response.status_code, response.headers["location"]) == (303, "/chats/the-chat")
    cookie, *attributes = response.headers["set-cookie"].split("; ")
    assert cookie == f"coder_session_token={TOKEN}"
    assert {a.lower() for a in attributes} == {"httponly", "samesite=lax", "path=/"}
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert TOKEN not in response.text


async def test_cookie_is_secure_over_https(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://relay.example") as client:
        response = await client.get("/open/good")
    assert "secure" in response.headers["set-cookie"].lower().split("; ")


async def test_link_works_once(client: httpx.AsyncClient) -> None:
    await client.get("/open/good")
    again = await client.get("/open/good")
    assert again.status_code == 410
    assert "was used before" in again.text
    assert "set-cookie" not in again.headers
    assert again.headers["cache-control"] == "no-store"


async def test_who_tries_codes_is_made_to_wait(client: httpx.AsyncClient) -> None:
    statuses = [(await client.get(f"/open/{number}")).status_code for number in range(10)]
    assert statuses == [410] * 10
    response = await client.get("/open/good")
    assert (response.status_code, response.headers["retry-after"]) == (429, "60")
    assert "Too many links" in response.text
    assert response.headers["cache-control"] == "no-store"
    # Others are not asked to, and the code was not spent.
    transport = httpx.ASGITransport(client._transport.app, client=("192.0.2.1", 1))  # type: ignore[attr-defined]
    async with httpx.AsyncClient(transport=transport, base_url="http://relay.example") as other:
        assert (await other.get("/open/good")).status_code == 303


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", {}),
        ("GET", {"Sec-Purpose": "prefetch;prerender"}),
        ("GET", {"Purpose": "prefetch"}),
    ],
)
async def test_looking_ahead_does_not_use_the_link_up(
    client: httpx.AsyncClient, method: str, headers: dict[str, str]
) -> None:
    ahead = await client.request(method, "/open/good", headers=headers)
    assert ahead.status_code == 503
    assert "set-cookie" not in ahead.headers
    assert (await client.get("/open/good")).status_code == 303


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
    assert not re.search(r"(src|href)=\"(?!/viewer/)", text), "only files of our own"


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
        for path in re.findall(r"(?:src|href)=\"([^\"]+)\"", name.read_text(encoding="utf-8")):
            assert (await client.get(path)).status_code == 200, path


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
    url = httpx.URL("http://relay.example").copy_with(raw_path=path.encode())
    assert (await client.get(url)).status_code == 404


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
    assert "make setup" in response.text


async def test_notices_are_text() -> None:
    response = page._notice("<b>", "&<script>", 410)
    assert b"<script>" not in bytes(response.body)
    assert b"&amp;&lt;script&gt;" in bytes(response.body)
