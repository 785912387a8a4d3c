"""The tools by which a chat has agents work for it: arguments, results, rules and error texts."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from api.agents.model import Reply
from api.agents.tools import AgentTools, ToolError, title_of
from api.budgets import BudgetSettings, OverBudget
from api.store import Chat, StoreError
from tests.labs.agents import AgentsLab, agents_lab, other_process, running_tool
from tests.labs.language_model.scripted import calls, on_screen, said

NOT_BELOW = "target chat is not a descendant of current chat"


def tools_of(lab: AgentsLab, chat: Chat) -> AgentTools:
    return AgentTools(lab.runs, lab.store, chat)


async def answer(tools: AgentTools, name: str, **given: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await tools.run(name, given))
    return found


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("spawn_computer_use_agent", {}, "prompt is required"),
        ("spawn_computer_use_agent", {"prompt": " \n"}, "prompt is required"),
        ("spawn_computer_use_agent", {"prompt": 7}, "prompt: Input should be a valid string"),
        ("spawn_computer_use_agent", {"task": "x"}, "task: Extra inputs are not permitted"),
        ("wait_agent", {}, "chat_id must be a valid UUID"),
        ("wait_agent", {"chat_id": "x"}, "chat_id must be a valid UUID"),
        (
            "wait_agent",
            {"chat_id": str(uuid4())},
            "target chat is not a subagent of the current chat",
        ),
        ("message_agent", {"chat_id": str(uuid4())}, "message is required"),
        ("message_agent", {"chat_id": str(uuid4()), "message": "x"}, NOT_BELOW),
        ("interrupt_agent", {"chat_id": str(uuid4())}, NOT_BELOW),
        ("close_agent", {"chat_id": str(uuid4())}, NOT_BELOW),
        ("list_agents", {"limit": 51}, "limit: Input should be less than or equal to 50"),
        ("list_agents", [], "input: Input should be a valid dictionary or instance of _List"),
        ("spawn", {}, "There is no tool 'spawn'. The tools are: spawn_computer_use_agent, "),
    ],
)
async def test_wrong_calls(name: str, given: object, text: str) -> None:
    async with agents_lab() as lab:
        with pytest.raises(ToolError) as error:
            await tools_of(lab, await lab.chat()).run(name, given)
        assert str(error.value).startswith(text)


async def test_without_a_workspace_there_is_no_desktop() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat(workspace=False)
        with pytest.raises(ToolError, match="the chat has no workspace"):
            await tools_of(lab, chat).run("spawn_computer_use_agent", {"prompt": "x"})
        assert await lab.runs.conversations.children(chat.id) == []


async def test_a_model_cannot_spawn_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with agents_lab(budgets=BudgetSettings(chats_at_work=2)) as lab:
        chat, child = await running_tool(lab)
        tools = tools_of(lab, chat)
        monkeypatch.setattr("api.agents.tools.AT_WORK_LIMIT", 1)
        with pytest.raises(ToolError, match="1 agents are at work already"):
            await tools.run("spawn_computer_use_agent", {"prompt": "x"})
        monkeypatch.setattr("api.agents.tools.AT_WORK_LIMIT", 2)
        lab.talker.parent = [hang]
        other = await lab.chat()
        await lab.runs.say(other.id, "Hello.")
        with pytest.raises(ToolError, match="create child chat: Too many chats are at work"):
            await tools.run("spawn_computer_use_agent", {"prompt": "x"})
        with pytest.raises(OverBudget, match="Too many chats are at work"):
            await lab.runs.say((await lab.chat()).id, "Hello.")
        # Who is at work already can be talked to.
        await lab.runs.say(child.id, "Hello.")
        await lab.runs.interrupt(child.id)
        assert (await answer(tools, "spawn_computer_use_agent", prompt="x"))["status"] == "pending"


async def test_of_many_at_once_only_so_many_start() -> None:
    async with agents_lab(budgets=BudgetSettings(chats_at_work=2)) as lab:
        busy: list[OverBudget] = []
        lab.talker.parent = [hang] * 5

        async def say() -> None:
            try:
                await lab.runs.say((await lab.chat()).id, "Hello.")
            except OverBudget as error:
                busy.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(say)
        assert (len(busy), len(lab.runs._runs)) == (3, 2)


async def hang(_asked: dict[str, Any]) -> Reply:
    await trio.sleep_forever()
    raise AssertionError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spawn_computer_use_agent", "create child chat: the server's database failed"),
        ("wait_agent", "failed to verify subagent relationship: the server's database failed"),
        ("list_agents", "the server's database failed"),
    ],
)
async def test_a_database_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    given = {"wait_agent": {"chat_id": str(uuid4())}, "spawn_computer_use_agent": {"prompt": "x"}}
    async with agents_lab() as lab:
        chat = await lab.chat()

        async def fail(*_arguments: object, **_more: object) -> None:
            raise StoreError("gone")

        monkeypatch.setattr(lab.store, "chat", fail)
        monkeypatch.setattr(lab.runs.conversations, "create_child", fail)
        if name == "list_agents":
            monkeypatch.setattr(lab.runs.conversations, "children", fail)
        with pytest.raises(ToolError, match=f"^{text}"):
            await tools_of(lab, chat).run(name, given.get(name, {}))


async def test_an_agent_has_no_agents() -> None:
    async with agents_lab() as lab:
        _, child = await running_tool(lab)
        tools = tools_of(lab, child)
        assert tools.definitions() == []
        with pytest.raises(ToolError, match="delegated chats cannot create child subagents"):
            await tools.run("spawn_computer_use_agent", {"prompt": "x"})


async def test_only_ones_own_agents() -> None:
    async with agents_lab() as lab:
        chat, child = await running_tool(lab)
        for stranger in (await lab.chat(), child):
            with pytest.raises(ToolError):
                await answer(tools_of(lab, stranger), "wait_agent", chat_id=str(child.id))
        # A chat is not below itself.
        with pytest.raises(ToolError, match=NOT_BELOW):
            await answer(tools_of(lab, chat), "close_agent", chat_id=str(chat.id))


@pytest.mark.parametrize("timeout_s", [0, -1, -0.5, None])
async def test_how_long_is_waited(monkeypatch: pytest.MonkeyPatch, timeout_s: float | None) -> None:
    asked: list[float] = []

    async def wait_idle(_chat_id: UUID, seconds: float) -> None:
        asked.append(seconds)

    async with agents_lab() as lab:
        chat, child = await running_tool(lab)
        monkeypatch.setattr(lab.runs, "wait_idle", wait_idle)
        about = {"chat_id": str(child.id), "timeout_seconds": timeout_s}
        for given in (about, about | {"timeout_seconds": 7}, {"chat_id": str(child.id)}):
            with pytest.raises(ToolError, match="timed out"):
                await tools_of(lab, chat).run("wait_agent", given)
    assert asked == [300, 7, 300]


async def test_waiting_ends_in_time_and_the_agent_goes_on() -> None:
    async with agents_lab() as lab:
        chat, child = await running_tool(lab)
        with pytest.raises(ToolError) as error:
            await answer(
                tools_of(lab, chat), "wait_agent", chat_id=str(child.id), timeout_seconds=0.05
            )
        assert str(error.value) == "timed out waiting for delegated subagent completion"
        found = await lab.store.chat(child.id)
        assert found is not None
        assert found.status == "running"


async def test_closing_and_interrupting() -> None:
    async with agents_lab() as lab:
        chat, child = await running_tool(lab)
        tools = tools_of(lab, chat)
        told = {"chat_id": str(child.id), "title": child.title, "status": "waiting"}
        with trio.fail_after(2):
            assert await answer(tools, "interrupt_agent", chat_id=str(child.id)) == told | {
                "interrupted": True
            }
        assert await answer(tools, "interrupt_agent", chat_id=str(child.id)) == told | {
            "interrupted": False
        }
        assert await answer(tools, "close_agent", chat_id=str(child.id)) == told | {
            "terminated": True
        }


@pytest.mark.parametrize("interrupt", [True, False])
async def test_a_message_waits_or_interrupts(interrupt: bool) -> None:
    async with agents_lab() as lab:
        chat, child = await running_tool(lab, said("Heard."))
        with trio.fail_after(2):
            told = await answer(
                tools_of(lab, chat),
                "message_agent",
                chat_id=str(child.id),
                message="Stop that.",
                interrupt=interrupt,
            )
        assert told["interrupted"] is interrupt
        if interrupt:
            assert (await lab.idle(child.id)).status == "waiting"
            last = (await lab.messages(child.id))[-1].content
            assert last == [{"type": "text", "text": "Heard."}]
        else:
            assert len(await lab.messages(child.id)) == 2


async def test_waiting_for_an_agent_that_was_told_something_just_now() -> None:
    async with agents_lab() as lab:
        chat, child = await running_tool(lab, said("Heard."))
        tools, about = tools_of(lab, chat), {"chat_id": str(child.id)}
        begin = lab.runs.conversations.begin

        async def slow(chat_id: UUID, run_id: UUID) -> bool:
            await trio.sleep(0.05)
            return await begin(chat_id, run_id)

        lab.runs.conversations.begin = slow  # type: ignore[method-assign]
        await answer(tools, "message_agent", message="Stop that.", interrupt=True, **about)
        assert (await answer(tools, "wait_agent", **about))["report"] == "Heard."


async def test_an_agent_that_failed_says_what_it_had() -> None:
    async with agents_lab(turns_limit=1) as lab:
        chat, child = await running_tool(lab)
        await lab.runs.interrupt(child.id)
        lab.talker.agent = [calls(on_screen("screenshot"))]
        await lab.ask(child, "Once more.")
        with pytest.raises(ToolError, match="Stopped after 1 turns"):
            await answer(tools_of(lab, chat), "wait_agent", chat_id=str(child.id))


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ("Find out which of the programs can draw", "Find out which of the programs can draw"),
        (" \x07\n", "Look."),
        ("x" * 100, "x" * 80),
    ],
)
async def test_a_title_that_was_given(given: str, title: str) -> None:
    async with agents_lab() as lab:
        tools = tools_of(lab, await lab.chat())
        told = await answer(tools, "spawn_computer_use_agent", prompt="Look.", title=given)
        assert told["title"] == title


async def another_process_runs(lab: AgentsLab) -> tuple[AgentTools, dict[str, str]]:
    """The tools of a chat whose agent another process runs, and which it is."""
    chat, child = await running_tool(lab, calls(on_screen("wait", {"duration": 60})))
    await lab.runs.interrupt(child.id)
    await other_process(lab).say(child.id, "Go on.")
    with trio.fail_after(5):
        while len(await lab.messages(child.id)) < 4:
            await trio.sleep(0.01)
    return tools_of(lab, chat), {"chat_id": str(child.id)}


@pytest.mark.parametrize(
    ("name", "told"),
    [("close_agent", {"terminated": True}), ("interrupt_agent", {"interrupted": True})],
)
async def test_an_agent_that_another_process_runs_stops_too(
    monkeypatch: pytest.MonkeyPatch, name: str, told: dict[str, bool]
) -> None:
    monkeypatch.setattr("api.agents.runs.LOOK_S", 0.05)
    async with agents_lab() as lab:
        tools, about = await another_process_runs(lab)
        with trio.fail_after(5):
            answered = await answer(tools, name, **about)
        del answered["title"]
        assert answered == about | {"status": "waiting"} | told


async def test_an_agent_whose_process_has_died_is_not_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.agents.runs.INTERRUPT_S", 0.1)
    async with agents_lab() as lab:
        tools, about = await another_process_runs(lab)
        with pytest.raises(ToolError, match="set target chat waiting: its server does not answer"):
            await answer(tools, "close_agent", **about)


async def test_so_many_agents_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.agents.tools.AT_WORK_LIMIT", 2)
    async with agents_lab() as lab:
        chat, child = await running_tool(lab)
        tools, about = tools_of(lab, chat), {"chat_id": str(child.id)}
        await lab.runs.interrupt(child.id)
        lab.talker.agent = [calls(on_screen("wait", {"duration": 60})) for _ in range(3)]
        for _ in range(2):
            await answer(tools, "spawn_computer_use_agent", prompt="Look.")
        for call in (
            answer(tools, "spawn_computer_use_agent", prompt="Look."),
            answer(tools, "message_agent", message="Go on.", **about),
        ):
            with pytest.raises(ToolError, match="2 agents are at work already"):
                await call
        children = await lab.runs.conversations.children(chat.id)
        at_work = next(other for other in children if other.id != child.id)
        await answer(tools, "close_agent", chat_id=str(at_work.id))
        await answer(tools, "message_agent", message="Go on.", **about)


async def test_a_list_in_pages() -> None:
    async with agents_lab() as lab:
        chat = await lab.chat()
        tools = tools_of(lab, chat)
        for number in range(3):
            lab.clock.advance(seconds=1)
            await answer(tools, "spawn_computer_use_agent", prompt="Look.", title=f"Nr. {number}")
        page = await answer(tools, "list_agents", limit=2)
        assert [agent["title"] for agent in page.pop("agents")] == ["Nr. 2", "Nr. 1"]
        assert page == {"total": 3, "returned": 2, "offset": 0, "has_more": True}
        page = await answer(tools, "list_agents", limit=2, offset=2)
        assert [agent["title"] for agent in page.pop("agents")] == ["Nr. 0"]
        assert page == {"total": 3, "returned": 1, "offset": 2, "has_more": False}


@pytest.mark.parametrize(
    ("prompt", "title"),
    [
        ("Open a terminal", "Open a terminal"),
        ("one two three four five six seven", "one two three four five six..."),
        ("x" * 100, "x" * 80),
        ("\x07", "New Chat"),
        ("a\nb", "a b"),
    ],
)
def test_titles(prompt: str, title: str) -> None:
    assert title_of(prompt) == title
