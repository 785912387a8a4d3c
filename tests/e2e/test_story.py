"""The whole story: a person asks, a model spawns an agent, the agent works on the desktop while the
person watches in the browser, and the report comes back.

The model is a script; everything else is real, and what the script says of the screen is what it
reads off the screenshot that it was sent.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import trio
from PIL import Image
from playwright.sync_api import Page

from tests.labs.e2e.commands import run, server
from tests.labs.e2e.pages import INSIDE_THE_TERMINAL, TERMINAL_COLOUR, connected, sign_in
from tests.labs.language_model.server import (
    ModelServer,
    model_server,
    text_reply,
    tool_reply,
    tool_use,
)
from tests.labs.waiting import until

# xterm's own way to have another background (OSC 11), which nothing else on the screen has.
COMMAND = "printf '\\033]11;#00ff00\\007'\n"
GREEN = (0, 255, 0)
BESIDE_THE_POINTER = (350, 270)
BEFORE = tuple(reversed(TERMINAL_COLOUR))
TASK = "Make the terminal green with the command, and say which colour it has then."


@contextmanager
def running_model() -> Iterator[ModelServer]:
    """The model server in a thread with a Trio run of its own, for these tests are not async."""
    ready: list[tuple[ModelServer, trio.lowlevel.TrioToken, trio.CancelScope]] = []
    started = threading.Event()

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with model_server() as server:
                ready.append((server, trio.lowlevel.current_trio_token(), scope))
                started.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert started.wait(10)
    server, token, scope = ready[0]
    try:
        yield server
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(10)


def results(request: dict[str, Any]) -> list[dict[str, Any]]:
    """What the newest message has of tools' results."""
    return [b for b in request["messages"][-1]["content"] if b["type"] == "tool_result"]


def seen(request: dict[str, Any]) -> tuple[int, ...]:
    """The colour inside the terminal, on the newest screenshot."""
    block = results(request)[-1]["content"][-1]
    picture = Image.open(BytesIO(base64.b64decode(block["source"]["data"]))).convert("RGB")
    colour = picture.getpixel(BESIDE_THE_POINTER)
    assert isinstance(colour, tuple)
    return tuple(map(int, colour))


def said_of_agent(request: dict[str, Any]) -> dict[str, Any]:
    text = results(request)[-1]["content"][0]["text"]
    assert text.startswith("{"), text
    told: dict[str, Any] = json.loads(text)
    return told


def script(model: ModelServer) -> None:
    def is_agent(request: dict[str, Any]) -> bool:
        return any(tool.get("type", "").startswith("computer") for tool in request["tools"])

    def on_screen(name: str, **given: object) -> dict[str, Any]:
        return tool_use(name, given, toolset="computer")

    def wait_for_it(request: dict[str, Any]) -> Any:
        return tool_reply(tool_use("wait_agent", {"chat_id": said_of_agent(request)["chat_id"]}))

    def pass_on(request: dict[str, Any]) -> Any:
        return text_reply(f"The agent says: {said_of_agent(request)['report']}")

    def look_again(then: Callable[[dict[str, Any]], Any]) -> Any:
        # xterm is slower than the desktop that it is on.
        model.script(then, when=is_agent)
        return tool_reply(on_screen("wait", duration=0.2), on_screen("screenshot"))

    def use_the_terminal(request: dict[str, Any]) -> Any:
        if seen(request) != BEFORE:
            return look_again(use_the_terminal)
        model.script(report, when=is_agent)
        return tool_reply(
            on_screen("left_click", coordinate=list(INSIDE_THE_TERMINAL)),
            on_screen("type", text=COMMAND),
        )

    def report(request: dict[str, Any]) -> Any:
        if seen(request) == BEFORE:
            return look_again(report)
        return text_reply(f"The terminal is {'#%02x%02x%02x' % seen(request)}.")  # noqa: UP031

    model.script(
        tool_reply(tool_use("spawn_computer_use_agent", {"prompt": TASK}), text="One moment."),
        wait_for_it,
        pass_on,
        when=lambda request: not is_agent(request),
    )
    model.script(tool_reply(on_screen("screenshot")), use_the_terminal, when=is_agent)


def shown_in(page: Page) -> tuple[int, ...]:
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    colour = picture.getpixel(BESIDE_THE_POINTER)
    assert isinstance(colour, tuple)
    return tuple(map(int, colour))


def test_an_agent_works_while_a_person_watches(
    environment: dict[str, str], page: Page, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    with running_model() as model:
        script(model)
        environment |= {
            "DESKRELAY_MODEL__API_KEY": model.api_key,
            "DESKRELAY_MODEL__BASE_URL": model.url,
        }
        link = run(environment, "token", "create", "--user", "ann", "--link")
        run(environment, "workspace", "add", "box", "--user", "ann", "--desktop", "xvnc")
        chat = run(environment, "chat", "create", "--user", "ann", "--workspace", "box")
        url = f"http://{environment['DESKRELAY_BIND']}"
        token = {"Coder-Session-Token": run(environment, "token", "create", "--user", "ann")}
        with (
            log.open("wb") as errors,
            server(environment, errors),
            httpx.Client(base_url=url, headers=token, trust_env=False) as client,
        ):
            sign_in(page, link)
            page.goto(f"{url}/chats/{chat}")
            connected(page)
            until(lambda: shown_in(page) == BEFORE, "the terminal in the browser")

            messages = f"/api/v2/chats/{chat}/messages"
            asked = client.post(messages, json={"text": "Make the terminal green, please."})
            assert asked.status_code == 202, asked.text
            until(lambda: shown_in(page) == GREEN, "what the agent did, in the browser")
            status = f"/api/v2/chats/{chat}"
            until(lambda: "status" not in client.get(status).json(), "the chat's end")

            told = client.get(messages).json()
            assert told[-1]["content"] == [
                {"type": "text", "text": "The agent says: The terminal is #00ff00."}
            ]
            (agent,) = [c for c in client.get("/api/v2/chats").json() if "parent_id" in c]
            assert (agent["parent_id"], agent["mode"]) == (chat, "computer_use")
        assert model.refusals == []
    # Neither keys nor what was said and typed.
    text = log.read_text()
    for secret in (model.api_key, "please", "printf", TASK):
        assert secret not in text
