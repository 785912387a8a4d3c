"""A STAND-IN for the Messages API on a loopback port: it says what a test's script has, and refuses
what the API would refuse (`tests/labs/language_model/rules.py`).

`model_server` owns one nursery, with the listener and its connections.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
import trio

from tests.labs.language_model import rules
from tests.labs.language_model.rules import Refused

API_KEY = "key-of-the-model-server"

REQUEST_ID = [("request-id", "req_1")]

Json = dict[str, Any]
When = Callable[[Json], bool]
Event = tuple[str, Json]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Message:
    """A reply that comes whole."""

    content: list[Json]
    stop_reason: str = "end_turn"
    usage: Mapping[str, int] = field(
        default_factory=lambda: {"input_tokens": 11, "cache_read_input_tokens": 7}
    )
    output_tokens: int = 5
    hold_open: bool = False
    """The stream has no end behind its last event, until the client goes."""


@dataclass(frozen=True)
class Failure:
    """An answer with an error status."""

    status: int
    kind: str
    message: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Cut:
    """A reply of which only a text comes, and then something else than its end."""

    text: str
    ending: str
    """broken: the connection closes in a chunk; short: the stream ends as if it were whole;
    error: an error event, whose type is `kind`; silent, pings: for ever, or until the client
    goes."""
    kind: str = ""


@dataclass(frozen=True)
class Raw:
    """Whatever a test wants in a stream."""

    data: bytes


Answer = Message | Failure | Cut | Raw
Entry = Answer | Callable[[Json], Answer | Awaitable[Answer]]


def text_reply(*texts: str, **options: Any) -> Message:
    """One text block each. `options` are those of Message."""
    return Message([{"type": "text", "text": text} for text in texts], **options)


def tool_use(name: str, arguments: Json, *, toolset: str | None = None) -> Json:
    """A block with an id of its own; `toolset` "computer" for a member of the toolset."""
    block = {
        "type": "tool_use",
        "id": f"toolu_{next(_numbers):04}",
        "name": name,
        "input": arguments,
    }
    return {**block, "toolset_name": toolset} if toolset else block


def tool_reply(*blocks: Json, text: str = "", **options: Any) -> Message:
    """Tool uses, behind a text if there is one; the blocks may be any."""
    said = [{"type": "text", "text": text}] if text else []
    return Message([*said, *blocks], **{"stop_reason": "tool_use", **options})


_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


def failure(
    status: int,
    *,
    retry_after_s: float | None = None,
    should_retry: bool | None = None,
    message: str = "It failed.",
) -> Failure:
    """`should_retry` is the header in which the API says so."""
    headers = {}
    if retry_after_s is not None:
        headers["retry-after"] = f"{retry_after_s:g}"
    if should_retry is not None:
        headers["x-should-retry"] = str(should_retry).lower()
    return Failure(status, _KINDS.get(status, "api_error"), message, headers)


def redirect(status: int, to: str) -> Failure:
    """To another place, which its body names too, as servers' own pages do."""
    return Failure(status, "api_error", f"It is at {to}", {"location": to})


def broken_after(text: str, *, clean: bool = False) -> Cut:
    """The stream breaks behind `text`; `clean`: as a proxy would end it, without an error."""
    return Cut(text, "short" if clean else "broken")


def error_after(text: str, kind: str = "overloaded_error") -> Cut:
    """An error event in the stream, behind `text`."""
    return Cut(text, "error", kind)


def stalls(text: str = "", *, pings: bool = False) -> Cut:
    """Nothing comes behind `text`, or a ping every 10 s, until the client goes."""
    return Cut(text, "pings" if pings else "silent")


@dataclass(frozen=True)
class Request:
    """As it came. Header names are in lower case."""

    target: str
    headers: Mapping[str, str]
    body: Json


