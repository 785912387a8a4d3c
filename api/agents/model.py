"""Talking to a language model: one streamed reply of the Messages API, with retries.

The waiting between tries is ours and not the SDK's, which knows nothing of streams that break.
A `Model` has no nursery; a cancelled `reply` closes its connection. Nothing of a conversation is
logged here, and the SDK's own logging, which would hold all of it, stays off.

Needs the package anthropic (the extra `agent`) once a Model is made; it runs on Trio by anyio.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from api.agents.bounds import ANSWER_BYTES, TOO_DEEP, is_within_depth
from api.agents.model_blocks import sendable

if TYPE_CHECKING:
    import httpx2
    from anthropic import APIStatusError, AsyncStream

__all__ = ["Model", "ModelError", "Reply"]

RETRIES: Final = 5
"""With the pauses below about 20 s in all: an overload is usually shorter."""

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0

RETRY_AFTER_LIMIT_S: Final = 60.0
"""A server that wants a longer pause is not waited for: the chat's owner is told instead."""

SILENCE_S: Final = 120.0
"""Without a byte. The API sends pings while a model thinks, some seconds apart."""

TRY_LIMIT_S: Final = 900.0
"""For one try in all. Pings can go on for ever; the longest replies take some minutes."""

CONNECT_S: Final = 10.0

END_S: Final = 5.0
"""For the end of a stream behind its last event; and for closing connections."""

REPLY_BYTES: Final = 16_000_000
"""Of a stream. The longest replies, of 64,000 tokens, have half of it."""

TOKENS_LIMIT: Final = 1_000_000_000
"""Of one kind in one reply. No model takes as many."""

DETAIL_CHARS: Final = 300
"""Of what the API says about an error; its own texts are shorter."""

# Others that the SDK sends requests through log what they do, too.
_LOGGERS: Final = ("anthropic", "httpx2", "httpcore2")

_ADVICE: Final[Mapping[int, str]] = {
    400: "The language model's API refused the request. Try a new chat; if that fails too, tell "
    "the operator of this server",
    401: "The language model's API refused this server's key. Ask the operator to set a valid one",
    402: "The account at the language model's API cannot pay. Ask the operator to look after its "
    "billing",
    403: "This server's key may not use the model {name}. Ask the operator for a key that may, or "
    "for another model",
    404: "The language model's API has no model {name}, or is not at the address that was set. Ask "
    "the operator to correct the setting",
    413: "This conversation has become too large for the language model. Go on in a new chat",
    429: "The language model's API takes no more requests for now. Try again in some minutes, or "
    "ask the operator for a higher limit",
    529: "The language model's API is overloaded. Try again in some minutes",
}
_SERVER_FAILED: Final = "The language model's API failed. Try again in some minutes"
_UNREACHABLE: Final = (
    "The language model's API could not be reached. Try again in some minutes; if that fails too, "
    "ask the operator to look at this server's network"
)
_BROKEN: Final = "The language model's reply broke off. Try again"
_TOO_LONG: Final = "The language model's reply was too long. Ask for less at once"
_REDIRECTS: Final = (
    "The language model's address redirects to another place, and the key is not sent there. Ask "
    "the operator to set the address itself"
)
_NO_API: Final = (
    "What answers at the language model's address is not the Messages API. Ask the operator to "
    "correct the setting"
)

# Errors inside of a stream come with status 200; this is the one that each would have had.
_STATUS: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}

# Of each kind of delta: the field that it adds to, and its own.
_TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("input", "partial_json"),
}


