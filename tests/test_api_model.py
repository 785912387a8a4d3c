"""A model's replies as they come over HTTP from the stand-in, and what goes wrong on the way."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from api import model as api_model
from api.model import Model, ModelError, Reply
from tests.model_server import (
    API_KEY,
    ModelServer,
    Raw,
    broken_after,
    error_after,
    failure,
    model_server,
    stalls,
    text_reply,
    tool_reply,
    tool_use,
)

TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy for everything would get what is for the stand-in."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Virtual time that leaves the SDK's worker thread the time it needs."""
    autojump_clock.autojump_threshold = 0.1
    return autojump_clock


@dataclass
class Talk:
    """A model and its server."""

    server: ModelServer
    model: Model
    shown: list[str] = field(default_factory=list)

    async def say(self, **changes: Any) -> Reply:
        request: dict[str, Any] = {
            "system": "Be short.",
            "messages": HELLO,
            "tools": [TOOL],
            "beta": None,
            "on_text": self.shown.append,
            "on_restart": lambda: self.shown.append("RESTART"),
        }
        return await self.model.reply(**{**request, **changes})

    async def error(self, **changes: Any) -> ModelError:
        with pytest.raises(ModelError) as caught:
            await self.say(**changes)
        assert API_KEY not in str(caught.value)
        return caught.value


@asynccontextmanager
async def talk(**settings: Any) -> AsyncIterator[Talk]:
    async with model_server() as server:
        options: dict[str, Any] = {
            "api_key": API_KEY,
            "base_url": server.url,
            "name": "claude-test",
            "max_tokens": 1000,
        }
        model = Model(**{**options, **settings})
        try:
            yield Talk(server, model)
        finally:
            await model.aclose()


class TestReplies:
    async def test_a_text_is_streamed(self) -> None:
        async with talk() as t:
            t.server.script(text_reply("Hello, you!"))
            reply = await t.say()
            assert reply == Reply(
                content=[{"type": "text", "text": "Hello, you!"}],
                stop_reason="end_turn",
                input_tokens=18,
                output_tokens=5,
            )
            assert len(t.shown) > 1
            assert "".join(t.shown) == "Hello, you!"
            (request,) = t.server.requests
            assert request.body == {
                "model": "claude-test",
                "max_tokens": 1000,
                "system": "Be short.",
                "messages": HELLO,
                "tools": [TOOL],
                "stream": True,
            }
            assert "anthropic-beta" not in request.headers

    async def test_every_kind_of_block_may_be_sent_back_as_it_is(self) -> None:
        thinking = {"type": "thinking", "thinking": "What is there?", "signature": "c2ln"}
        redacted = {"type": "redacted_thinking", "data": "ZGF0YQ=="}
        call = tool_use("look", {"at": [1, 2], "why": 'a "quote" ü'})
        empty = tool_use("look", {})
        async with talk() as t:
            t.server.script(
                tool_reply(thinking, redacted, {"type": "text", "text": "I look."}, call, empty),
                text_reply("Done."),
            )
            first = await t.say()
            assert first.stop_reason == "tool_use"
            assert "".join(t.shown) == "I look."
            caller = {"caller": {"type": "direct"}}
            assert first.content == [
                thinking,
                redacted,
                {"type": "text", "text": "I look."},
                {**call, **caller},
                {**empty, **caller},
            ]
            results = [
                {"type": "tool_result", "tool_use_id": block["id"], "content": "A wall."}
                for block in (call, empty)
            ]
            said = {"role": "assistant", "content": first.content}
            reply = await t.say(messages=[*HELLO, said, {"role": "user", "content": results}])
            assert reply.content == [{"type": "text", "text": "Done."}]
            assert json.loads(json.dumps(first.content)) == first.content

    async def test_a_toolsets_calls_keep_its_name(self) -> None:
        async with talk() as t:
            t.server.script(tool_reply(tool_use("screenshot", {}, toolset="computer")))
            reply = await t.say(tools=[{"type": "computer_toolset_20260801"}])
            assert reply.content[0]["toolset_name"] == "computer"

    async def test_the_beta_header(self) -> None:
        tool = {
            "type": "computer_20251124",
            "name": "computer",
            "display_width_px": 1280,
            "display_height_px": 800,
        }
        async with talk() as t:
            t.server.script(text_reply("Hm."))
            await t.say(tools=[tool], beta="computer-use-2025-11-24")
            assert t.server.requests[0].headers["anthropic-beta"] == "computer-use-2025-11-24"
            assert t.server.requests[0].body["tools"] == [tool]

    async def test_without_system_and_tools(self) -> None:
        async with talk() as t:
            t.server.script(text_reply("Hm."))
            await t.say(system="", tools=[])
            assert t.server.requests[0].body.keys() == {"model", "max_tokens", "messages", "stream"}

    async def test_a_call_that_max_tokens_cuts_off_has_no_input(self) -> None:
        async with talk() as t:
            t.server.script(tool_reply(tool_use("look", {"at": 1}), stop_reason="max_tokens"))
            reply = await t.say()
            assert reply.stop_reason == "max_tokens"
            assert reply.content[0]["input"] == {}

    async def test_one_connection_serves_many_requests(self) -> None:
        async with talk() as t:
            t.server.script(*[text_reply(f"{n}") for n in range(3)])
            for _ in range(3):
                await t.say()
            assert t.server.connections == 1


