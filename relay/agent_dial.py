"""The way to a desktop by its workspace's agent: TLS, an upgrade to WebSocket, then RFB in it.

The handshake is h11's, so that a refusal's body is bounded; the frames are `relay.websocket`'s.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import ssl
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import h11
import trio

from relay import streams
from relay.errors import AgentError, AgentStep, DesktopError
from relay.passwords import Password, PasswordSource, ask
from relay.rfb import handshake
from relay.websocket_stream import WebSocketStream

__all__ = [
    "DEFAULT_PATH",
    "SCHEMES",
    "AgentAddress",
    "AgentCredentials",
    "client_tls",
    "upgraded",
]

SCHEMES: Final = ("ws", "wss")

DEFAULT_PATH: Final = "/api/v0/desktop/vnc"

TLS_TIMEOUT_S: Final = 10.0
"""For the TLS handshake."""

ANSWER_TIMEOUT_S: Final = 30.0
"""From our request to the end of the answer. Before it the agent starts its desktop, which takes an
Xvnc up to 15 s on a loaded machine."""

FRAME_BYTES: Final = 1_048_576
"""Of one message of the agent. Its content streams; this only refuses absurd announcements."""

BODY_BYTES: Final = 4_096
"""What is read of the body of an answer that is no 101: one sentence, as JSON."""

TEXT_CHARS: Final = 300
"""What is told of it."""

_HEAD_BYTES: Final = 16_384
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, Section 1.3


@dataclass(frozen=True, slots=True)
class AgentCredentials:
    """How a relay proves to agents who it is, and knows them. `secret` is the one they share;
    `tls` is for `wss`, from `client_tls`; without it the system's authorities are trusted."""

    secret: PasswordSource | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """A desktop behind a workspace's agent. `scheme` is "ws" or "wss"."""

    scheme: str
    host: str
    port: int
    path: str = DEFAULT_PATH
    credentials: AgentCredentials | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """As in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def client_tls(
    ca_file: Path | None, cert_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """TLS that trusts the authorities in `ca_file` (the system's, where there is none), and shows
    the certificate in `cert_file`, if there is one. Raises ValueError for files that are none."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if cert_file is not None:
            # Else OpenSSL would ask on the terminal for the password of an encrypted key.
            context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    except (OSError, ValueError) as error:
        names = ", ".join(str(path) for path in (ca_file, cert_file, key_file) if path)
        text = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"cannot use the certificates in {names}: {text}") from None
    return context


async def upgraded(stream: trio.abc.Stream, address: AgentAddress) -> WebSocketStream:
    """The agent's desktop, on a connection to it, which is closed if this raises. Raises
    AgentError."""
    credentials = address.credentials or AgentCredentials()
    try:
        if address.scheme == "wss":
            stream = await _encrypted(stream, address, credentials)
        with trio.fail_after(ANSWER_TIMEOUT_S):
            return await _switched(stream, address, await _secret(credentials))
    except BaseException as error:
        await streams.cut(stream)
        failure = _explained(error, address)
        if failure is None:
            raise
        raise failure from None


async def _encrypted(
    stream: trio.abc.Stream, address: AgentAddress, credentials: AgentCredentials
) -> trio.SSLStream[trio.abc.Stream]:
    context = credentials.tls or _system_tls()
    # Whether what was read is whole, the WebSocket's close frame tells.
    encrypted = trio.SSLStream(stream, context, server_hostname=address.host, https_compatible=True)
    with trio.fail_after(TLS_TIMEOUT_S):
        await encrypted.do_handshake()
    return encrypted


@cache
def _system_tls() -> ssl.SSLContext:
    # Once: it reads 150 certificates, in which time no session moves.
    return ssl.create_default_context()


async def _secret(credentials: AgentCredentials) -> Password | None:
    if credentials.secret is None:
        return None
    try:
        return await ask(credentials.secret)
    except DesktopError as error:
        raise AgentError(AgentStep.DIAL, str(error)) from None


async def _switched(
    stream: trio.abc.Stream, address: AgentAddress, secret: Password | None
) -> WebSocketStream:
    key = base64.b64encode(secrets.token_bytes(16))
    headers = [
        (b"Host", address.authority.encode("idna")),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", key),
    ]
    if secret is not None:
        headers.append((b"Authorization", b"Bearer " + secret.reveal()))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
    try:
        request = http.send(h11.Request(method="GET", target=address.path, headers=headers))
        http.send(h11.EndOfMessage())
    except h11.LocalProtocolError:
        # Its text may hold the secret.
        text = f"the secret for {address} has characters that a header cannot have"
        raise AgentError(AgentStep.DIAL, text) from None
    assert request is not None
    await stream.send_all(request)
    while True:
        event = await _next(http, stream)
        if isinstance(event, h11.Response):
            raise await _refused(http, stream, address, event)
        assert isinstance(event, h11.InformationalResponse)
        if event.status_code == 101:
            break
    answer = dict(event.headers)
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
    if answer.get(b"sec-websocket-accept") != accept or b"sec-websocket-extensions" in answer:
        text = f"{address} answered with a 101 that is none of a WebSocket"
        raise AgentError(AgentStep.DESKTOP, text)
    early, _ = http.trailing_data
    return WebSocketStream(stream, client=True, limit_bytes=FRAME_BYTES, early=early)


async def _next(http: h11.Connection, stream: trio.abc.Stream) -> Any:
    while (event := http.next_event()) is h11.NEED_DATA:
        data = bytes(await stream.receive_some(4096))
        if not data:
            raise trio.BrokenResourceError("the end")
        http.receive_data(data)
    return event


async def _refused(
    http: h11.Connection, stream: trio.abc.Stream, address: AgentAddress, response: h11.Response
) -> AgentError:
    body = bytearray()
    try:
        while len(body) < BODY_BYTES and isinstance(event := await _next(http, stream), h11.Data):
            body += event.data
    except (trio.BrokenResourceError, h11.RemoteProtocolError):
        pass  # The status says enough.
    refused = response.status_code in (401, 403)
    text = f"{address} answered {response.status_code}: {_sentence(bytes(body[:BODY_BYTES]))}"
    return AgentError(AgentStep.DIAL if refused else AgentStep.DESKTOP, text)


def _sentence(body: bytes) -> str:
    """What an answer's body says, in the form of the agent's errors or in another."""
    try:
        told = json.loads(body)
        words = [told[name] for name in ("message", "detail") if name in told]
        text = " ".join(map(str, words))
    except (ValueError, TypeError, RecursionError):
        text = body.decode("utf-8", "replace")
    return handshake.printable(text.encode())[:TEXT_CHARS].strip() or "nothing more"


def _explained(error: BaseException, address: AgentAddress) -> AgentError | None:
    if isinstance(error, trio.TooSlowError):
        return AgentError(AgentStep.TIMEOUT, f"{address} did not answer in time")
    if isinstance(error, h11.RemoteProtocolError):
        # It shows what it could not read.
        text = f"{address} does not answer as an agent: {str(error)[:TEXT_CHARS]}"
        return AgentError(AgentStep.DESKTOP, text)
    if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError):
        cause = error.__cause__
        if isinstance(cause, ssl.SSLError):
            reason = getattr(cause, "verify_message", "") or cause.reason or str(cause)
            return AgentError(AgentStep.DIAL, f"no TLS with {address}: {reason}")
        text = f"{address} closed the connection before it had answered"
        if address.scheme == "wss":
            # With TLS 1.3 it judges our certificate behind our handshake, and Trio's tells no more.
            text += ", as agents do that do not take this relay's certificate"
        return AgentError(AgentStep.DIAL, text)
    return None
