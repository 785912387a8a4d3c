"""MCP over streamable HTTP: the official client, the command as a process, and who is let in."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import trio

from relay.desktops import RunningDesktop
from tests.labs.desktop_processes import desktops_home, living, needs_xvnc, runs, until
from tests.labs.mcp_clients import (
    ACCEPT,
    HELLO,
    NONSENSE,
    STOP_S,
    over_http,
    pictures,
    serving,
    texts,
)
from tests.labs.xvnc import HEIGHT, WIDTH, Window, window, xvnc

__all__ = ["desktops_home", "window", "xvnc"]

# How HTTP clients leave streams, which Trio warns of and asyncio does not.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Async generator '(httpx2?|httpcore2?)[.].*was garbage collected:ResourceWarning"
)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_sees_the_desktop(mode: str, desktops_home: Path, tmp_path: Path) -> None:
    async with (
        serving("pattern", tmp_path) as served,
        over_http(served.url, mode=mode, token=served.token) as client,
    ):
        # The newer revision has no sessions over HTTP, so its clients take an older one.
        assert client.protocol_version == "2025-11-25"
        assert len((await client.list_tools()).tools) == 17
        result = await client.call_tool("screenshot", {})
        assert [picture.size for picture in pictures(result)] == [(1280, 800)]
        result = await client.call_tool("left_click", {"coordinate": [10, 20]})
        assert (texts(result), len(pictures(result))) == (["OK"], 1)
        result = await client.call_tool("left_click", {"coordinate": [1280, 20]})
        assert result.is_error
        assert texts(result)[0].startswith("coordinate [1280, 20] is out of bounds: ")


@needs_xvnc
async def test_two_sessions_at_once(
    xvnc: RunningDesktop, window: Window, desktops_home: Path, tmp_path: Path
) -> None:
    """Each has its own pointer, and the end of one lets go of what that one held."""
    async with (
        serving(str(xvnc.address), tmp_path) as served,
        over_http(served.url, token=served.token) as first,
    ):
        async with over_http(served.url, token=served.token) as second:
            for client in (first, second):
                (picture,) = pictures(await client.call_tool("screenshot", {}))
                assert picture.size == (WIDTH, HEIGHT)
            await first.call_tool("left_click", {"coordinate": [10, 20]})
            await second.call_tool("mouse_move", {"coordinate": [30, 40]})
            await second.call_tool("left_mouse_down", {})
            await window.hears("down 1 10 20", "up 1 10 20", "down 1 30 40")
        await window.hears("down 1 10 20", "up 1 10 20", "down 1 30 40", "up 1 30 40")
        await first.call_tool("type", {"text": "a"})
        await until(lambda: window.heard[-2:] == ["press 0x61", "release 0x61"])


@needs_xvnc
async def test_a_cancelled_call_lets_go_of_its_keys(
    xvnc: RunningDesktop, window: Window, tmp_path: Path
) -> None:
    async with (
        serving(str(xvnc.address), tmp_path) as served,
        over_http(served.url, token=served.token) as client,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call_tool, "hold_key", {"text": "a", "duration": 200})
            await until(lambda: window.heard == ["press 0x61"])
            nursery.cancel_scope.cancel()
        await window.hears("press 0x61", "release 0x61")
        assert not (await client.call_tool("screenshot", {})).is_error


@needs_xvnc
async def test_a_client_that_vanishes_holds_nothing(
    xvnc: RunningDesktop, window: Window, tmp_path: Path
) -> None:
    """In the middle of an action, and between two."""
    async with serving(str(xvnc.address), tmp_path) as served:
        with trio.CancelScope() as vanished:
            async with over_http(served.url, token=served.token, says_goodbye=False) as client:
                await client.call_tool("mouse_move", {"coordinate": [5, 6]})
                await client.call_tool("left_mouse_down", {})
                await window.hears("down 1 5 6")
                vanished.cancel()
                await trio.lowlevel.checkpoint()
        await window.hears("down 1 5 6", "up 1 5 6")

        message = {"name": "hold_key", "arguments": {"text": "a", "duration": 200}}
        async with httpx.AsyncClient(headers=served.headers) as http:
            answer = await http.post(served.url, json=HELLO)
            session = {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"]}
            call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": message}
            initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            await http.post(served.url, json=initialized, headers=session)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: http.post(served.url, json=call, headers=session))
                await until(lambda: window.heard[-1] == "press 0x61")
                nursery.cancel_scope.cancel()
            await until(lambda: window.heard[-1] == "release 0x61")
            # The action is over, not only its key: calls wait for each other.
            call["params"] = {"name": "wait", "arguments": {"duration": 0}}
            answer = await http.post(served.url, json=call | {"id": 3}, headers=session)
            assert "OK" in answer.text


@needs_xvnc
async def test_sigterm_ends_it_and_its_xvnc(desktops_home: Path, tmp_path: Path) -> None:
    async with (
        serving("xvnc", tmp_path) as served,
        httpx.AsyncClient(headers=served.headers) as http,
    ):
        answer = await http.post(served.url, json=HELLO)
        session = {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"]}
        params = {"name": "wait", "arguments": {"duration": 200}}
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: http.post(served.url, json=call, headers=session))
            # Its listening stream is open too.
            stream = http.stream("GET", served.url, headers=session, timeout=30)
            async with stream as listening:
                assert listening.status_code == 200
                await until(lambda: runs(desktops_home, "Xvnc"))
                assert await served.end() < STOP_S
            nursery.cancel_scope.cancel()
    assert not living(desktops_home)


async def asked(url: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.post(url, json=HELLO, headers=ACCEPT | headers)


async def test_other_hosts_and_pages_are_refused(desktops_home: Path, tmp_path: Path) -> None:
    async with serving("pattern", tmp_path, "--no-token") as served:
        port = httpx.URL(served.url).port
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
            assert (await asked(served.url, Host=host)).status_code == 200
        for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}"):
            assert (await asked(served.url, Host=host)).status_code == 421
        own = f"http://localhost:{port}"
        assert (await asked(served.url, Origin=own)).status_code == 200
        for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
            assert (await asked(served.url, Origin=origin)).status_code == 403


async def test_no_answer_is_kept(desktops_home: Path, tmp_path: Path) -> None:
    async with serving("pattern", tmp_path) as served, httpx.AsyncClient(trust_env=False) as client:
        for path, headers in (("", ACCEPT | {"Host": "evil.example"}), ("/nope", {})):
            answer = await client.post(served.url + path, json=HELLO, headers=headers)
            assert answer.status_code >= 400
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["referrer-policy"] == "no-referrer"


async def test_over_ipv6(desktops_home: Path, tmp_path: Path) -> None:
    async with serving("pattern", tmp_path, "--no-token", bind="[::1]:0") as served:
        assert served.url.startswith("http://[::1]:")
        assert (await asked(served.url)).status_code == 200
        assert (await asked(served.url, Host="evil.example")).status_code == 421


async def test_with_a_token_nobody_else_is_let_in(desktops_home: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame\nand a remark\n")
    token = ("--token-file", str(tmp_path / "token"))
    async with serving("pattern", tmp_path, *token) as served:
        async with over_http(served.url, token="sesame") as client:
            assert len(pictures(await client.call_tool("screenshot", {}))) == 1
        wrong = [
            "",
            "sesame",
            "Bearer",
            "Bearer sesam",
            "Bearer sesame2",
            "Basic sesame",
        ]
        for value in wrong:
            answer = await asked(served.url, Authorization=value)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert (await asked(served.url)).status_code == 401
        assert (await asked(served.url, Authorization="bearer sesame")).status_code == 200
        # Nor is one let in by the session of another.
        async with httpx.AsyncClient() as http:
            headers = ACCEPT | {"Mcp-Session-Id": "0" * 32}
            assert (await http.get(served.url, headers=headers)).status_code == 401
        assert "sesam" not in served.log.read_text()


async def test_who_guesses_at_the_token_is_made_to_wait(
    desktops_home: Path, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("sesame")
    token = ("--token-file", str(tmp_path / "token"))
    async with serving("pattern", tmp_path, *token) as served:
        for number in range(10):
            answer = await asked(served.url, Authorization=f"Bearer {number}")
            assert answer.status_code == 401
        answer = await asked(served.url, Authorization="Bearer sesame")
        assert (answer.status_code, answer.json()["message"]) == (429, "Too many failed log-ins.")
        assert 0 < int(answer.headers["retry-after"]) <= 60
        elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(transport=elsewhere, headers=ACCEPT) as http:
            body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            good = {"Authorization": "Bearer sesame"}
            assert (await http.post(served.url, json=body, headers=good)).status_code != 429


async def test_a_token_is_made_where_none_is_set(desktops_home: Path, tmp_path: Path) -> None:
    """On a loopback address too: every user of the machine reaches it."""
    tokens = set()
    for _ in range(2):
        async with serving("pattern", tmp_path) as served:
            assert served.token is not None
            tokens.add(served.token)
            assert len(served.token) >= 43
            assert (await asked(served.url)).status_code == 401
            assert (await asked(served.url, Authorization="Bearer guessed")).status_code == 401
            known = {"Authorization": f"Bearer {served.token}"}
            assert (await asked(served.url, **known)).status_code == 200
            for origin in ("https://evil.example", "null", "http://localhost:1"):
                assert (await asked(served.url, **known, Origin=origin)).status_code == 403
            own = served.url.removesuffix("/mcp")
            assert (await asked(served.url, **known, Origin=own)).status_code == 200
            assert served.log.read_text().count(served.token) == 1
    assert len(tokens) == 2


async def test_at_any_address_with_a_token(desktops_home: Path, tmp_path: Path) -> None:
    """What the machine is called there is not known, and a page does not know the token."""
    (tmp_path / "token").write_text("sesame")
    token = ("--token-file", str(tmp_path / "token"))
    async with serving("pattern", tmp_path, *token, bind="0.0.0.0:0") as served:
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        assert (await asked(url, Host="desk.example")).status_code == 401
        known = {"Host": "desk.example", "Authorization": "Bearer sesame"}
        assert (await asked(url, **known)).status_code == 200
        assert (await asked(url, **known, Origin="https://desk.example")).status_code == 200
        assert (await asked(url, **known, Origin="https://evil.example")).status_code == 403


async def test_nonsense_is_refused_and_in_no_log(desktops_home: Path, tmp_path: Path) -> None:
    async with (
        serving("pattern", tmp_path) as served,
        httpx.AsyncClient(headers=served.headers) as http,
    ):
        answer = await http.post(served.url, json=HELLO)
        session = {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"]}
        json_ = {"Content-Type": "application/json", **session}
        # Several messages at once are of a revision that has gone.
        for body in (*NONSENSE[:7], b"[%s]" % json.dumps(HELLO).encode(), *NONSENSE[-2:]):
            answer = await http.post(served.url, content=body, headers=json_)
            assert (answer.status_code, answer.json()["id"]) == (400, None)
        for headers, status in (
            ({"Content-Type": "text/plain"}, 400),
            ({"Accept": "text/html"}, 406),
            ({"Mcp-Session-Id": "nobody's"}, 404),
            ({"Mcp-Protocol-Version": "1999-01-01"}, 400),
        ):
            answer = await http.post(served.url, json=HELLO, headers=session | headers)
            assert answer.status_code == status
        call = {
            "jsonrpc": "2.0",
            "id": 5,
            "method": "tools/call",
            "params": {"name": "wait", "arguments": {"duration": 0}},
        }
        answer = await http.post(served.url, json=call, headers=session)
        assert '"isError":false' in answer.text
        log = served.log.read_text()
        assert "hunter2" not in log
        assert session["Mcp-Session-Id"] not in log


async def test_bounds_and_other_addresses(desktops_home: Path, tmp_path: Path) -> None:
    async with (
        serving("pattern", tmp_path) as served,
        httpx.AsyncClient(headers=served.headers) as http,
    ):
        large = HELLO | {"padding": "x" * (1 << 20)}
        # What follows an answer before the end of a body comes too late on that connection.
        async with httpx.AsyncClient(headers=served.headers) as once:
            assert (await once.post(served.url, json=large)).status_code == 413
        other = served.url.removesuffix("mcp")
        for path in ("", "mcp/", "mcp/x", "api/v2/chats"):
            assert (await http.post(other + path, json=HELLO)).status_code == 404
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        assert (await http.get(served.url, headers=upgrade)).status_code == 404
        answer = await http.post(served.url, json=HELLO)
        session = {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"]}
        assert (await http.delete(served.url, headers=session)).status_code == 200
        assert (await http.post(served.url, json=HELLO, headers=session)).status_code == 404
        assert session["Mcp-Session-Id"] not in served.log.read_text()
