"""What a model says has bounds where it is kept, and a chat goes on whatever it says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, insert, text
from trio.testing import MockClock

from api.agents import bounds
from api.agents.bounds import BLOCKS, DEPTH, TooMuch, bounded, is_within_depth
from api.agents.model import Model
from api.agents.tools import PROBLEM_CHARS
from api.store import Chat
from api.store.schema import messages
from tests.labs.agents import AgentsLab, agents_lab, last_result
from tests.labs.language_model.client import talk
from tests.labs.language_model.scripted import call, calls, on_screen, said
from tests.labs.language_model.server import Raw, model_server, text_reply
from tests.labs.services import runs_over


def depth_of(value: object) -> int:
    inner: Sequence[object] = ()
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list):
        inner = value
    else:
        return 0
    return 1 + max(map(depth_of, inner), default=0)


def of_depth(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    while depth_of(value) < depth:
        value = {"a": [value]} if depth_of(value) + 2 <= depth else {"a": value}
    return value


@pytest.mark.parametrize("depth", [1, 2, 3, 62, 63, 64, 65, 300])
def test_depth(depth: int) -> None:
    assert depth_of(of_depth(depth)) == depth
    assert is_within_depth(of_depth(depth)) == (depth <= DEPTH)


def test_depth_needs_no_stack() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    assert not is_within_depth(value)


def test_what_has_no_depth() -> None:
    values: list[object] = [1, "x" * 100, None, [], {}]
    assert all(is_within_depth(value, 1) for value in values)


def test_the_deepest_input_that_is_kept() -> None:
    fine = call("x", of_depth(DEPTH - 2))
    assert bounded([fine]) == ([fine], {})
    kept, refused = bounded([call("x", of_depth(DEPTH - 1)) | {"id": "toolu_1"}])
    assert kept[0]["input"] == {}
    assert refused == {"toolu_1": "Not executed: the input is nested more than 62 deep."}


def test_the_largest_input_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "INPUT_BYTES", 20)
    fine = call("x", {"a": "x" * 11})
    assert bounded([fine]) == ([fine], {})
    kept, refused = bounded([call("x", {"a": "x" * 12}) | {"id": "toolu_1"}])
    assert kept[0]["input"] == {}
    assert refused == {"toolu_1": "Not executed: the input has more than 20 bytes of JSON."}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"type": "text", "text": "x"}] * (BLOCKS + 1), "more than 100 parts"),
        ([{"type": "text", "text": "x" * (1 << 20)}], "too long"),
        ([{"type": "text", "text": "☃" * (1 << 18)}], "too long"),
        ([{"type": "search", "found": of_depth(300)}], "too deeply"),
        ([call("x") | {"caller": of_depth(300)}], "too deeply"),
    ],
)
async def test_an_answer_that_is_too_much_is_none(content: Any, words: str) -> None:
    with pytest.raises(TooMuch, match=words):
        bounded(content)
    async with agents_lab() as lab:
        chat = await lab.chat()
        lab.talker.parent = [calls(*content), said("Fine.")]
        done = await lab.ask(chat)
        assert done.status == "error"
        assert words in str(done.last_error)
        assert str(done.last_error).count("Send a message to go on") == 1
        assert [m.role for m in await lab.messages(chat.id)] == ["user"]
        done = await lab.ask(chat, "Shorter.")
        assert (done.status, done.last_error) == ("waiting", None)
        assert (await lab.messages(chat.id))[-1].content == said("Fine.").content


@pytest.mark.parametrize("given", [of_depth(300), {"prompt": "x" * (1 << 18)}])
async def test_a_call_that_is_too_much_is_told_to_the_model(given: Any) -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        refused = call("spawn_computer_use_agent", given)
        fine = call("spawn_computer_use_agent", {"prompt": "Look."})
        lab.talker.parent = [calls(fine, refused), said("I see.")]
        done = await lab.ask(chat)
        assert (done.status, done.last_error) == ("waiting", None)
        other, own = await lab.results(chat.id)
        assert other["is_error"]
        assert own["is_error"]
        assert own["content"][0]["text"].startswith("Not executed: the input ")
        assert other["content"][0]["text"] == bounds.OTHER_REFUSED
        # The first one has not been done either: what was to follow it is not known.
        assert await lab.runs.conversations.children(chat.id) == []
        kept = (await lab.messages(chat.id))[1].content
        assert [block["input"] for block in kept] == [{"prompt": "Look."}, {}]
        assert all(is_within_depth(message.content) for message in await lab.messages(chat.id))
        assert last_result(lab.talker.requests[1]) == own["content"][0]["text"]


async def test_a_model_that_says_nothing_else_is_stopped() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        lab.talker.parent = [calls(call("list_agents", of_depth(300))) for _ in range(20)]
        done = await lab.ask(chat)
        assert done.status == "error"
        assert "every tool call failed" in str(done.last_error)


async def test_a_tool_of_the_desktop_is_refused_the_same_way() -> None:
    async with agents_lab() as lab:
        lab.talker.agent = [calls(on_screen("type", of_depth(300))), said("I cannot.")]
        child = await lab.runs.spawn(await lab.chat(), "Type", said("Type.").content)
        assert child is not None
        assert (await lab.idle(child.id)).status == "waiting"
        (result,) = await lab.results(child.id)
        assert result["is_error"]
        assert result["toolset_name"] == "computer"


async def store_raw(lab: AgentsLab, chat: Chat, *contents: tuple[str, str]) -> None:
    """Messages as an older version has stored them."""

    def write(connection: Connection) -> None:
        for role, raw in contents:
            row = {"chat_id": chat.id, "role": role, "content": [], "created_at": chat.created_at}
            key = connection.execute(insert(messages).values(row)).inserted_primary_key
            assert key is not None
            connection.execute(
                text("UPDATE messages SET content = :raw WHERE id = :id"),
                {"raw": raw, "id": key[0]},
            )

    await lab.store.database.run(write, write=True)


@pytest.mark.parametrize("depth", [63, 300, 900, 5_000])
async def test_a_chat_that_has_kept_too_much_goes_on(depth: int) -> None:
    deep = '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1)
    before = [
        ("user", json.dumps(said("Hello.").content)),
        ("assistant", f'[{{"type":"tool_use","id":"t1","name":"x","input":{deep}}}]'),
        ("user", json.dumps([{"type": "tool_result", "tool_use_id": "t1", "content": "No."}])),
    ]
    async with agents_lab() as lab:
        chat = await lab.chat()
        await store_raw(lab, chat, *before)
        lab.talker.parent = [said("Fine.")]
        done = await lab.ask(chat, "Go on.")
        assert (done.status, done.last_error) == ("waiting", None)
        (asked,) = lab.talker.requests
        assert is_within_depth(asked["messages"], DEPTH + 2)
        if depth < 5_000:
            assert asked["messages"][1]["content"][0] == {
                "type": "tool_use",
                "id": "t1",
                "name": "x",
                "input": {},
            }


async def test_a_stream_longer_than_an_answer_is_not_read_on(autojump_clock: MockClock) -> None:
    async with talk() as t:
        t.server.script(text_reply("ha" * (1 << 19)), text_reply("ha" * (1 << 19 | 1)))
        assert len((await t.say()).content[0]["text"]) == 1 << 20
        error = await t.error()
        assert "too long" in str(error)
        assert not error.retryable


async def test_what_a_call_gets_wrong_is_told_briefly() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        given = {f"{number}{'x' * 100}": 1 for number in range(1_000)}
        lab.talker.parent = [calls(call("list_agents", given)), said("I see.")]
        assert (await lab.ask(chat)).status == "waiting"
        (result,) = await lab.results(chat.id)
        assert result["is_error"]
        assert len(result["content"][0]["text"]) == PROBLEM_CHARS


@pytest.mark.parametrize("depth", [63, 300, 980, 100_000])
async def test_an_input_that_is_nested_too_deeply_is_told_whatever_its_depth(depth: int) -> None:
    async with model_server() as server, agents_lab() as lab:
        model = Model(
            api_key=server.api_key, base_url=server.url, name="claude-test", max_tokens=1000
        )
        lab.runs = runs_over(lab.nursery, lab.store, lab.desktops, model)
        chat = await lab.chat()
        given = '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1)
        server.script(tool_stream("list_agents", given), text_reply("I see."))
        done = await lab.ask(chat)
        assert (done.status, done.last_error) == ("waiting", None)
        assert server.refusals == []
        (result,) = await lab.results(chat.id)
        assert result["content"][0]["text"] == (
            "Not executed: the input is nested more than 62 deep."
        )
        await model.aclose()


def tool_stream(name: str, given: str) -> Raw:
    """An answer that calls a tool with the JSON text `given`."""
    usage = {"input_tokens": 1, "output_tokens": 1}
    block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}
    delta = {"type": "input_json_delta", "partial_json": given}
    stop = {"stop_reason": "tool_use"}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "message_delta", "delta": stop, "usage": usage},
        {"type": "message_stop"},
    ]
    return Raw(
        b"".join(
            b"event: %s\ndata: %s\n\n" % (event["type"].encode(), json.dumps(event).encode())
            for event in events
        )
    )