@dataclass
class ModelServer:
    """Answers with the script's entries, each one once, in order."""

    url: str = ""
    api_key: str = API_KEY
    requests: list[Request] = field(default_factory=list)
    """Those that were accepted."""

    refusals: list[str] = field(default_factory=list)
    """What was wrong with the others."""

    connections: int = 0
    """Open ones."""

    _script: list[tuple[When | None, Entry]] = field(default_factory=list)
    _thoughts: list[Json] = field(default_factory=list)

    def script(self, *entries: Entry, when: When | None = None) -> None:
        """Adds replies for the requests that `when` is true of; for any without it.

        A request gets the oldest entry that fits. An entry may be a function of the request's body
        that returns the reply, or an async one that waits before.
        """
        self._script += [(when, entry) for entry in entries]

    @property
    def left(self) -> int:
        """Entries that nobody asked for yet."""
        return len(self._script)

    async def _answer(self, request: Json) -> Answer:
        for number, (when, entry) in enumerate(self._script):
            if when is None or when(request):
                del self._script[number]
                if not callable(entry):
                    return entry
                answer = entry(request)
                return await answer if inspect.isawaitable(answer) else answer
        raise Refused("the test's script has no reply for this request", 400)

    # HTTP.

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        self.connections += 1
        try:
            async with stream:
                connection = h11.Connection(h11.SERVER)
                while await self._exchange(connection, stream):
                    connection.start_next_cycle()
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            pass  # The client has gone; its test knows why.
        finally:
            self.connections -= 1

    async def _exchange(self, connection: h11.Connection, stream: trio.SocketStream) -> bool:
        """One request; whether there may be another."""
        head = await _receive(connection, stream)
        if not isinstance(head, h11.Request):
            return False
        body = bytearray()
        while isinstance(event := await _receive(connection, stream), h11.Data):
            body += event.data
        try:
            request = self._checked(head, bytes(body))
            self.requests.append(request)
            answer = await self._answer(request.body)
            if isinstance(answer, Message):
                self._thoughts += filter(rules.is_thought, answer.content)
        except Refused as refused:
            self.refusals.append(str(refused))
            answer = Failure(refused.status, refused.kind, str(refused), {})
        if isinstance(answer, Failure):
            error = {"type": answer.kind, "message": answer.message}
            reply = {"type": "error", "error": error, "request_id": "req_1"}
            await _send_json(connection, stream, answer.status, reply, answer.headers)
        elif isinstance(answer, Message) and not request.body.get("stream"):
            await _send_json(connection, stream, 200, _whole(answer, request.body["model"]), {})
        else:
            headers = [*REQUEST_ID, ("content-type", "text/event-stream; charset=utf-8")]
            headers.append(("transfer-encoding", "chunked"))
            await _send(connection, stream, h11.Response(status_code=200, headers=headers))
            if isinstance(answer, Raw):
                await _send(connection, stream, h11.Data(data=answer.data))
            else:
                for name, data in _events(answer, request.body["model"]):
                    await _send_event(connection, stream, name, data)
            if isinstance(answer, Message) and answer.hold_open:
                answer = Cut("", "silent")
            if isinstance(answer, Cut) and not await _ended(connection, stream, answer):
                return False
            await _send(connection, stream, h11.EndOfMessage())
        return connection.our_state is connection.their_state is h11.DONE

    def _checked(self, head: h11.Request, body: bytes) -> Request:
        target = head.target.decode()
        headers = {name.decode().lower(): value.decode() for name, value in head.headers}
        if (head.method, target.partition("?")[0]) != (b"POST", "/v1/messages"):
            raise Refused(f"{head.method.decode()} {target}: Not Found", 404, "not_found_error")
        rules.check_headers(headers, self.api_key)
        if len(body) > rules.REQUEST_BYTES:
            raise Refused("Request exceeds the maximum size", 413, "request_too_large")
        try:
            content = json.loads(body)
        except ValueError as error:
            raise Refused("The request body is not valid JSON") from error
        rules.check_body(content, headers.get("anthropic-beta", ""))
        rules.check_thoughts(content, self._thoughts)
        return Request(target, headers, content)


async def _receive(connection: h11.Connection, stream: trio.SocketStream) -> Any:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some())
    return event


