"""The way to a desktop by its workspace agent: TLS, an upgrade to WebSocket, then RFB in it.

The upgrade is trio-websocket's, which is shown the answer and no byte more. Then the stream is
taken over, and the frames are `relay.net.websocket`'s.

`_switched` owns one nursery, in which trio-websocket reads the answer.
"""

from __future__ import annotations

import json
import re
import ssl
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import h11
import trio
import trio_websocket
import wsproto.utilities

from relay.dialling.passwords import Password, PasswordSource, ask
from relay.errors import DesktopError, WorkspaceAgentError, WorkspaceAgentStep
from relay.net import streams
from relay.net.tls import TlsStream
from relay.net.websocket_stream import WebSocketStream
from relay.rfb import handshake

__all__ = [
    "DEFAULT_PATH",
    "SCHEMES",
    "WorkspaceAgentAddress",
    "WorkspaceAgentCredentials",
    "client_tls",
    "error_of",
    "upgraded",
]

SCHEMES: Final = ("ws", "wss")

DEFAULT_PATH: Final = "/api/v0/desktop/vnc"

TLS_TIMEOUT_S: Final = 10.0
"""For the TLS handshake."""

ANSWER_TIMEOUT_S: Final = 30.0
"""From our request to the end of the answer. Before it the workspace agent starts its desktop,
which takes an Xvnc up to 15 s on a loaded machine."""

FRAME_BYTES: Final = 67_108_864
"""Of one message of the workspace agent: twice a screen of 3840x2160. Its content streams; this
only refuses absurd announcements."""

BODY_BYTES: Final = 4_096
"""What is read of the body of an answer that is no 101: one sentence, as JSON."""

TEXT_CHARS: Final = 300
"""What is told of it."""

READ_BYTES: Final = 4_096

HEAD_BYTES: Final = 16_384
"""Of an answer: as much as h11 reads of one."""

# Of a bad answer trio-websocket tries to tell the peer, as only a server can.
_BAD_ANSWER: Final = (
    h11.LocalProtocolError,
    wsproto.utilities.LocalProtocolError,
    UnicodeDecodeError,
)
# Words alone: no name of a host, no port, no path.
_NAMES_NOTHING: Final = re.compile(r"[A-Za-z ,'-]{1,100}\.?")
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)\b")


@dataclass(frozen=True, slots=True)
class WorkspaceAgentCredentials:
    """How a relay proves to workspace agents who it is, and knows them. `secret` is the one they
    share; `tls` is for `wss`, from `client_tls`; without it the system's authorities are trusted.
    """

    secret: PasswordSource | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class WorkspaceAgentAddress:
    """A desktop behind a workspace agent. `scheme` is "ws" or "wss"."""

    scheme: str
    host: str
    port: int
    path: str = DEFAULT_PATH
    credentials: WorkspaceAgentCredentials | None = field(default=None, compare=False, repr=False)

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
        # In TLS 1.2 a peer may ask for it at any time, and what is written would have to wait.
        context.options |= ssl.OP_NO_RENEGOTIATION
        if cert_file is not None:
            # Else OpenSSL would ask on the terminal for the password of an encrypted key.
            context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    except (OSError, ValueError) as error:
        names = ", ".join(str(path) for path in (ca_file, cert_file, key_file) if path)
        text = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"cannot use the certificates in {names}: {text}") from None
    return context


async def upgraded(stream: trio.abc.Stream, address: WorkspaceAgentAddress) -> WebSocketStream:
    """The workspace agent's desktop, on a connection to it, which is closed if this raises. Raises
    WorkspaceAgentError."""
    credentials = address.credentials or WorkspaceAgentCredentials()
    connection: trio.abc.Stream = stream
    try:
        if address.scheme == "wss":
            assert isinstance(stream, trio.SocketStream)
            connection = await _encrypted(stream, address, credentials)
        with trio.fail_after(ANSWER_TIMEOUT_S):
            return await _switched(connection, address, await _secret(credentials))
    except BaseException as error:
        await streams.cut(connection)
        if isinstance(error, trio.TooSlowError):
            text = f"{address} did not answer in time"
            raise error_of(address, WorkspaceAgentStep.TIMEOUT, text) from None
        raise


async def _encrypted(
    stream: trio.SocketStream,
    address: WorkspaceAgentAddress,
    credentials: WorkspaceAgentCredentials,
) -> TlsStream:
    context = credentials.tls or _system_tls()
    encrypted = TlsStream(stream, context, server_hostname=address.host)
    try:
        with trio.fail_after(TLS_TIMEOUT_S):
            await encrypted.do_handshake()
    except BaseException as error:
        await streams.cut(encrypted)
        if isinstance(error, trio.BrokenResourceError):
            raise _lost(address, error) from None
        raise
    return encrypted


@cache
def _system_tls() -> ssl.SSLContext:
    # Once: it reads 150 certificates, in which time no session moves.
    return client_tls(None)


async def _secret(credentials: WorkspaceAgentCredentials) -> Password | None:
    if credentials.secret is None:
        return None
    try:
        return await ask(credentials.secret)
    except DesktopError as error:
        raise WorkspaceAgentError(WorkspaceAgentStep.DIAL, str(error), told=error.told) from None