# What JSON of another form than the API's leads to.
_NONSENSE: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said."""

    content: list[dict[str, Any]]
    """The blocks as they may be sent back as an assistant message.

    A tool_use that `max_tokens` cut off has the input {}: run tools only where `stop_reason` is
    "tool_use".
    """

    stop_reason: str
    """end_turn, tool_use, max_tokens, refusal, pause_turn, ...: the API may add others."""

    input_tokens: int
    """All of them, cached ones too."""

    output_tokens: int


class ModelError(Exception):
    """There is no reply. The text is for the chat's owner: it says what to do, and no secret."""

    def __init__(self, text: str, brief: str | None = None, *, retryable: bool) -> None:
        super().__init__(text)
        self.brief = brief or text
        """For a log: without what the API said, which may quote the conversation."""

        self.retryable = retryable
        """The same request may go well later."""


class _Failed(Exception):
    """One try."""

    def __init__(
        self,
        text: str,
        brief: str | None = None,
        *,
        retryable: bool,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(text)
        self.brief = brief
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class Model:
    """A model by its name at the Messages API. `aclose` it in the end.

    `base_url` None is the API's own address, or the SDK's environment variable. `retries` come
    after the first try; `timeout_s` is how long the server may be silent. Raises ValueError for
    what cannot be a key.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str | None,
        name: str,
        max_tokens: int,
        retries: int = RETRIES,
        timeout_s: float = SILENCE_S,
    ) -> None:
        # Here, so that servers without the extra `agent` can import this module.
        import anthropic
        import httpx2

        # In a header, such a key would fail with itself in the error.
        if not re.fullmatch("[!-~]+", api_key):
            raise ValueError("a key is printable ASCII without spaces")
        # ANTHROPIC_LOG=debug would show whole conversations.
        for logger in _LOGGERS:
            logging.getLogger(logger).setLevel(logging.WARNING)
        self.name = name
        self._max_tokens = max_tokens
        self._retries = retries
        self._api_key = api_key
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            timeout=httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
            max_retries=0,
            # The SDK's own follows, and takes the key and the conversation along wherever it leads.
            http_client=anthropic.DefaultAsyncHttpxClient(follow_redirects=False),
            open_telemetry=False,
        )

    async def reply(
        self,
        *,
        system: str,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        beta: str | None,
        on_text: Callable[[str], None],
        on_restart: Callable[[], None],
    ) -> Reply:
        """The model's answer to `messages`.

        `beta` is the value of the `anthropic-beta` header. `on_text` gets each piece of text as it
        comes. `on_restart` is called when a reply broke off behind the first piece and is asked
        for anew: what `on_text` got so far is void then. Raises ModelError, which also leaves void
        what `on_text` got.
        """
        shown = False

        def show(text: str) -> None:
            nonlocal shown
            shown = True
            on_text(text)

        request: dict[str, Any] = {
            "model": self.name,
            "max_tokens": self._max_tokens,
            "messages": messages,
            **({"system": system} if system else {}),
            **({"tools": tools} if tools else {}),
            "extra_headers": {"anthropic-beta": beta} if beta else {},
        }
        for left in reversed(range(self._retries + 1)):
            try:
                return await self._try(request, show)
            except _Failed as failed:
                pause_s = _pause_s(self._retries - left, failed.retry_after_s)
                if not failed.retryable or not left or pause_s > RETRY_AFTER_LIMIT_S:
                    # Without its cause: that has the whole request in it.
                    raise ModelError(
                        str(failed), failed.brief, retryable=failed.retryable
                    ) from None
            await trio.sleep(pause_s)
            if shown:
                shown = False
                on_restart()
        raise AssertionError("the last try returns or raises")

    async def aclose(self) -> None:
        """Closes the idle connections, although its caller may be cancelled."""
        with trio.move_on_after(END_S, shield=True):
            await self._client.close()

    async def _try(self, request: Mapping[str, Any], show: Callable[[str], None]) -> Reply:
        import anthropic
        import httpx2

        try:
            with trio.move_on_after(TRY_LIMIT_S):
                stream = await self._client.messages.create(**request, stream=True)
                async with stream:
                    return await self._read(stream, request, show)
        except anthropic.APIStatusError as error:
            raise self._refused(error) from None
        except anthropic.APIConnectionError:
            raise _Failed(_UNREACHABLE, retryable=True) from None
        except (httpx2.RequestError, UnicodeDecodeError):
            # The SDK translates errors up to the response's headers only.
            raise _Failed(_BROKEN, retryable=True) from None
        raise _Failed(_BROKEN, retryable=True)

    async def _read(
        self, stream: AsyncStream[Any], request: Mapping[str, Any], show: Callable[[str], None]
    ) -> Reply:
        """What the stream has up to its end.

        Raises _Failed; httpx2.RequestError where the connection fails, UnicodeDecodeError for text
        that is none.
        """
        from anthropic import AsyncStream

        if not stream.response.headers.get("content-type", "").startswith("text/event-stream"):
            raise _Failed(_NO_API, retryable=False)
        message = _Message()
        failed: _Failed | None = None
        with trio.CancelScope() as end:
            bounded = _Bounded(stream.response, end)
            # Read to its end whatever comes: of iterators left in the middle, the inner ones would
            # be closed by the garbage collector; and the connection can be used again.
            async for event in AsyncStream.raw_events(cast("httpx2.Response", bounded)):
                if failed is not None or message.complete:
                    continue
                if event.event == "error":
                    failed = self._error_event(event.data)
                else:
                    try:
                        text = message.take(json.loads(event.data))
                    except _Failed as error:
                        failed, text = error, ""
                    except _NONSENSE:
                        failed, text = _Failed(_BROKEN, retryable=True), ""
                    if text:
                        show(text)
                if failed is not None or message.complete:
                    end.deadline = trio.current_time() + END_S
        if failed is None and not message.complete and bounded.room_bytes < 0:
            failed = _Failed(_TOO_LONG, retryable=False)
        if failed is not None:
            raise failed
        try:
            return message.reply(request)
        except _NONSENSE:
            raise _Failed(_BROKEN, retryable=True) from None

    # What went wrong, for the chat's owner.

    def _refused(self, error: APIStatusError) -> _Failed:
        headers = error.response.headers
        status = error.status_code
        return _Failed(
            *self._texts(status, error.body),
            # The API's own word on it, where it has one.
            retryable={"true": True, "false": False}.get(
                headers.get("x-should-retry", ""), _retryable(status)
            ),
            retry_after_s=_seconds(headers.get("retry-after")),
        )

    def _error_event(self, data: str) -> _Failed:
        try:
            body = json.loads(data)
        except ValueError:
            return _Failed(_BROKEN, retryable=True)
        status = _STATUS.get(str(_field(body, "type")), 500)
        return _Failed(*self._texts(status, body), retryable=_retryable(status))

    def _texts(self, status: int, body: object) -> tuple[str, str]:
        """For the owner, and for a log."""
        if 300 <= status < 400:
            # Without what it says, which may quote that place and what is secret in it.
            text = f"{_REDIRECTS} (status {status})."
            return text, text
        other = _SERVER_FAILED if status >= 500 else _ADVICE[400]
        text = _ADVICE.get(status, other).format(name=self.name)
        brief = f"{text} (status {status})."
        said = _field(body, "message")
        if not isinstance(said, str) or not said.strip():
            return brief, brief
        # One line, whatever a proxy in between answers.
        said = " ".join(said.split()).replace(self._api_key, "***")[:DETAIL_CHARS]
        return f"{text} (status {status}: {said}).", brief


class _Bounded:
    """A response of which `REPLY_BYTES` come at most, for the SDK keeps whatever comes up to an
    event's end; then `end` is cancelled, as the one clean way to leave it in the middle."""

    def __init__(self, response: httpx2.Response, end: trio.CancelScope) -> None:
        self._response = response
        self._end = end
        self.room_bytes = REPLY_BYTES

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_bytes():
            self.room_bytes -= len(chunk)
            if self.room_bytes < 0:
                self._end.cancel()
            else:
                yield chunk


class _Message:
    """A message put together from the events of a stream.

    Every method raises one of _NONSENSE for what makes none, and _Failed for what is too long.
    """

    def __init__(self) -> None:
        self.complete = False
        self._started = False
        self._blocks: dict[int, dict[str, Any]] = {}
        # By a block's index and field.
        self._pieces: dict[tuple[int, str], list[str]] = {}
        self._room_chars = ANSWER_BYTES
        self._stop_reason: Any = None
        self._usage: dict[str, int] = {}

    def take(self, event: dict[str, Any]) -> str:
        """Adds an event; returns the text in it for the user. Unknown kinds have no effect."""
        match event["type"]:
            case "message_start":
                self._started = True
                self._count(event["message"]["usage"])
            case "content_block_start":
                self._blocks[event["index"]] = dict(event["content_block"])
                return _text_of(self._blocks[event["index"]])
            case "content_block_delta":
                return self._add(event["index"], event["delta"])
            case "message_delta":
                self._stop_reason = event["delta"]["stop_reason"]
                self._count(event["usage"])
            case "message_stop":
                self.complete = True
        return ""

    def _add(self, index: int, delta: dict[str, Any]) -> str:
        kind = delta["type"]
        if kind in _TEXTS:
            field, name = _TEXTS[kind]
            self._room_chars -= len(delta[name])
            if self._room_chars < 0:
                raise _Failed(_TOO_LONG, retryable=False)
            self._pieces.setdefault((index, field), []).append(delta[name])
        return _text_of(delta) if kind == "text_delta" else ""

    def _count(self, usage: Mapping[str, Any]) -> None:
        # Later counts are totals, and lack what has not changed.
        for key, value in usage.items():
            if isinstance(value, int) and 0 <= value <= TOKENS_LIMIT:
                self._usage[key] = value

    def reply(self, request: Mapping[str, Any]) -> Reply:
        """The message, which answers `request`. Raises ValueError where it is not complete."""
        if not (self.complete and self._started and self._stop_reason):
            raise ValueError("the stream ended early")
        if not isinstance(self._stop_reason, str):
            raise TypeError("a stop reason is a string")
        for (index, field), pieces in self._pieces.items():
            block, text = self._blocks[index], "".join(pieces)
            block[field] = self._input(text) if field == "input" else block.get(field, "") + text
        return Reply(
            content=sendable([block for _, block in sorted(self._blocks.items())], request),
            stop_reason=self._stop_reason,
            input_tokens=sum(
                self._usage.get(kind, 0)
                for kind in (
                    "input_tokens",
                    "cache_creation_input_tokens",
                    "cache_read_input_tokens",
                )
            ),
            output_tokens=self._usage.get("output_tokens", 0),
        )

    def _input(self, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text or "{}")
        except ValueError:
            if self._stop_reason == "tool_use":
                raise
            return {}  # cut off
        except RecursionError:
            return TOO_DEEP
        if not isinstance(found, dict):
            raise TypeError("a tool's input is an object")
        return found if is_within_depth(found) else TOO_DEEP


def _text_of(part: Mapping[str, Any]) -> str:
    text = part.get("text", "")
    if not isinstance(text, str):
        raise TypeError("a text is a string")
    return text


def _field(body: object, name: str) -> object:
    """Of the API's {"type": "error", "error": {...}}; None in any other form."""
    error = body.get("error") if isinstance(body, dict) else None
    return error.get(name) if isinstance(error, dict) else None


def _retryable(status: int) -> bool:
    return status in (408, 409, 429) or status >= 500


def _seconds(header: str | None) -> float | None:
    # The API sends seconds; a date could come from a proxy, and is as good as nothing.
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


def _pause_s(retry: int, asked_s: float | None) -> float:
    # Jitter: else everybody whom an overload turned away comes back at the same moment.
    pause_s = min(FIRST_PAUSE_S * 2.0**retry, LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
    return pause_s if asked_s is None else max(asked_s, pause_s)