async def _send(connection: h11.Connection, stream: trio.SocketStream, event: Any) -> None:
    data = connection.send(event)
    assert data is not None
    await stream.send_all(data)


async def _send_json(
    connection: h11.Connection,
    stream: trio.SocketStream,
    status: int,
    content: Json,
    more: Mapping[str, str],
) -> None:
    body = json.dumps(content).encode()
    headers = [*more.items(), *REQUEST_ID, ("content-type", "application/json")]
    headers.append(("content-length", str(len(body))))
    await _send(connection, stream, h11.Response(status_code=status, headers=headers))
    await _send(connection, stream, h11.Data(data=body))
    await _send(connection, stream, h11.EndOfMessage())


async def _send_event(
    connection: h11.Connection, stream: trio.SocketStream, name: str, data: Json
) -> None:
    text = f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n"
    await _send(connection, stream, h11.Data(data=text.encode()))


async def _ended(connection: h11.Connection, stream: trio.SocketStream, cut: Cut) -> bool:
    """Does what `cut.ending` says; whether the HTTP message has an end then."""
    if cut.ending == "error":
        error = {"type": cut.kind, "message": "It failed."}
        await _send_event(connection, stream, "error", {"error": error})
    elif cut.ending == "broken":
        await stream.send_all(b"100\r\nevent: content_bl")
        return False
    while cut.ending in ("silent", "pings"):
        with trio.move_on_after(10 if cut.ending == "pings" else float("inf")):
            if not await stream.receive_some():
                return False
        await _send_event(connection, stream, "ping", {})
    return True


# Messages, whole and in events.


def _whole(message: Message, model: str) -> Json:
    return {
        "id": f"msg_{next(_numbers):04}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": message.content,
        "stop_reason": message.stop_reason,
        "stop_sequence": None,
        "usage": {**message.usage, "output_tokens": message.output_tokens},
    }


def _events(answer: Message | Cut, model: str) -> Iterator[Event]:
    message = answer if isinstance(answer, Message) else text_reply(answer.text)
    start = {**_whole(message, model), "content": [], "stop_reason": None}
    start["usage"] = {**message.usage, "output_tokens": 1}
    yield "message_start", {"message": start}
    yield "ping", {}
    for index, block in enumerate(message.content):
        empty, deltas = _deltas(block)
        yield "content_block_start", {"index": index, "content_block": empty}
        if message.stop_reason == "max_tokens" and block["type"] == "tool_use":
            deltas = deltas[:-1]
        for delta in deltas:
            yield "content_block_delta", {"index": index, "delta": delta}
        if isinstance(answer, Cut):
            return
        yield "content_block_stop", {"index": index}
    delta = {"stop_reason": message.stop_reason, "stop_sequence": None}
    # A total, and only of what has changed.
    usage = {"output_tokens": message.output_tokens}
    yield "message_delta", {"delta": delta, "usage": usage}
    yield "message_stop", {}


def _deltas(block: Json) -> tuple[Json, list[Json]]:
    """A block as it starts, and what is added to it."""
    kind = block["type"]
    if kind == "text":
        deltas = [{"type": "text_delta", "text": part} for part in _parts(block["text"])]
        return {**block, "text": "", "citations": None}, deltas
    if kind == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": part} for part in _parts(block["thinking"])
        ]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {**block, "thinking": "", "signature": ""}, deltas
    if kind == "tool_use":
        # The first part is empty in the API's streams, too.
        parts = ["", *_parts(json.dumps(block["input"]))]
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
        more = {"input": {}, "caller": {"type": "direct"}}
        return {"toolset_name": None, **block, **more}, deltas
    return block, []


def _parts(text: str) -> list[str]:
    size = max(1, len(text) // 2)
    return [text[at : at + size] for at in range(0, len(text), size)]


@asynccontextmanager
async def model_server() -> AsyncIterator[ModelServer]:
    """Serves while the block runs, and closes every connection behind it."""
    server = ModelServer()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield server
        nursery.cancel_scope.cancel()
