"""The turns of a chat's model: what is heard, said, done and saved, and what ends them."""

from __future__ import annotations

import base64
import json
from collections.abc import Hashable
from io import BytesIO
from typing import Any

import pytest
import trio
from PIL import Image

from api.agents.model import ModelError, Reply
from api.agents.turns import FAILURES_LIMIT
from api.computer import VOID
from relay.computer.versions import NOT_EXECUTED
from relay.desktops import RunningDesktop
from relay.dialling.addresses import parse_address
from tests.labs.agents import SPAWN, agents_lab, last_result, to_spawned
from tests.labs.language_model.scripted import call, calls, on_screen, said


async def test_a_question_and_its_answer() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        lab.talker.parent = [said("Hello yourself.")]
        done = await lab.ask(chat, "Hello.")
        assert (done.status, done.last_error, done.running_until) == ("waiting", None, None)
        assert [(m.role, m.content) for m in await lab.messages(chat.id)] == [
            ("user", [{"type": "text", "text": "Hello."}]),
            ("assistant", [{"type": "text", "text": "Hello yourself."}]),
        ]
        (asked,) = lab.talker.requests
        assert asked["beta"] is None
        assert {tool["name"] for tool in asked["tools"]} == {
            "spawn_computer_use_agent",
            "wait_agent",
            "message_agent",
            "interrupt_agent",
            "close_agent",
            "list_agents",
        }


async def test_an_agent_looks_at_the_desktop_and_reports() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        lab.talker.parent = [
            calls(call(*SPAWN)),
            to_spawned("wait_agent"),
            said("It is a pattern."),
        ]
        lab.talker.agent = [calls(on_screen("screenshot")), said("I see a pattern.")]
        assert (await lab.ask(chat)).status == "waiting"
        child = await lab.only_child(chat)
        assert (child.mode, child.status, child.parent_id) == ("computer_use", "waiting", chat.id)
        assert child.workspace_id == lab.workspace.id
        assert child.title == "Look at the screen and say..."
        spawn, waited = (json.loads(r["content"][0]["text"]) for r in await lab.results(chat.id))
        assert spawn == {"chat_id": str(child.id), "title": child.title, "status": "pending"}
        assert waited == spawn | {"status": "waiting", "report": "I see a pattern."}

        (result,) = await lab.results(child.id)
        assert (result["is_error"], result["toolset_name"]) == (False, "computer")
        (block,) = result["content"]
        assert block["source"].keys() == {"type", "file_id"}
        # The agent was shown the picture that was saved.
        shown = lab.talker.requests[-2]["messages"][-1]["content"][0]["content"][0]["source"]
        picture = Image.open(BytesIO(base64.b64decode(shown["data"])))
        assert (picture.format, picture.size) == ("PNG", (1280, 800))
        first = next(r for r in lab.talker.requests if "type" in r["tools"][0])
        assert first["messages"][0]["content"][0]["text"] == SPAWN[1]["prompt"]
        assert first["tools"] == [{"type": "computer_toolset_20260801"}]


async def test_an_older_computer_tool() -> None:
    async with agents_lab(computer="computer_20250124") as lab:
        chat = await lab.chat()
        lab.talker.parent = [calls(call(*SPAWN)), to_spawned("wait_agent"), said("Done.")]
        move = {"action": "mouse_move", "coordinate": [0, 0]}
        lab.talker.agent = [calls(call("computer", move)), said("Moved.")]
        await lab.ask(chat)
        first = next(r for r in lab.talker.requests if r["beta"])
        assert first["beta"] == "computer-use-2025-01-24"
        assert first["tools"][0]["display_width_px"] == 1280
        (result,) = await lab.results((await lab.only_child(chat)).id)
        assert not result["is_error"]
        assert [block["type"] for block in result["content"]] == ["text", "image"]


async def test_an_older_tools_input_that_is_no_object_is_told() -> None:
    async with agents_lab(computer="computer_20250124") as lab:
        chat = await lab.chat()
        lab.talker.parent = [calls(call(*SPAWN)), to_spawned("wait_agent"), said("Done.")]
        lab.talker.agent = [calls(call("computer", "screenshot")), said("I see.")]
        await lab.ask(chat)
        child = await lab.only_child(chat)
        (result,) = await lab.results(child.id)
        assert (child.status, result["is_error"]) == ("waiting", True)
        assert result["content"][0]["text"].startswith("the input must be an object")


