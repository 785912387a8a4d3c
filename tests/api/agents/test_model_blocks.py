"""Answers that make no request: asked for anew, or made fit for one, so that the chat goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from trio.testing import MockClock

from api.agents import model as api_model
from api.agents.model import Model
from api.agents.model_blocks import sendable
from relay.computer.versions import NOT_EXECUTED
from tests.labs.agents import agents_lab
from tests.labs.language_model.client import talk
from tests.labs.language_model.scripted import said
from tests.labs.language_model.server import Raw, model_server, text_reply, tool_reply, tool_use
from tests.labs.services import runs_over

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello."}]}
CALL: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in CALL.items() if key != name}


NO_ANSWERS = [
    {},
    {"type": None},
    {"type": 5},
    {"type": ["text"]},
    {"type": "text"},
    {"type": "text", "text": None},
    without("id"),
    without("name"),
    without("input"),
    CALL | {"id": 5},
    CALL | {"id": ["x"]},
    CALL | {"name": 5},
    CALL | {"name": ["x"]},
    CALL | {"input": "x"},
    CALL | {"input": [1]},
    CALL | {"input": None},
    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
]


def stream_of(*blocks: Any, stop_reason: str = "tool_use") -> Raw:
    usage = {"input_tokens": 1, "output_tokens": 1}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {"usage": usage}}]
    for index, block in enumerate(blocks):
        start = {"type": "content_block_start", "index": index, "content_block": block}
        events += [start, {"type": "content_block_stop", "index": index}]
    delta = {"stop_reason": stop_reason}
    events += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
    return Raw(
        b"".join(
            b"event: %s\ndata: %s\n\n" % (event["type"].encode(), json.dumps(event).encode())
            for event in events
        )
    )


@pytest.mark.parametrize("block", NO_ANSWERS)
async def test_what_is_no_answer_is_asked_for_again(block: Any, autojump_clock: MockClock) -> None:
    async with talk() as t:
        t.server.script(stream_of(block), text_reply("Hello"))
        assert (await t.say()).content == [{"type": "text", "text": "Hello"}]


@pytest.mark.parametrize("data", ['{"a":' * 100_000, "[" * 100_000, "1" * 100_000])
async def test_json_without_end(data: str, autojump_clock: MockClock) -> None:
    async with talk() as t:
        start = f"event: message_start\ndata: {data}\n\n"
        t.server.script(Raw(start.encode()), text_reply("Hello"))
        assert (await t.say()).content == [{"type": "text", "text": "Hello"}]


@pytest.mark.parametrize(
    "reply",
    [
        text_reply("ha" * 1_000),
        Raw(b"event: message_start\ndata: " + b"x" * 3_000),
        Raw(b"data: x\n" * 500),
    ],
)
async def test_a_reply_without_end(
    reply: Any, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(api_model, "REPLY_BYTES", 2_000)
    async with talk() as t:
        t.server.script(reply, text_reply("Hello"))
        error = await t.error()
        assert "too long" in str(error)
        assert not error.retryable
        assert (await t.say()).content == [{"type": "text", "text": "Hello"}]


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"name": "a b.☃"}, {"name": "a_b__"}),
        ({"name": "x" * 300}, {"name": "x" * 128}),
        ({"name": ""}, {"name": "_"}),
        ({"toolset_name": "computer"}, {}),
        ({"toolset_name": 5}, {}),
        ({"caller": "me"}, {}),
        ({"caller": {"type": "direct"}}, {"caller": {"type": "direct"}}),
    ],
)
def test_a_call_is_made_fit(change: dict[str, Any], kept: dict[str, Any]) -> None:
    assert sendable([CALL | change], REQUEST) == [CALL | kept]


def test_a_toolsets_call_where_there_is_one() -> None:
    call = CALL | {"toolset_name": "computer"}
    request = REQUEST | {"tools": [{"name": "x"}, {"type": "computer_toolset_20260801"}]}
    assert sendable([call], request) == [call]
    assert sendable([call | {"toolset_name": "other"}], request) == [CALL]


@pytest.mark.parametrize("call_id", ["", "a b", "☃", "toolu_0"])
def test_every_call_has_an_id_of_its_own(call_id: str) -> None:
    before = {"role": "assistant", "content": [CALL | {"id": "toolu_0"}]}
    request = {"messages": [*REQUEST["messages"], before]}
    one, two = sendable([CALL | {"id": call_id}, CALL | {"id": call_id}], request)
    for block in (one, two):
        assert block["id"].startswith("toolu_")
    assert len({one["id"], two["id"], "toolu_0"}) == 3


def test_thoughts_that_cannot_be_sent_back_are_left_out() -> None:
    whole = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    half = {"type": "thinking", "thinking": "Hm."}
    assert sendable([whole, half, {"type": "redacted_thinking"}], REQUEST) == [whole]


@pytest.mark.parametrize(
    "blocks",
    [
        [CALL, CALL],
        [CALL | {"toolset_name": "computer"}],
        [CALL | {"name": "no such tool."}],
        [CALL | {"name": "list_agents", "input": {"offset": 10**400}}],
        [CALL | {"name": "wait_agent", "input": {"chat_id": "x", "timeout_seconds": 10**400}}],
        *([block] for block in NO_ANSWERS),
    ],
)
async def test_whatever_it_says_the_chat_goes_on(
    blocks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_model, "FIRST_PAUSE_S", 0.001)
    async with model_server() as server, agents_lab() as lab:
        model = Model(
            api_key=server.api_key, base_url=server.url, name="claude-test", max_tokens=1000
        )
        lab.runs = runs_over(lab.nursery, lab.store, lab.desktops, model)
        chat = await lab.chat()
        server.script(stream_of(*blocks), *[text_reply("Fine.")] * 3)
        for text in ("Hello.", "Again."):
            done = await lab.ask(chat, text)
            assert (done.status, done.last_error) == ("waiting", None)
        assert server.refusals == []
        assert (await lab.messages(chat.id))[-1].content == said("Fine.").content
        await model.aclose()


async def test_a_call_of_no_member_of_the_toolset_is_told() -> None:
    async with model_server() as server, agents_lab() as lab:
        model = Model(
            api_key=server.api_key, base_url=server.url, name="claude-test", max_tokens=1000
        )
        lab.runs = runs_over(lab.nursery, lab.store, lab.desktops, model)
        dance, look = (tool_use(name, {}, toolset="computer") for name in ("dance", "screenshot"))
        server.script(tool_reply(dance, look), tool_reply(look | {"id": "toolu_x"}))
        server.script(text_reply("I cannot dance."))
        child = await lab.runs.spawn(await lab.chat(), "Dance", said("Dance.").content)
        assert child is not None
        assert (await lab.idle(child.id)).status == "waiting"
        assert server.refusals == []
        unknown, skipped, seen = await lab.results(child.id)
        assert unknown["is_error"]
        assert unknown["toolset_name"] == "computer"
        text = unknown["content"][0]["text"]
        assert text.startswith("Error: unknown computer toolset member 'dance'. Choose one of: ")
        assert skipped["content"] == [{"type": "text", "text": NOT_EXECUTED}]
        assert not seen["is_error"]
        assert (await lab.messages(child.id))[-1].content == said("I cannot dance.").content
        await model.aclose()
