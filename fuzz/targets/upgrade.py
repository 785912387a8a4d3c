"""Nothing escapes; the order of headers makes no difference; Hypercorn takes what is approved.

Upgrade requests (RFC 6455, Section 4.2.1), as h11 hands them over.
"""

from __future__ import annotations

import base64

from hypercorn.protocol.ws_stream import Handshake

from api.http.http1 import for_hypercorn
from api.http.upgrade import upgrade_problem
from fuzz.conversations import damaged
from fuzz.data import Data

Header = tuple[bytes, bytes]

_METHODS = ("GET", "GET", "GET", "GET", "POST", "get", "")
_VERSIONS = ("1.1", "1.1", "1.1", "1.1", "1.0", "2", "9.9", "")
_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, Section 1.3
_USUAL: tuple[tuple[bytes, tuple[bytes, ...]], ...] = (
    (b"upgrade", (b"websocket", b"WebSocket", b"websocket", b"h2c", b"websocket, h2c", b"")),
    (
        b"connection",
        (b"Upgrade", b"keep-alive, Upgrade", b"upgrade", b"close", b"Upgrade\xc5\xbf", b",,"),
    ),
    (b"sec-websocket-version", (b"13", b"13", b"13", b"13", b"8", b"13, 8", b"")),
    (
        b"sec-websocket-key",
        (_KEY, _KEY, _KEY, _KEY[:-1], _KEY + b"=", b"dGhl IHNhbXBsZSBub25jZQ==", b"\xff"),
    ),
)
_OTHERS: tuple[Header, ...] = (
    (b"content-length", b"0"),
    (b"content-length", b"5"),
    (b"transfer-encoding", b"chunked"),
    (b"host", b"desktop"),
    (b"connection", b"keep-alive"),
    (b"connection", b"upgrade"),
    (b"origin", b"https://desktop"),
    (b"sec-websocket-key", _KEY),
    (b"sec-websocket-version", b"13"),
    (b"upgrade", b"websocket"),
)


def _headers(data: Data) -> list[Header]:
    headers = []
    for name, values in _USUAL:
        choice = data.byte()
        if choice < 200:
            headers.append((name, values[0]))
        elif choice < 250:
            headers.append((name, damaged(data, data.pick(values))))
    if data.one_in(4):
        headers.append((b"sec-websocket-key", base64.b64encode(data.take(data.about(16) % 64))))
    for _ in range(data.byte() % 4):
        choice = data.byte()
        if choice < 8:
            headers.append((data.take(choice).lower(), data.take(data.byte() % 32)))
        elif choice < 80:
            headers.append(data.pick(_OTHERS))
    return headers


def run(data: bytes) -> None:
    choices = Data(data)
    method, version = choices.pick(_METHODS), choices.pick(_VERSIONS)
    headers = _headers(choices)
    story = (method, version, headers)
    problem = upgrade_problem(method, version, headers)
    status = problem and problem.status
    assert status in (None, 400, 405, 426), (story, status)
    shuffled = sorted(headers, key=lambda _: choices.byte())
    other = upgrade_problem(method, version, shuffled)
    assert (other and other.status) == status, (story, shuffled)
    # A proxy in between may believe in an upgrade that failed.
    assert problem is None or "close" in problem.headers["Connection"], story
    if problem is None:
        names = [name for name, _ in headers]
        assert (method, version) == ("GET", "1.1"), story
        assert b"transfer-encoding" not in names, story
        assert names.count(b"sec-websocket-key") == names.count(b"upgrade") == 1, story
        handshake = Handshake(for_hypercorn(headers), version)
        assert handshake.is_valid(), story
        assert handshake.accept(None, [])[0] == 101, story