async def test_what_was_done_before_an_interrupt_is_not_said_to_be_undone() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        lab.talker.parent = [calls(call(*SPAWN)), said("It is at work.")]
        lab.talker.agent = [
            calls(on_screen("type", {"text": "rm x\n"}), on_screen("wait", {"duration": 60}))
        ]
        await lab.ask(chat)
        child = await lab.only_child(chat)
        with trio.fail_after(5):
            while len(await lab.messages(child.id)) < 2:
                await trio.sleep(0.01)
        await lab.runs.interrupt(child.id)
        await lab.ask(child, "Go on.")
        results = lab.talker.requests[-1]["messages"][-1]["content"][:2]
        for result in results:
            assert result["is_error"]
            assert "may have been done" in result["content"][0]["text"]


async def test_what_is_said_meanwhile_is_heard_behind_the_tools_results() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()

        async def hear(_asked: dict[str, Any]) -> Reply:
            await lab.runs.say(chat.id, "And another thing.")
            return calls(call("list_agents"))

        lab.talker.parent = [hear, said("Both done.")]
        assert (await lab.ask(chat)).status == "waiting"
        result, heard = lab.talker.requests[-1]["messages"][-1]["content"]
        assert (result["type"], heard["text"]) == ("tool_result", "And another thing.")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"turns_limit": 3}, "Stopped after 3 turns. Send a message to go on."),
        ({"tokens_limit": 45}, "Stopped after 60 tokens. Send a message to go on."),
        ({"time_limit_s": 0.3}, "Stopped after 0.3 s. Send a message to go on."),
    ],
)
async def test_a_model_that_goes_on_for_ever_is_stopped(
    settings: dict[str, Any], error: str
) -> None:
    async with agents_lab(**settings) as lab:
        chat = await lab.chat()

        async def on(_asked: dict[str, Any]) -> Reply:
            await trio.sleep(0.01)
            return calls(call("list_agents"))

        lab.talker.parent = [on] * 100
        done = await lab.ask(chat)
        assert (done.status, done.last_error) == ("error", error)
        lab.talker.parent = [said("Fine.")]
        assert (await lab.ask(chat)).status == "waiting"


async def test_a_model_that_talks_nonsense_is_told_so_and_stopped() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        lab.talker.parent = [calls(call("format_disk", {"now": True})) for _ in range(100)]
        done = await lab.ask(chat)
        assert done.status == "error"
        assert len(lab.talker.requests) == FAILURES_LIMIT
        text = last_result(lab.talker.requests[-1])
        assert text.startswith("There is no tool 'format_disk'. The tools are: spawn_computer_use")


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (ModelError("The key is refused.", retryable=False), "error", "The key is refused."),
        (said("I won't.", stop_reason="refusal"), "error", "The model refused to go on."),
        (said("It is a", stop_reason="max_tokens"), "error", "cut off"),
        (said("It", stop_reason="model_context_window_exceeded"), "error", "too large"),
        (Reply([], "end_turn", 1, 1), "error", "empty"),
        (RuntimeError("a bug"), "error", "Internal error."),
    ],
)
async def test_how_a_run_can_end(answer: Any, status: str, error: str) -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        lab.talker.parent = [answer]
        done = await lab.ask(chat)
        assert done.status == status
        assert error in (done.last_error or "")
        assert (await lab.ask(chat, "Again.")).status == "waiting"


async def test_a_log_tells_why_without_what_the_api_said(caplog: pytest.LogCaptureFixture) -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        lab.talker.parent = [
            ModelError("Refused (401: a word).", "Refused (401).", retryable=False)
        ]
        await lab.ask(chat, "a word")
    assert f"chat {chat.id} has no answer of its model: Refused (401)." in caplog.text
    assert "a word" not in caplog.text


async def test_half_a_call_is_not_made() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        lab.talker.parent = [calls(call(*SPAWN), stop_reason="max_tokens"), said("Shorter, then.")]
        await lab.ask(chat)
        (result,) = await lab.results(chat.id)
        assert result["is_error"]
        assert "cut off" in result["content"][0]["text"]
        assert await lab.runs.conversations.children(chat.id) == []


