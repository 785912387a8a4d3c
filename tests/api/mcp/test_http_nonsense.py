"""What no MCP client sends, over HTTP: each is refused by a sentence, and the session goes on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.labs.desktop_processes import desktops_home
from tests.labs.mcp_clients import HELLO, NONSENSE, Served, serving

__all__ = ["desktops_home"]

pytestmark = pytest.mark.filterwarnings(
    "ignore:Async generator '(httpx2?|httpcore2?)[.].*was garbage collected:ResourceWarning"
)

LONG = "x" * 8000


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def call(arguments: bytes, name: bytes = b'"wait"') -> bytes:
    params = b'{"name":%s,"arguments":%s}' % (name, arguments)
    return b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%s}' % params


def ping(number: bytes, params: bytes = b"{}") -> bytes:
    return b'{"jsonrpc":"2.0","id":%s,"method":"ping","params":%s}' % (number, params)


BODIES = [
    *NONSENSE,
    b"[]",
    b"{}",
    b"NaN",
    *map(ping, (b"NaN", b"Infinity", b"9" * 5000, b"9" * 30, b"-1", b"1.5", b"null", b"true")),
    ping(b'"\\ud800"'),
    ping(b'"\\u0000\\n"'),
    ping(b'"%s"' % (b"x" * 100_000)),
    *(ping(b"1", b'{"a":%s}' % deep(levels)) for levels in (150, 197, 1000, 100_000)),
    ping(b"1", b'{"a":' * 1000 + b"1" + b"}" * 1000),
    ping(b"1", b'{"_meta":5}'),
    ping(b"1", b'{"_meta":{"progressToken":{}}}'),
    b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
    b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":5}}',
    b'{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen"}',
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":5}}',
    b'{"jsonrpc":"2.0","id":1,"error":5}',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}',
    b"[%s]" % json.dumps(HELLO).encode(),
    call(b'{"duration":NaN}'),
    call(b'{"duration":1e400}'),
    call(b'{"duration":%s}' % (b"9" * 4000)),
    call(b'{"duration":%s}' % deep(190)),
    call(b'{"coordinate":[%s,1]}' % (b"9" * 400), b'"left_click"'),
    call(b'{"coordinate":[1e308,NaN]}', b'"left_click"'),
    call(b'{"text":"\\ud800"}', b'"type"'),
    call(b"{}", b'"\\ud800"'),
    call(b"{}", b"5"),
]

HEADERS = [
    {},
    *({"Accept": value} for value in ("", "*/*", "application/json", "\xff", "," * 8000)),
    *({"Content-Type": value} for value in ("", "application/jsonx", "\xff", "a/b; charset=q")),
    *({"Mcp-Session-Id": value} for value in ("", "\xff", "a b", LONG)),
    *({"Mcp-Protocol-Version": value} for value in ("", "\xff", "2026-07-28", LONG)),
    *({"Last-Event-ID": value} for value in ("", "1", "\xff", LONG)),
    {"Origin": "\xff"},
    {"Content-Encoding": "gzip"},
]

METHODS = ("GET", "POST", "DELETE")
OTHER_METHODS = ("PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "FOO")

CUT = [
    # A body that has no end, lengths that are none, and what is no request.
    b"Content-Length: 100\r\n\r\n{",
    b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
    b"Content-Length: -1\r\n\r\n",
    b"Content-Length: 9999999999999\r\n\r\n{",
]


async def fresh(http: httpx.AsyncClient, url: str) -> dict[str, str]:
    answer = await http.post(url, json=HELLO)
    assert answer.status_code == 200
    return {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"]}


async def goes_on(http: httpx.AsyncClient, url: str, session: dict[str, str]) -> bool:
    body = call(b'{"duration":0}').replace(b'"id":1', b'"id":"goes on"')
    json_ = {"Content-Type": "application/json"}
    answer = await http.post(url, content=body, headers=session | json_)
    return '"isError":false' in answer.text


async def status_of(
    http: httpx.AsyncClient, served: Served, method: str, headers: dict[str, str], body: bytes
) -> int:
    """Of an answer that is either whole, or a stream that was begun."""
    given = httpx.Headers([(k.encode(), v.encode("latin-1")) for k, v in headers.items()])
    with trio.fail_after(30):
        async with http.stream(method, served.url, headers=given, content=body) as answer:
            is_stream = answer.headers.get("Content-Type", "").startswith("text/event-stream")
            if not (is_stream and method == "GET"):
                await answer.aread()
                if method != "HEAD" and answer.status_code >= 400:
                    assert 0 < len(answer.content) < 2_000_000
            return answer.status_code


def requests() -> Iterator[tuple[str, dict[str, str], bytes]]:
    json_ = {"Content-Type": "application/json"}
    for body in BODIES:
        yield "POST", json_, body
    for method, headers in itertools.product(METHODS, HEADERS):
        yield method, json_ | headers, ping(b"1") if method == "POST" else b""
    for method in OTHER_METHODS:
        yield method, {}, b""


async def test_nonsense_is_refused(desktops_home: Path, tmp_path: Path) -> None:
    allowed = {200, 202, 400, 403, 404, 405, 406, 415}
    async with serving("pattern", tmp_path) as served:
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(headers=served.headers, timeout=30, limits=limits) as http:
            session = await fresh(http, served.url)
            for method, headers, body in requests():
                for where in (session, {}):
                    status = await status_of(http, served, method, where | headers, body)
                    what = (method, headers, body[:80], bool(where), status)
                    assert status in allowed, what
                    if method == "DELETE" and status == 200:
                        session = await fresh(http, served.url)
                    elif where:
                        assert await goes_on(http, served.url, session), what
            no_error(served)


def no_error(served: Served) -> None:
    log = served.log.read_text()
    assert "Traceback" not in log
    assert '"level": "error"' not in log


async def test_streams_are_not_resumed(desktops_home: Path, tmp_path: Path) -> None:
    async with (
        serving("pattern", tmp_path) as served,
        httpx.AsyncClient(headers=served.headers) as http,
    ):
        session = await fresh(http, served.url)
        for method, where in itertools.product(("GET", "POST", "DELETE"), (session, {})):
            async with httpx.AsyncClient(headers=served.headers) as once:
                given: dict[str, Any] = {"json": HELLO} if method == "POST" else {}
                headers = where | {"Last-Event-ID": "1"}
                answer = await once.request(method, served.url, headers=headers, **given)
                assert answer.status_code == 400
                assert answer.json()["error"] == {
                    "code": -32600,
                    "message": "Streams are not resumed here, and no event has an id; leave "
                    "Last-Event-ID out",
                }
        assert await goes_on(http, served.url, session)


async def test_a_request_that_has_no_end(desktops_home: Path, tmp_path: Path) -> None:
    async with (
        serving("pattern", tmp_path) as served,
        httpx.AsyncClient(headers=served.headers) as http,
    ):
        session = await fresh(http, served.url)
        url = httpx.URL(served.url)
        for where, rest in itertools.product((session, {}), CUT):
            head = {
                "Host": f"{url.host}:{url.port}",
                "Content-Type": "application/json",
                **served.headers,
                **where,
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
            stream = await trio.open_tcp_stream(url.host, url.port or 0)
            async with stream:
                await stream.send_all(b"POST /mcp HTTP/1.1\r\n" + lines.encode() + rest)
                await stream.send_eof()
                answer = b""
                with trio.fail_after(30), suppress(trio.BrokenResourceError):
                    async for data in stream:
                        answer += data
                assert answer.split(b" ")[1:2] in ([], [b"400"], [b"413"]), (rest, answer)
        assert await goes_on(http, served.url, session)
        no_error(served)
