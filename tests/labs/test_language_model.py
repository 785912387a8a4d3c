"""The stand-in for the Messages API refuses what the API refuses, and says what it is told to."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
import trio
from PIL import Image

from api.settings import ModelSettings
from tests.labs.language_model import rules
from tests.labs.language_model.rules import Refused, check_body
from tests.labs.language_model.server import (
    API_KEY,
    Json,
    Message,
    ModelServer,
    broken_after,
    failure,
    model_server,
    stalls,
    text_reply,
    tool_reply,
    tool_use,
)

BETA = "computer-use-2025-11-24"
LATEST = "computer_toolset_20260801"


def image(
    width: int = 4, height: int = 4, kind: str = "PNG", data: bytes | None = None, **source: Any
) -> Json:
    if data is None:
        file = io.BytesIO()
        Image.new("RGB", (width, height)).save(file, kind)
        data = file.getvalue()
    text = base64.b64encode(data).decode()
    made = {"type": "base64", "media_type": f"image/{kind.lower()}", "data": text, **source}
    return {"type": "image", "source": made}


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def body() -> Json:
    """A request with nearly everything in it, which is well."""
    return {
        "model": "m",
        "max_tokens": 100,
        "system": [{**text("Be short."), "cache_control": {"type": "ephemeral"}}],
        "tools": [
            {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}},
            {
                "type": "computer_20251124",
                "name": "computer",
                "display_width_px": 1280,
                "display_height_px": 800,
                "enable_zoom": True,
            },
            {"type": "computer_toolset_20260801", "configs": {"zoom": {"enabled": False}}},
        ],
        "messages": [
            {"role": "user", "content": "Hello"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                    text("I look."),
                    {"type": "tool_use", "id": "a", "name": "look", "input": {}},
                    {
                        "type": "tool_use",
                        "id": "b",
                        "name": "screenshot",
                        "input": {},
                        "toolset_name": "computer",
                    },
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "a",
                        "content": "no",
                        "is_error": True,
                    },
                    {
                        "type": "tool_result",
                        "tool_use_id": "b",
                        "content": [text("OK"), image()],
                        "toolset_name": "computer",
                    },
                    image(kind="JPEG"),
                    {**text("And?"), "cache_control": {"type": "ephemeral"}},
                ],
            },
        ],
    }


def said(request: Json) -> list[Json]:
    return request["messages"][1]["content"]  # type: ignore[no-any-return]


def heard(request: Json) -> list[Json]:
    return request["messages"][2]["content"]  # type: ignore[no-any-return]


def set_(path: str, value: Any) -> Callable[[Json], None]:
    """Sets what is at a path such as "tools.0.name"; ... takes it out."""

    def change(request: Json) -> None:
        *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        at: Any = request
        for part in parts:
            at = at[part]
        if value is ...:
            del at[last]
        elif isinstance(at, list) and last == len(at):
            at.append(value)
        else:
            at[last] = value

    return change


RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "x"}
CALL = {"type": "tool_use", "id": "a", "name": "look", "input": {}}
MARK = {"type": "ephemeral"}
OLD = {
    "type": "computer_20250124",
    "name": "computer",
    "display_width_px": 1280,
    "display_height_px": 800,
}

WRONG: list[tuple[str, Callable[[Json], Any]]] = [
    ("model: Field required", set_("model", ...)),
    ("temperature: Extra inputs", set_("temperature", 0.5)),
    ("max_tokens: must be greater", set_("max_tokens", 0)),
    ("must be non-empty", set_("system", "")),
    ("must be non-empty", set_("system.0.text", "")),
    ("at least one message", set_("messages", [])),
    # Roles.
    ("roles must alternate", lambda r: r["messages"].pop(0)),
    ("roles must alternate", set_("messages.3", {"role": "user", "content": "x"})),
    ("'user' or 'assistant'", set_("messages.0.role", "system")),
    ("assistant message prefill", set_("messages.3", {"role": "assistant", "content": "x"})),
    ("non-empty content", set_("messages.0.content", [])),
    ("must be non-empty", set_("messages.0.content", "")),
    ("non-whitespace", set_("messages.2.content.3.text", " ")),
    ("text.id: Extra inputs", set_("messages.2.content.3.id", "x")),
    ("Input tag 'tool_use'", set_("messages.2.content.3", CALL)),
    ("Input tag 'tool_result'", set_("messages.1.content.1", RESULT)),
    ("Input tag 'image'", set_("messages.1.content.1", image())),
    # Calls and results.
    ("immediately after: a", lambda r: heard(r).pop(0)),
    ("immediately after: b", lambda r: heard(r).pop(1)),
    ("immediately after", lambda r: heard(r).insert(0, text("x"))),
    ("unexpected `tool_use_id`", lambda r: said(r).pop(2)),
    ("unexpected `tool_use_id`", set_("messages.0.content", [RESULT])),
    ("multiple `tool_result`", lambda r: heard(r).insert(0, RESULT)),
    ("ids must be unique", lambda r: said(r).append(CALL)),
    ("must define tools", set_("tools", [])),
    ("toolset_name of the result", set_("messages.2.content.1.toolset_name", ...)),
    ("toolset_name of the result", set_("messages.2.content.0.toolset_name", "computer")),
    ("is not declared", lambda r: r["tools"].pop()),
    ("caller: must be direct", set_("messages.1.content.2.caller", {"type": "code_execution"})),
    ("input: must be an object", set_("messages.1.content.2.input", "x")),
    ("tool_use.id: must match", set_("messages.1.content.2.id", "a b")),
    ("content cannot be empty", set_("messages.2.content.0.content", [])),
    ("must be type `text`", set_("messages.2.content.0.content", [image()])),
    ("Input tag 'tool_use'", set_("messages.2.content.1.content.0", CALL)),
    ("must be non-empty", set_("messages.2.content.1.content.0.text", "")),
    ("cannot be `thinking`", lambda r: said(r).append(said(r)[0])),
    ("Invalid `signature`", set_("messages.1.content.0.signature", "")),
    # Pictures.
    ("Input tag 'stored'", set_("messages.2.content.2.source", {"type": "stored"})),
    ("Input tag 'url'", set_("messages.2.content.2.source", {"type": "url", "url": "http://a/"})),
    ("media_type: must be one of", set_("messages.2.content.2.source.media_type", "image/bmp")),
    ("appears to be JPEG", set_("messages.2.content.2.source.media_type", "image/png")),
    ("invalid base64", set_("messages.2.content.2.source.data", "????")),
    ("Could not process image", set_("messages.2.content.2", image(data=b"no picture"))),
    ("Could not process image", set_("messages.2.content.2", image(data=b"\x89PNG\r\n\x1a\n"))),
    ("exceeds 5 MB", set_("messages.2.content.2", image(data=bytes(4_000_000)))),
    ("8000 pixels", set_("messages.2.content.2", image(8001, 1))),
    ("over the model's limit", set_("messages.2.content.1.content.1", image(2577, 1))),
    ("over the model's limit", set_("messages.2.content.1.content.1", image(2576, 1500))),
    ("many-image", lambda r: heard(r).extend([image()] * 18 + [image(2001, 1)])),
    ("Too many images", lambda r: heard(r).extend([image()] * 99)),
    # Tools.
    ("beta header computer-use-2025-01-24", set_("tools.1", OLD)),
    ("enable_zoom: Extra inputs", set_("tools.1", {**OLD, "enable_zoom": True})),
    ("Input tag 'computer_2030'", set_("tools.1.type", "computer_2030")),
    ("display_width_px: Field required", set_("tools.1.display_width_px", ...)),
    ("display_height_px: must be greater", set_("tools.1.display_height_px", 0)),
    ("name: must be 'computer'", set_("tools.1.name", "desktop")),
    ("name: Extra inputs", set_("tools.2.name", "computer")),
    ("configs.dance: Extra inputs", set_("tools.2.configs", {"dance": {}})),
    ("input_schema: Field required", set_("tools.0.input_schema", ...)),
    ("input_schema.type", set_("tools.0.input_schema", {})),
    ("must match the pattern", set_("tools.0.name", "look up")),
    ("names must be unique", lambda r: r["tools"].append(r["tools"][0])),
    # Forms.
    ("model: must be", set_("model", "")),
    ("a string or a list of blocks", set_("system", [])),
    ("tools: must be a list", set_("tools", {})),
    ("tools.0: must be an object", set_("tools.0", "look")),
    ("content.3: must be an object", set_("messages.2.content.3", "And?")),
    ("text: must be a string", set_("messages.2.content.3.text", 5)),
    ("thinking: must be a string", set_("messages.1.content.0.thinking", None)),
    ("tool_use.name: must match", set_("messages.1.content.2.name", "look up")),
    ("is_error: must be a boolean", set_("messages.2.content.0.is_error", "yes")),
    ("a string or a list", set_("messages.2.content.0.content", 5)),
    ("source: must be an object", set_("messages.2.content.2.source", "x")),
    ("data: must be a string", set_("messages.2.content.2.source.data", None)),
    # Cache marks.
    ("cache_control: must be", set_("messages.2.content.3.cache_control", {"type": "long"})),
    ("Extra inputs", set_("messages.1.content.0.cache_control", MARK)),
    ("Found 5", lambda r: [block.update(cache_control=MARK) for block in heard(r)]),
]


class TestRules:
    def test_what_is_well(self) -> None:
        check_body(body(), BETA)

    def test_a_call_of_no_member_is_a_call(self) -> None:
        """Which a result with an error answers."""
        request = body()
        said(request)[3]["name"] = "dance"
        check_body(request, BETA)

    def test_twenty_large_pictures(self) -> None:
        request = body()
        heard(request).extend([image()] * 17 + [image(8000, 1)])
        check_body(request, BETA)

    @pytest.mark.parametrize(("words", "change"), WRONG)
    def test_what_is_not(self, words: str, change: Callable[[Json], Any]) -> None:
        request = copy.deepcopy(body())
        change(request)
        with pytest.raises(Refused) as caught:
            check_body(request, BETA)
        assert words in str(caught.value)
        assert (caught.value.status, caught.value.kind) == (400, "invalid_request_error")

    def test_betas_may_be_several(self) -> None:
        older = rules.BETAS["computer_20250124"]
        check_body(body(), f"{older}, {BETA}")
        with pytest.raises(Refused, match="beta header"):
            check_body(body(), older)
        with pytest.raises(Refused, match=r"Unexpected value\(s\) `other-2026-01-01`"):
            check_body(body(), f"{BETA},other-2026-01-01")

    @pytest.mark.parametrize(
        ("model", "takes"),
        [
            ("claude-opus-5-5", {LATEST}),
            ("claude-mythos-5-2", {LATEST}),
            ("claude-opus-5", {LATEST, "computer_20251124"}),
            ("claude-opus-4-8", {LATEST, "computer_20251124"}),
            ("claude-sonnet-4-5-20250929", {"computer_20251124"}),
        ],
    )
    @pytest.mark.parametrize("version", [LATEST, "computer_20251124"])
    def test_models_and_versions(self, model: str, takes: set[str], version: str) -> None:
        tools = [tool for tool in body()["tools"] if tool.get("type") == version]
        request = {**HELLO, "model": model, "tools": tools}
        if version in takes:
            check_body(request, BETA)
        else:
            with pytest.raises(Refused, match=f"'{model}' does not support tool types: {version}"):
                check_body(request, BETA)

    def test_the_model_that_chats_have_takes_their_version(self) -> None:
        settings = ModelSettings()
        request = {**HELLO, "model": settings.name, "tools": [{"type": settings.computer}]}
        check_body(request)


HEADERS = {"x-api-key": API_KEY, "anthropic-version": "2023-06-01"}
HELLO: Json = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}


async def post(
    server: ModelServer, path: str = "/v1/messages", content: bytes = b"", **headers: str
) -> httpx.Response:
    content = content or json.dumps(HELLO).encode()
    kind = {"content-type": "application/json"}
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(
            server.url + path, content=content, headers={**HEADERS, **kind, **headers}
        )


class TestHttp:
    @pytest.mark.parametrize(
        ("request_", "status", "kind"),
        [
            ({"x-api-key": "wrong"}, 401, "authentication_error"),
            ({"x-api-key": ""}, 401, "authentication_error"),
            ({"content-type": "text/plain"}, 400, "invalid_request_error"),
            ({"content": b"{"}, 400, "invalid_request_error"),
            ({"content": b"[]"}, 400, "invalid_request_error"),
            ({"content": bytes(32_000_001)}, 413, "request_too_large"),
            ({"path": "/v1/complete"}, 404, "not_found_error"),
        ],
    )
    async def test_refusals(self, request_: dict[str, Any], status: int, kind: str) -> None:
        async with model_server() as server:
            server.script(text_reply("Hello"))
            response = await post(server, **request_)
            assert response.status_code == status
            assert response.json()["error"]["type"] == kind
            assert server.requests == []
            assert server.refusals == [response.json()["error"]["message"]]
            assert server.left == 1

    async def test_the_version_is_needed(self) -> None:
        async with model_server() as server, httpx.AsyncClient(trust_env=False) as client:
            response = await client.post(
                server.url + "/v1/messages", json=HELLO, headers={"x-api-key": API_KEY}
            )
            assert "anthropic-version" in response.json()["error"]["message"]

    async def test_thoughts_come_back_as_they_were(self) -> None:
        thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
        async with model_server() as server:
            server.script(tool_reply(thought, text("Yes."), stop_reason="end_turn"))
            server.script(text_reply("Good."))
            await post(server)
            for sent, status in (({**thought, "thinking": "Oh."}, 400), (thought, 200)):
                said = {"role": "assistant", "content": [sent, text("Yes.")]}
                again = {**HELLO, "messages": [*HELLO["messages"], said, *HELLO["messages"]]}
                response = await post(server, content=json.dumps(again).encode())
                assert response.status_code == status
            assert ["Invalid `signature`" in refusal for refusal in server.refusals] == [True]

    async def test_a_failure(self) -> None:
        async with model_server() as server:
            server.script(failure(529, retry_after_s=1.5, should_retry=True))
            response = await post(server)
            assert response.status_code == 529
            assert response.headers["retry-after"] == "1.5"
            assert response.headers["x-should-retry"] == "true"
            assert response.json()["error"] == {"type": "overloaded_error", "message": "It failed."}

    async def test_no_entry_is_left(self) -> None:
        async with model_server() as server:
            response = await post(server)
            assert response.status_code == 400
            assert "no reply" in response.json()["error"]["message"]
            assert server.refusals


def client_of(server: ModelServer) -> anthropic.AsyncAnthropic:
    http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    return anthropic.AsyncAnthropic(
        api_key=API_KEY, base_url=server.url, max_retries=0, http_client=http
    )


EVERYTHING = tool_reply(
    {"type": "thinking", "thinking": "What is there?", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "ZGF0YQ=="},
    text("I look."),
    tool_use("look", {"at": [1, {"x": "ü"}]}),
    tool_use("look", {}),
    tool_use("screenshot", {}, toolset="computer"),
)


class TestWithTheSdk:
    """It reads what the stand-in writes, so that is what the API writes."""

    async def test_a_stream_holds_what_the_whole_message_holds(self) -> None:
        async with model_server() as server, client_of(server) as client:
            server.script(EVERYTHING, EVERYTHING)
            whole = await client.messages.create(**HELLO)
            async with client.messages.stream(**HELLO) as stream:
                streamed = await stream.get_final_message()
            for message in (whole, streamed):
                blocks = [block.to_dict() for block in message.content]
                for block in blocks:
                    for name in ("caller", "citations", "parsed_output"):
                        block.pop(name, None)
                    if block.get("toolset_name", "") is None:
                        del block["toolset_name"]
                assert blocks == EVERYTHING.content
                assert message.stop_reason == "tool_use"
                assert message.usage.input_tokens == 11
                assert message.usage.cache_read_input_tokens == 7
                assert message.usage.output_tokens == 5

    async def test_a_broken_stream(self) -> None:
        async with model_server() as server, client_of(server) as client:
            server.script(broken_after("Hel"))
            async with client.messages.stream(**HELLO) as stream:
                with pytest.raises(httpx2.RemoteProtocolError):
                    await stream.until_done()
                (block,) = stream.current_message_snapshot.content
            assert block.to_dict()["text"] == "Hel"

    async def test_a_client_that_goes_ends_a_stall(self) -> None:
        async with model_server() as server:
            async with client_of(server) as client:
                server.script(stalls("Hel"))
                with trio.move_on_after(0.1):
                    async with client.messages.stream(**HELLO) as stream:
                        await stream.until_done()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert server.connections == 0


class TestScripts:
    async def test_entries_by_conversation(self) -> None:
        def system(words: str) -> Callable[[Json], bool]:
            return lambda request: request.get("system") == words

        def echo(request: Json) -> Message:
            return text_reply(request["messages"][-1]["content"])

        async def later(request: Json) -> Message:
            await released.wait()
            return text_reply("later")

        async def ask(words: str) -> str:
            content = json.dumps({**HELLO, "system": words}).encode()
            reply = (await post(server, content=content)).json()
            return str(reply["content"][0]["text"])

        released = trio.Event()
        async with model_server() as server:
            server.script(text_reply("parent 1"), later, when=system("parent"))
            server.script(text_reply("child 1"), text_reply("child 2"), when=system("child"))
            server.script(echo)
            assert await ask("child") == "child 1"
            assert await ask("parent") == "parent 1"
            assert await ask("child") == "child 2"
            assert await ask("child") == "Hello"
            async with trio.open_nursery() as nursery:
                answers = []

                async def wait() -> None:
                    answers.append(await ask("parent"))

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert answers == []
                released.set()
            assert answers == ["later"]
            assert server.left == 0
            assert [r.body["system"] for r in server.requests][:2] == ["child", "parent"]
            assert server.requests[0].headers["x-api-key"] == API_KEY


def test_the_rules_know_every_version() -> None:
    from relay.computer.versions import TOOLSET, VERSIONS

    betas = {name: version.beta_header for name, version in VERSIONS.items()}
    assert betas == {**rules.BETAS, TOOLSET: None}
    assert set(VERSIONS[TOOLSET].actions) == rules.MEMBERS
