"""A model's replies as they come over HTTP from the stand-in, retries, and cancelled requests."""

from __future__ import annotations

import io
import json
import math
from typing import Any
from uuid import UUID

import pytest
import trio
from PIL import Image
from trio.testing import MockClock

from api.agents import model as api_model
from api.agents.model import Reply
from api.agents.transcript import Stored, request_messages
from relay.computer.versions import TOOLSET
from tests.labs.language_model.client import HELLO, TOOL, talk
from tests.labs.language_model.server import (
    Json,
    Message,
    broken_after,
    error_after,
    failure,
    stalls,
    text_reply,
    tool_reply,
    tool_use,
)


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

    async def test_what_no_request_may_have_is_not_sent_back(self) -> None:
        # Python's JSON takes what neither the API nor PostgreSQL does.
        call = tool_use("look", {"at": math.inf, "why": "half a \ud83d", "whole": "\ud83d\udcbb"})
        async with talk() as t:
            t.server.script(tool_reply(call), text_reply("Done."))
            first = await t.say()
            assert first.content[0]["input"] == {"at": None, "why": "half a �", "whole": "💻"}
            result = {"type": "tool_result", "tool_use_id": call["id"], "content": "A wall."}
            said = {"role": "assistant", "content": first.content}
            reply = await t.say(messages=[*HELLO, said, {"role": "user", "content": [result]}])
            assert reply.content == [{"type": "text", "text": "Done."}]

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
    async def test_what_may_pass_is_tried_again(
        self, status: int, autojump_clock: MockClock
    ) -> None:
        async with talk() as t:
            t.server.script(failure(status), failure(status), text_reply("Hello"))
            began_s = trio.current_time()
            await t.say()
            assert 0.5 + 1 <= trio.current_time() - began_s <= 1 + 2 + 1
            assert "".join(t.shown) == "Hello"

    async def test_the_tries_and_their_pauses_are_bounded(self, autojump_clock: MockClock) -> None:
        async with talk(retries=8) as t:
            t.server.script(*[failure(529)] * 10)
            began_s = trio.current_time()
            error = await t.error()
            assert error.retryable
            assert "overloaded" in str(error)
            assert t.server.left == 1
            assert trio.current_time() - began_s <= 1 + 2 + 4 + 8 + 16 + 30 + 30 + 30 + 1

    async def test_the_server_says_when(self, autojump_clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(failure(429, retry_after_s=45), text_reply("Hello"))
            began_s = trio.current_time()
            await t.say()
            assert 45 <= trio.current_time() - began_s < 46

    async def test_too_long_a_pause_is_not_waited_for(self, autojump_clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(failure(429, retry_after_s=3600), text_reply("Hello"))
            began_s = trio.current_time()
            error = await t.error()
            assert error.retryable
            assert trio.current_time() - began_s < 1

    async def test_the_server_says_whether(self, autojump_clock: MockClock) -> None:
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
        self, broken: Any, autojump_clock: MockClock
    ) -> None:
        async with talk() as t:
            t.server.script(broken, text_reply("Hello"))
            reply = await t.say()
            assert reply.content == [{"type": "text", "text": "Hello"}]
            assert "".join(t.shown) == "HelRESTARTHello"

    async def test_one_restart_for_what_was_shown(self, autojump_clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(broken_after("Hel"), failure(529), stalls(), text_reply("Hello"))
            await t.say()
            assert "".join(t.shown) == "HelRESTARTHello"

    async def test_pings_do_not_go_on_for_ever(
        self, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_model, "TRY_LIMIT_S", 35)
        async with talk(timeout_s=15) as t:
            t.server.script(stalls("Hel", pings=True), text_reply("Hello"))
            await t.say()
            assert "".join(t.shown) == "HelRESTARTHello"
            assert 35 < trio.current_time() < 40

    async def test_nothing_shown_needs_no_restart(self, autojump_clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(stalls(), text_reply("Hello"))
            await t.say()
            assert "".join(t.shown) == "Hello"

    async def test_a_stream_that_stays_open_behind_its_end(self, autojump_clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(text_reply("Hello", hold_open=True))
            began_s = trio.current_time()
            reply = await t.say()
            assert reply.content == [{"type": "text", "text": "Hello"}]
            assert trio.current_time() - began_s < 10

    async def test_nobody_there(self, autojump_clock: MockClock) -> None:
        async with talk(base_url="http://127.0.0.1:9", retries=2) as t:
            error = await t.error()
            assert error.retryable
            assert "could not be reached" in str(error)


class TestChats:
    async def test_a_long_chat_with_pictures_is_never_refused(self) -> None:
        """Replies as they come, stored, and made into the next request."""
        stored: list[Stored] = [("user", [{"type": "text", "text": "Look around."}])]
        source = {"type": "stored", "file_id": str(UUID(int=1))}
        asked: list[int] = []

        def answer(request: Json) -> Message:
            asked.append(json.dumps(request["messages"]).count('"base64"'))
            thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
            call = tool_use("screenshot", {}, toolset="computer")
            return tool_reply(thought, call, tool_use("look", {"at": len(asked)}))

        async with talk() as t:
            for turn in range(35):
                t.server.script(answer)
                messages = await request_messages(stored, load)
                reply = await t.say(messages=messages, tools=[TOOL, {"type": TOOLSET}])
                stored.append(("assistant", reply.content))
                if turn % 7 == 3:
                    stored.append(("user", [{"type": "text", "text": "Stop!"}]))
                    continue
                picture = {"type": "image", "source": source}
                results: list[Json] = [
                    {"type": "tool_result", "tool_use_id": block["id"], "content": [picture]}
                    for block in reply.content
                    if block["type"] == "tool_use"
                ]
                results[0]["toolset_name"] = "computer"
                stored.append(("user", results))
            assert t.server.refusals == []
            assert max(asked) == 18
            assert asked[-1] >= 10


async def load(file_id: UUID) -> tuple[str, bytes]:
    file = io.BytesIO()
    Image.new("RGB", (1280, 800)).save(file, "PNG")
    return "image/png", file.getvalue()


class TestCancellation:
    @pytest.mark.parametrize("stalled", [stalls(), stalls("Hel"), failure(529)], ids=str)
    async def test_a_cancelled_request_closes_its_connection(
        self, stalled: Any, autojump_clock: MockClock
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

    async def test_at_once_also_before_closing(self, autojump_clock: MockClock) -> None:
        async with talk() as t:
            t.server.script(stalls("Hel"))
            with trio.move_on_after(0.4):
                await t.say()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert t.server.connections == 0

    async def test_in_every_pause_between_two_events(self, autojump_clock: MockClock) -> None:
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