class TestRetries:
    @pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
    async def test_what_may_pass_is_tried_again(self, status: int, clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(failure(status), failure(status), text_reply("Hello"))
            began_s = trio.current_time()
            await t.say()
            assert 0.5 + 1 <= trio.current_time() - began_s <= 1 + 2 + 1
            assert "".join(t.shown) == "Hello"

    async def test_the_tries_and_their_pauses_are_bounded(self, clock: MockClock) -> None:
        async with talk(retries=8) as t:
            t.server.script(*[failure(529)] * 10)
            began_s = trio.current_time()
            error = await t.error()
            assert error.retryable
            assert "overloaded" in str(error)
            assert t.server.left == 1
            assert trio.current_time() - began_s <= 1 + 2 + 4 + 8 + 16 + 30 + 30 + 30 + 1

    async def test_the_server_says_when(self, clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(failure(429, retry_after_s=45), text_reply("Hello"))
            began_s = trio.current_time()
            await t.say()
            assert 45 <= trio.current_time() - began_s < 46

    async def test_too_long_a_pause_is_not_waited_for(self, clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(failure(429, retry_after_s=3600), text_reply("Hello"))
            began_s = trio.current_time()
            error = await t.error()
            assert error.retryable
            assert trio.current_time() - began_s < 1

    async def test_the_server_says_whether(self, clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(failure(429, should_retry=False), text_reply("Hello"))
            assert not (await t.error()).retryable
            assert t.server.left == 1

    @pytest.mark.parametrize(
        "broken",
        [
            broken_after("Hel"),
            broken_after("Hel", clean=True),
            error_after("Hel"),
            error_after("Hel", "api_error"),
            stalls("Hel"),
        ],
        ids=str,
    )
    async def test_a_reply_that_breaks_off_starts_again(
        self, broken: Any, clock: MockClock
    ) -> None:
        async with talk() as t:
            t.server.script(broken, text_reply("Hello"))
            reply = await t.say()
            assert reply.content == [{"type": "text", "text": "Hello"}]
            assert "".join(t.shown) == "HelRESTARTHello"

    async def test_pings_do_not_go_on_for_ever(
        self, clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_model, "TRY_LIMIT_S", 35)
        async with talk(timeout_s=15) as t:
            t.server.script(stalls("Hel", pings=True), text_reply("Hello"))
            await t.say()
            assert "".join(t.shown) == "HelRESTARTHello"
            assert 35 < trio.current_time() < 40

    async def test_nothing_shown_needs_no_restart(self, clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(stalls(), text_reply("Hello"))
            await t.say()
            assert "".join(t.shown) == "Hello"

    async def test_a_stream_that_stays_open_behind_its_end(self, clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(text_reply("Hello", hold_open=True))
            began_s = trio.current_time()
            reply = await t.say()
            assert reply.content == [{"type": "text", "text": "Hello"}]
            assert trio.current_time() - began_s < 10

    async def test_nobody_there(self, clock: MockClock) -> None:
        async with talk(base_url="http://127.0.0.1:9", retries=2) as t:
            error = await t.error()
            assert error.retryable
            assert "could not be reached" in str(error)


USAGE = {"input_tokens": 1, "output_tokens": 1}
EVENTS: list[Any] = [
    {"type": "message_start", "message": {"usage": USAGE}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "a", "name": "look", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": "{}"},
    },
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": USAGE},
    {"type": "message_stop"},
]
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["", "text", "{", "[]"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["type", "text", "usage", "index"]), inner, max_size=3),
    ),
    max_leaves=5,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a JSON value, as what holds it and the key there."""
    keys = range(len(value)) if isinstance(value, list) else value
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], dict | list):
            found += places(value[key])
    return found


def stream_of(events: list[Any]) -> bytes:
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), json.dumps(event).encode())
        for event in events
    )


class TestNonsense:
    @given(st.data())
    @settings(max_examples=500, deadline=None)
    def test_any_change_makes_another_reply_or_is_found(self, data: st.DataObject) -> None:
        events = copy.deepcopy(EVENTS)
        holder, key = data.draw(st.sampled_from(places(events)))
        if data.draw(st.booleans()):
            holder[key] = data.draw(JSON)
        else:
            del holder[key]
        message = api_model._Message()
        try:
            for event in events:
                assert isinstance(message.take(event), str)
            reply = message.reply()
        except api_model._NONSENSE:
            return
        assert isinstance(reply.stop_reason, str)
        assert type(reply.input_tokens) is type(reply.output_tokens) is int
        assert all(isinstance(block, dict) for block in reply.content)

    @pytest.mark.parametrize(
        "data",
        [
            stream_of(EVENTS[:-1]),
            stream_of(EVENTS[1:]),
            stream_of([*EVENTS[:5], *EVENTS[8:]]),
            stream_of([*EVENTS[:1], *EVENTS[2:]]),
            stream_of(EVENTS).replace(b'"{}"', b'"{"'),
            stream_of(EVENTS).replace(b'"{}"', b'"[]"'),
            b"event: message_start\ndata: {\n\n",
            b"event: message_start\ndata: \xff\n\n",
            b"event: error\ndata: {\n\n",
            b"event: error\ndata: []\n\n",
            b'event: error\ndata: {"error": {"type": []}}\n\n',
            b"",
        ],
    )
    async def test_it_is_asked_again(self, data: bytes, clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(Raw(data), text_reply("Hello"))
            reply = await t.say()
            assert reply.content == [{"type": "text", "text": "Hello"}]

    async def test_unknown_kinds_do_no_harm(self) -> None:
        more = [
            {"type": "news", "text": "x"},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "news", "text": "x"}},
        ]
        async with talk() as t:
            t.server.script(Raw(stream_of([*EVENTS[:3], *more, *EVENTS[3:]])))
            reply = await t.say()
            assert reply.content[0] == {"type": "text", "text": "Hel"}
            assert "".join(t.shown) == "Hel"


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "advice"),
        [
            (400, "refused the request"),
            (401, "key"),
            (402, "billing"),
            (403, "claude-test"),
            (404, "claude-test"),
            (413, "new chat"),
            (422, "refused the request"),
        ],
    )
    async def test_what_cannot_pass_is_told_at_once(self, status: int, advice: str) -> None:
        async with talk() as t:
            t.server.script(failure(status, message=f"line one\nof {API_KEY} " + "x" * 1000))
            error = await t.error()
            assert not error.retryable
            assert advice in str(error)
            assert f"(status {status}: line one of *** xxx" in str(error)
            assert len(str(error)) < 600
            assert "\n" not in str(error)
            assert len(t.server.requests) == 1

    async def test_an_error_in_the_stream_that_cannot_pass(self) -> None:
        async with talk() as t:
            t.server.script(error_after("Hel", "invalid_request_error"))
            error = await t.error()
            assert not error.retryable
            assert "".join(t.shown) == "Hel"

    async def test_a_wrong_key(self) -> None:
        async with talk(api_key="wrong") as t:
            error = await t.error()
            assert "set a valid one" in str(error)
            assert not error.retryable

    @pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel"])
    def test_what_cannot_be_a_key(self, key: str) -> None:
        with pytest.raises(ValueError, match="printable") as caught:
            Model(api_key=key, base_url=None, name="m", max_tokens=1)
        assert not key or key not in str(caught.value)

    async def test_no_api_at_the_address(self) -> None:
        async with talk() as t:
            t.server.script(failure(200))
            error = await t.error()
            assert not error.retryable
            assert "not the Messages API" in str(error)

    async def test_the_cause_holds_no_request(self) -> None:
        async with talk() as t:
            t.server.script(failure(400))
            error = await t.error()
            assert error.__cause__ is None
            assert error.__suppress_context__


class TestCancellation:
    @pytest.mark.parametrize("stalled", [stalls(), stalls("Hel"), failure(529)], ids=str)
    async def test_a_cancelled_request_closes_its_connection(
        self, stalled: Any, clock: MockClock
    ) -> None:
        async with talk() as t:
            t.server.script(stalled)
            with trio.move_on_after(0.4) as scope:
                await t.say()
            assert scope.cancelled_caught
            assert trio.current_time() < 1
            await t.model.aclose()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert t.server.connections == 0

    async def test_at_once_also_before_closing(self, clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(stalls("Hel"))
            with trio.move_on_after(0.4):
                await t.say()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert t.server.connections == 0

    async def test_in_every_pause_between_two_events(self, clock: MockClock) -> None:
        async with talk() as t:
            for steps in range(1, 30):
                t.server.script(text_reply("Hello"))
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(t.say)
                        for _ in range(steps):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()
            t.shown.clear()
            t.server.script(text_reply("Hello"))
            await t.say()
            assert "".join(t.shown) == "Hello"
            assert t.server.connections == 1


class TestSecrets:
    async def test_nothing_is_logged(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.DEBUG)
        async with talk() as t:
            t.server.script(failure(500), text_reply("Hello"))
            monkeypatch.setattr(api_model, "FIRST_PAUSE_S", 0)
            await t.say()
        assert caplog.records == []

    @pytest.mark.parametrize("wanted", ["debug", "info"])
    def test_the_sdk_is_not_asked_to_log(self, wanted: str) -> None:
        code = (
            "import logging; from api.model import Model; "
            "Model(api_key='k', base_url=None, name='m', max_tokens=1); "
            "print([logging.getLogger(n).isEnabledFor(logging.INFO) for n in "
            "('anthropic', 'anthropic._base_client', 'httpx2', 'httpcore2.http11')])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"ANTHROPIC_LOG": wanted},
        )
        assert done.stdout == "[False, False, False, False]\n"


def test_the_module_needs_no_sdk() -> None:
    code = "import sys, api.model, api.transcript; print([m for m in sys.modules if m in {}])"
    extras = ["anthropic", "httpx2", "numpy", "PIL"]
    done = subprocess.run(
        [sys.executable, "-c", code.format(extras)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
