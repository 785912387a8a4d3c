"""What is the server's own, with a `public_url` and without, whatever a proxy forwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import pytest
import trio
from starlette.requests import HTTPConnection
from structlog.testing import capture_logs

from api.http.site import Site, own_origin, same_origin
from api.settings import Settings
from tests.labs.web import UPGRADE, Web, start_web

DESK = "https://desk.example"
FORGED = {
    "X-Forwarded-Host": "desk.example",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=10.9.8.7;host=desk.example;proto=http",
}

Start = Callable[..., Coroutine[Any, Any, Web]]


@pytest.fixture
async def start(nursery: trio.Nursery) -> AsyncIterator[Start]:
    servers: list[Web] = []

    async def start(**settings: Any) -> Web:
        servers.append(await start_web(nursery, **settings))
        return servers[-1]

    yield start
    for server in servers:
        await server.aclose()


async def redeem(server: Web, **headers: str) -> httpx.Response:
    code = await server.store.create_link(server.alice.id, "/chats/x")
    async with server.without_token(**headers) as browser:
        return await browser.post(f"/open/{code}")


def cookie(response: httpx.Response) -> tuple[str, set[str]]:
    name, *attributes = response.headers["set-cookie"].split("; ")
    return name.partition("=")[0], {attribute.lower() for attribute in attributes}


# What proxies tell


@pytest.mark.parametrize("public_url", [DESK, None])
@pytest.mark.parametrize("hops", [0, 1])
async def test_a_forwarded_host_opens_nothing(
    start: Start, public_url: str | None, hops: int
) -> None:
    server = await start(trusted_proxy_hops=hops, public_url=public_url, allowed_origins=[DESK])
    headers = FORGED | {"Host": "evil.example"}
    for path in ("/healthz", "/api/v2/chats"):
        assert (await server.client.get(path, headers=headers)).status_code == 421
        assert (await server.client.get(path, headers=headers | UPGRADE)).status_code == 421


@pytest.mark.parametrize("hops", [0, 1])
async def test_under_https_a_cookie_is_secure_whatever_is_forwarded(
    start: Start, hops: int
) -> None:
    server = await start(trusted_proxy_hops=hops, public_url=DESK)
    for forged in ({}, FORGED, {"X-Forwarded-Proto": "https"}):
        response = await redeem(server, Host="desk.example", Origin=DESK, **forged)
        assert (response.status_code, response.headers["location"]) == (303, "/chats/x")
        assert cookie(response) == (
            "__Host-coder_session_token",
            {"httponly", "samesite=lax", "secure", "path=/"},
        )


async def test_under_http_a_proxy_makes_no_cookie_secure(start: Start) -> None:
    server = await start(trusted_proxy_hops=1, public_url="http://desk.example")
    response = await redeem(
        server, Host="desk.example", Origin="http://desk.example", **{"X-Forwarded-Proto": "https"}
    )
    assert cookie(response) == (
        "coder_session_token",
        {"httponly", "samesite=lax", "path=/"},
    )


@pytest.mark.parametrize(("hops", "secure"), [(1, True), (0, False)])
async def test_without_a_public_url_a_trusted_proxy_says_the_scheme(
    start: Start, hops: int, secure: bool
) -> None:
    server = await start(trusted_proxy_hops=hops)
    told = {"X-Forwarded-Proto": "https", "Origin": server.url.replace("http:", "https:")}
    name, attributes = cookie(await redeem(server, **told))
    assert (name, "secure" in attributes) == ("coder_session_token", secure)
    # And then a page that was not encrypted is none of ours.
    plain = await redeem(server, **told | {"Origin": server.url})
    assert plain.status_code == (403 if secure else 303)
    assert (await redeem(server, **told | {"X-Forwarded-Proto": "wss\x1b"})).status_code == 303


@pytest.mark.parametrize(
    ("hops", "forwarded", "client"),
    [
        (0, ["10.9.8.7"], "127.0.0.1"),
        (1, [], "127.0.0.1"),
        (1, ["evil, 10.9.8.7"], "10.9.8.7"),
        (1, ["10.1.1.1", "10.9.8.7"], "10.9.8.7"),  # HAProxy's way
        (2, ["10.1.1.1, 10.9.8.7", "10.0.0.1"], "10.9.8.7"),
        (2, ["10.9.8.7"], "127.0.0.1"),
        (1, ["10.9.8.7:1234"], "10.9.8.7"),
        (1, ["[2001:DB8::1]:1234"], "2001:db8::1"),
        (1, ["2001:db8::1"], "2001:db8::1"),
        (1, ["::ffff:10.9.8.7"], "10.9.8.7"),
        (1, ["evil"], "127.0.0.1"),
        (1, ["10.9.8.7,"], "127.0.0.1"),
        (1, ["10.9.8.7.6"], "127.0.0.1"),
        (1, ["010.9.8.7"], "127.0.0.1"),
        (1, ["fe80::1%\t[31m"], "127.0.0.1"),
        (1, ["fe80::1%eth0"], "127.0.0.1"),
        (1, ["::" + "1" * 5000], "127.0.0.1"),
        (1, ["<script>"], "127.0.0.1"),
        (1, ["unknown"], "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_clients_address_is_an_address(
    start: Start, kind: str, hops: int, forwarded: list[str], client: str
) -> None:
    server = await start(trusted_proxy_hops=hops, public_url=DESK)
    headers = [("X-Forwarded-For", value) for value in forwarded]
    if kind == "websocket":
        headers += UPGRADE.items()
    with capture_logs() as lines:
        await server.client.get("/api/v2/chats/x/desktop", headers=headers)
    assert [line["client"] for line in lines] == [client]


# Host and Origin


@pytest.mark.parametrize(
    ("public_url", "host", "expected"),
    [
        (DESK, "desk.example", True),
        (DESK, "DESK.example:443", True),
        (DESK, "desk.example:80", False),
        (DESK, "desk.example:6080", False),
        (DESK, "me@desk.example", False),
        (DESK, "desk.example/x", False),
        (DESK, "desk.example:x", False),
        (DESK, "desk.example.evil.example", False),
        (f"{DESK}:8443/desk", "desk.example:8443", True),
        (f"{DESK}:8443/desk", "desk.example", True),  # nginx's $host
        (f"{DESK}:8443/desk", "desk.example:443", False),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://[::1]:8080", "[::1]:9", True),  # an address can't be rebound
        (DESK, "friend.example:1", True),
        (DESK, "bound.example:6080", True),
        (DESK, "localhost:6080", True),
        (DESK, "127.0.0.1/evil", False),
        (DESK, "evil@127.0.0.1", False),
        (DESK, "", True),
        (None, "desk.example", False),
        (None, "bound.example", True),
    ],
)
def test_host(public_url: str | None, host: str, expected: bool) -> None:
    site = Site.of(
        Settings(
            public_url=public_url,
            allowed_origins=["https://friend.example"],
            bind=["bound.example:6080", "unix:/run/relay.sock"],
        )
    )
    assert site.is_host(host) is expected


@pytest.mark.parametrize(
    ("public_url", "origin", "own", "same"),
    [
        (DESK, "https://desk.example", True, True),
        (DESK, "http://desk.example", False, False),
        (DESK, "https://desk.example:8443", False, False),
        (DESK, "http://10.0.0.1:6080", False, False),  # even where that is Host
        (DESK, "https://friend.example", False, True),
        (DESK, "null", False, False),
        (f"{DESK}/desk", "https://desk.example", True, True),
        (f"{DESK}/desk", "https://desk.example/desk", False, False),
        (None, "http://10.0.0.1:6080", True, True),
        (None, "https://10.0.0.1:6080", True, True),  # a proxy may have ended TLS
        (None, "ftp://10.0.0.1:6080", False, False),
        (None, "chrome-extension://10.0.0.1:6080", False, False),
    ],
)
def test_origin(public_url: str | None, origin: str, own: bool, same: bool) -> None:
    site = Site.of(Settings(public_url=public_url, allowed_origins=["https://friend.example"]))
    headers = [(b"host", b"10.0.0.1:6080"), (b"origin", origin.encode())]
    connection = HTTPConnection({"type": "http", "scheme": "http", "headers": headers})
    assert (own_origin(connection, site), same_origin(connection, site)) == (own, same)


async def test_a_plain_page_of_the_same_host_changes_nothing(start: Start) -> None:
    server = await start(public_url=DESK)
    signed_in = {"Host": "desk.example", "Cookie": f"__Host-coder_session_token={server.token}"}
    async with server.without_token(**signed_in) as browser:
        for origin, status in (("http://desk.example", 403), (DESK, 201)):
            headers = {"Origin": origin}
            answer = await browser.post("/api/v2/chats", json={}, headers=headers)
            assert answer.status_code == status
        upgrade = UPGRADE | {"Origin": "http://desk.example"}
        answer = await browser.get("/api/v2/chats/x/desktop", headers=upgrade)
        assert answer.status_code == 403


# The cookie


async def whose(server: Web, cookies: str, path: str = "/api/v2/tokens") -> str:
    """Who is signed in by cookies: a name, or what is wrong."""
    async with server.without_token() as browser:
        answer = await browser.get(path, headers=[(b"Cookie", cookies.encode("latin-1"))])
    if answer.status_code != 200:
        return str(answer.json()["detail"])
    (current,) = [token["id"] for token in answer.json() if token["current"]]
    token = await server.store.token(current)
    assert token is not None
    return token.user_name


@pytest.mark.parametrize(
    ("public_url", "name"),
    [
        (DESK, "__Host-coder_session_token"),
        (f"{DESK}/desk", "__Secure-coder_session_token"),
    ],
)
async def test_a_planted_cookie_is_not_before_the_pages(
    start: Start, public_url: str, name: str
) -> None:
    server = await start(public_url=public_url)
    mine, planted = server.token, await server.store.create_token(server.bob.id)
    own, plain = f"{name}={mine}", f"coder_session_token={planted}"
    assert await whose(server, f"{plain}; {own}") == "alice"
    assert await whose(server, f"{own}; {plain}") == "alice"
    assert await whose(server, f"{name}=; {plain}") == "bob"
    # As clients of this API send it.
    assert await whose(server, f"coder_session_token={mine}") == "alice"
    # No other prefix is looked at: any page of the domain that has TLS may set one of them.
    other = {"__Host-", "__Secure-"} - {name.removesuffix("coder_session_token")}
    assert await whose(server, f"{other.pop()}coder_session_token={planted}; {own}") == "alice"
    assert "more than one cookie" in await whose(server, f"{name}={planted}; {own}")
    # A browser keeps only names for us alone that begin with the prefix; these do not.
    for space in ("\xa0", "\x85", "\x1f"):
        assert await whose(server, f"{space}{name}={planted}; {own}") == "alice"
        assert await whose(server, f"{space}{name}={planted}") != "bob"
    # The first place that is not empty counts, also where another token is good.
    path = f"/api/v2/tokens?coder_session_token={mine}"
    assert await whose(server, f"{name}={planted}", path) == "bob"


async def test_without_https_no_prefix_counts(start: Start) -> None:
    server = await start()
    planted = await server.store.create_token(server.bob.id)
    cookies = f"__Host-coder_session_token={planted}; coder_session_token={server.token}"
    assert await whose(server, cookies) == "alice"


async def test_the_desktops_upgrade_takes_the_pages_cookie(start: Start) -> None:
    server = await start(public_url=DESK)
    headers = UPGRADE | {"Cookie": f"__Host-coder_session_token={server.token}", "Origin": DESK}
    async with server.without_token(**headers) as browser:
        answer = await browser.get("/api/v2/chats/x/desktop")
    assert answer.json()["message"] == 'Invalid UUID "chat".'


# Under a path that the proxy strips


async def test_under_a_path_everything_stays_there(start: Start) -> None:
    server = await start(public_url=f"{DESK}/desk")
    response = await redeem(server, Host="desk.example", Origin=DESK)
    assert response.headers["location"] == "/desk/chats/x"
    name, attributes = cookie(response)
    schema = (await server.client.get("/openapi.json")).json()
    assert schema["servers"] == [{"url": "/desk"}]
    assert name == "__Secure-coder_session_token"
    assert attributes == {"httponly", "samesite=lax", "secure", "path=/desk/"}


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://Desk.example:443/", "https://desk.example"),
        ("https://desk.example/desk/", "https://desk.example/desk"),
        ("HTTP://desk.example:80/a/b.c~d", "http://desk.example/a/b.c~d"),
        ("https://[2001:DB8::1]:8443/desk", "https://[2001:db8::1]:8443/desk"),
    ],
)
def test_public_url_in_its_one_form(text: str, url: str) -> None:
    assert Settings(public_url=text).public_url == url