async def _switched(
    stream: trio.abc.Stream, address: WorkspaceAgentAddress, secret: Password | None
) -> WebSocketStream:
    headers = [] if secret is None else [(b"Authorization", b"Bearer " + secret.reveal())]
    answer = _Answer(stream, address)
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            await trio_websocket.wrap_client_stream(
                nursery,
                answer,  # type: ignore[arg-type]  # It takes any stream, and says so.
                address.authority,
                address.path,
                extra_headers=headers,
            )
            nursery.cancel_scope.cancel()
    except* (WorkspaceAgentError, trio_websocket.ConnectionRejected, *_BAD_ANSWER) as group:
        (failure,) = group.exceptions
    if isinstance(failure, trio_websocket.ConnectionRejected):
        failure = _refused(address, failure.status_code, failure.body or b"")
    if isinstance(failure, _BAD_ANSWER):
        failure = answer.misunderstood()
    if failure is not None:
        raise failure from None
    return WebSocketStream(stream, client=True, limit_bytes=FRAME_BYTES, early=bytes(answer.rest))


class _Answer(trio.abc.Stream):
    """A connection to a workspace agent, as trio-websocket has it: it would parse frames behind a
    101, hold as much of a refusal as comes, and wait for ever where the answer ends early.

    Raises WorkspaceAgentError. `rest` is what came behind the answer's head.
    """

    def __init__(self, stream: trio.abc.Stream, address: WorkspaceAgentAddress) -> None:
        self._stream = stream
        self._address = address
        self._asked = False
        self._status = 0
        self.rest = bytearray()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._asked = True
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _lost(self._address, error) from None

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._status:
            return await self._head()
        if self._status == 101:
            await trio.sleep_forever()  # Whoever waits for the upgrade has it.
        if len(self.rest) >= BODY_BYTES:
            raise self._refused()
        return await self._more()

    async def aclose(self) -> None:
        """Whoever opened the connection closes it."""

    def misunderstood(self) -> WorkspaceAgentError:
        """What is wrong where trio-websocket raises one of `_BAD_ANSWER`."""
        if not self._asked:
            # Its text may hold the secret.
            text = f"the secret for {self._address} has characters that a header cannot have"
            return error_of(self._address, WorkspaceAgentStep.DIAL, text)
        if self._status == 101:
            text = f"{self._address} answered with a 101 that is none of a WebSocket"
            return error_of(self._address, WorkspaceAgentStep.DESKTOP, text)
        if self._status:
            return self._refused()
        text = f"{self._address} does not answer as a workspace agent"
        return error_of(self._address, WorkspaceAgentStep.DESKTOP, text)

    async def _head(self) -> bytes:
        while True:
            while (end := _HEAD_END.search(self.rest)) is None:
                if len(self.rest) > HEAD_BYTES:
                    raise self.misunderstood()
                await self._more()
            head = bytes(self.rest[: end.end()])
            status = _STATUS.match(head)
            if status is None:
                raise self.misunderstood()
            del self.rest[: end.end()]
            code = int(status[1])
            # Hints may come before any answer (RFC 9110, Section 15.2).
            if code >= 200 or code == 101:
                self._status = code
                return head if code == 101 else head + self.rest

    async def _more(self) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise (self._refused() if self._status else _lost(self._address, error)) from None
        if not data:
            raise self._refused() if self._status else _lost(self._address)
        self.rest += data
        return data

    def _refused(self) -> WorkspaceAgentError:
        return _refused(self._address, self._status, bytes(self.rest))


def _refused(address: WorkspaceAgentAddress, status: int, body: bytes) -> WorkspaceAgentError:
    step = WorkspaceAgentStep.DIAL if status in (401, 403) else WorkspaceAgentStep.DESKTOP
    message, detail = _words(body[:BODY_BYTES])
    text = f"{address} answered {status}: {_shown(f'{message} {detail}') or 'nothing more'}"
    told = f"the workspace agent answered {status}"
    if _NAMES_NOTHING.fullmatch(message):
        told += f": {message}"
    return WorkspaceAgentError(step, text, told=told)


def _words(body: bytes) -> tuple[str, str]:
    """What an answer's body says, in the form of the workspace agent's errors or in another."""
    try:
        said = json.loads(body)
        words = said if isinstance(said, dict) else {}
        return str(words.get("message", "")), str(words.get("detail", ""))
    except (ValueError, RecursionError):
        return "", body.decode("utf-8", "replace")


def _shown(text: str) -> str:
    # A string of JSON may hold half a character.
    return handshake.printable(text.encode("utf-8", "replace"))[:TEXT_CHARS].strip()


def error_of(
    address: WorkspaceAgentAddress, step: WorkspaceAgentStep, text: str
) -> WorkspaceAgentError:
    """`text` has the address as its str() is."""
    return WorkspaceAgentError(step, text, told=text.replace(str(address), "the workspace agent"))


def _lost(address: WorkspaceAgentAddress, error: Exception | None = None) -> WorkspaceAgentError:
    """`error` is what the stream raised; None at its end."""
    cause = error and error.__cause__
    if isinstance(cause, ssl.SSLError):
        reason = getattr(cause, "verify_message", "") or cause.reason or str(cause)
        # The reason may have the name that the certificate is not for.
        text = f"no TLS with {address}: {reason}"
        told = "no TLS with the workspace agent"
        return WorkspaceAgentError(WorkspaceAgentStep.DIAL, text, told=told)
    text = f"{address} closed the connection before it had answered"
    if address.scheme == "wss":
        # With TLS 1.3 it judges our certificate behind our handshake, and not all tell before
        # they close.
        text += ", as workspace agents do that do not take this relay's certificate"
    return error_of(address, WorkspaceAgentStep.DIAL, text)
