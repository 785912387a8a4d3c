"""What a model's server may answer instead of a reply; and what stays secret."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from api.agents import model as api_model
from api.agents.model import Model
from tests.labs.language_model.client import talk
from tests.labs.language_model.server import (
    API_KEY,
    Raw,
    error_after,
    failure,
    model_server,
    redirect,
    text_reply,
)

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
            reply = message.reply({"messages": []})
        except api_model._NONSENSE:
            return
        assert isinstance(reply.stop_reason, str)
        assert isinstance(reply.input_tokens + reply.output_tokens, int)
        assert all(isinstance(block, dict) for block in reply.content)

    @pytest.mark.parametrize(
        "count",
        [-1, 10**9 + 1, int("9" * 4_300)],
        ids=["less than none", "too many", "for which there is no text"],
    )
    def test_counts_that_are_none_do_not_count(self, count: int) -> None:
        message = api_model._Message()
        for event in copy.deepcopy(EVENTS):
            if event["type"] == "message_delta":
                event["usage"] = {"input_tokens": count, "output_tokens": 7}
            message.take(event)
        reply = message.reply({"messages": []})
        assert (reply.input_tokens, reply.output_tokens) == (1, 7)

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
            b"event: error\ndata: {\n\n",
            b"event: error\ndata: []\n\n",
            b'event: error\ndata: {"error": {"type": []}}\n\n',
            b"",
        ],
    )
    async def test_it_is_asked_again(self, data: bytes, autojump_clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(Raw(data), text_reply("Hello"))
            reply = await t.say()
            assert reply.content == [{"type": "text", "text": "Hello"}]

    # The SDK's decoder fails in the middle, and leaves its iterators to the garbage collector.
    @pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
    async def test_text_that_is_none(self, autojump_clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(Raw(b"event: message_start\ndata: \xff\n\n"), text_reply("Hello"))
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

    async def test_nothing_counts_behind_the_end(self) -> None:
        async with talk() as t:
            t.server.script(Raw(stream_of([*EVENTS, EVENTS[2]])))
            reply = await t.say()
            assert reply.content[0] == {"type": "text", "text": "Hel"}
            assert "".join(t.shown) == "Hel"

    async def test_the_first_error_counts(self) -> None:
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": "No."}}
        async with talk() as t:
            t.server.script(Raw(stream_of([error, *EVENTS])))
            assert "(status 400: No.)" in str(await t.error())
            assert t.shown == []


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

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_nothing_goes_where_a_redirect_leads(self, status: int) -> None:
        async with talk() as t, model_server() as other:
            other.script(*[text_reply("Give me your key.") for _ in range(2)])
            secret = "?token=hunter2"
            for place in (other.url, other.url.replace("127.0.0.1", "localhost"), t.server.url):
                t.server.script(redirect(status, f"{place}/v1/messages{secret}"))
                error = await t.error()
                assert str(error) == (
                    "The language model's address redirects to another place, and the key is not "
                    "sent there. Ask the operator to set the address itself "
                    f"(status {status})."
                )
                assert error.brief == str(error)
                assert not error.retryable
            assert (other.requests, other.refusals, other.left) == ([], [], 2)
            # Each was asked for once.
            assert len(t.server.requests) == 3

    async def test_for_a_log_it_is_not_quoted(self) -> None:
        async with talk() as t:
            t.server.script(failure(400, message="messages.0: what was said"))
            error = await t.error()
            assert "what was said" in str(error)
            assert error.brief.endswith(" (status 400).")

    async def test_the_cause_holds_no_request(self) -> None:
        async with talk() as t:
            t.server.script(failure(400))
            error = await t.error()
            assert error.__cause__ is None
            assert error.__suppress_context__


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
            "import logging; from api.agents.model import Model; "
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
    imports = "import sys, api.agents.model, api.agents.transcript"
    code = imports + "; print([m for m in sys.modules if m in {}])"
    extras = ["anthropic", "httpx2", "numpy", "PIL"]
    done = subprocess.run(
        [sys.executable, "-c", code.format(extras)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