async def test_a_pause_of_the_model_is_no_end() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        lab.talker.parent = [said("Let me", stop_reason="pause_turn"), said(" see.")]
        assert (await lab.ask(chat)).status == "waiting"
        assert len(lab.talker.requests) == 2


async def test_a_desktop_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    async with agents_lab("tcp://127.0.0.1:1") as lab:
        chat = await lab.chat()
        lab.talker.parent = [calls(call(*SPAWN)), to_spawned("wait_agent"), said("Pity.")]
        await lab.ask(chat)
        child = await lab.only_child(chat)
        assert child.status == "error"
        told = "The desktop could not be opened: cannot connect to the desktop: Connection refused"
        assert child.last_error == told
        assert "127.0.0.1" not in str(await lab.results(chat.id))
        assert "cannot connect to tcp://127.0.0.1:1: Connection refused" in caplog.text
        assert (await lab.results(chat.id))[1]["is_error"]


async def test_a_desktop_that_ends_in_the_middle_is_told_and_opened_again() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()

        async def end_it(_asked: dict[str, Any]) -> Reply:
            await lab.desktops.stop(lab.workspace.id)
            return calls(on_screen("screenshot"))

        lab.talker.parent = [calls(call(*SPAWN)), to_spawned("wait_agent"), said("Fine.")]
        lab.talker.agent = [end_it, calls(on_screen("screenshot")), said("It is back.")]
        await lab.ask(chat)
        first, second = await lab.results((await lab.only_child(chat)).id)
        assert first["is_error"]
        assert first["content"][0]["text"].startswith("The desktop failed: ")
        assert second["content"][0]["type"] == "image"


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        ({}, ["OK"]),
        (
            {"quiet_s": 0.1, "settle_limit_s": 0.05},
            ["OK", "The screen was still changing after 0.05 s."],
        ),
    ],
)
async def test_how_long_a_screen_may_take_to_settle(
    settings: dict[str, Any], texts: list[str]
) -> None:
    async with agents_lab(**settings) as lab:
        chat = await lab.chat()
        lab.talker.parent = [calls(call(*SPAWN)), to_spawned("wait_agent"), said("Fine.")]
        lab.talker.agent = [calls(on_screen("wait", {"duration": 0})), said("Done.")]
        await lab.ask(chat)
        (result,) = await lab.results((await lab.only_child(chat)).id)
        assert [part["text"] for part in result["content"] if part["type"] == "text"] == texts


async def test_nobody_acts_by_the_screenshot_of_a_desktop_that_was() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        click = ("left_click", {"coordinate": [5, 5]})

        async def end_it(_asked: dict[str, Any]) -> Reply:
            await lab.desktops.stop(lab.workspace.id)
            return calls(on_screen("wait", {"duration": 0}), on_screen("screenshot"))

        lab.talker.parent = [calls(call(*SPAWN)), to_spawned("wait_agent"), said("Fine.")]
        lab.talker.agent = [
            calls(on_screen("screenshot")),
            end_it,
            calls(on_screen(*click), on_screen("screenshot")),
            # What is behind it in the turn was asked for before it was seen.
            calls(on_screen("screenshot"), on_screen(*click)),
            calls(on_screen(*click)),
        ]
        await lab.ask(chat)
        results = (await lab.results((await lab.only_child(chat)).id))[3:]
        texts = [result["content"][0].get("text") for result in results if result["is_error"]]
        assert texts == [VOID, NOT_EXECUTED, VOID]
        assert [result["is_error"] for result in results] == [True, True, False, True, False]


async def test_a_desktop_that_has_just_ended_is_started_again() -> None:
    async with agents_lab() as lab:
        get, ended = lab.desktops.get, trio.Event()
        nobody = RunningDesktop(parse_address("tcp://127.0.0.1:1"), ended=ended, doubt=ended.set)

        async def just_ended(key: Hashable, spec: str, owner: str = "") -> RunningDesktop:
            return await get(key, spec, owner) if ended.is_set() else nobody

        lab.desktops.get = just_ended  # type: ignore[method-assign]
        chat = await lab.chat()
        lab.talker.parent = [calls(call(*SPAWN)), to_spawned("wait_agent"), said("Fine.")]
        lab.talker.agent = [calls(on_screen("screenshot")), said("It is there.")]
        await lab.ask(chat)
        assert (await lab.only_child(chat)).status == "waiting"
