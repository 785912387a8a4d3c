"""A client's session beside a desktop in the test's hands, and sessions that nobody uses."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import httpx
import numpy as np
import pytest
import trio
import trio.testing

from api.computer import VOID, OwnComputer
from api.mcp.http import HttpFront
from api.mcp.session import ComputerSession
from relay import DesktopError, TcpAddress
from relay.computer import Result
from relay.computer.versions import NOT_EXECUTED, TOOLSET
from relay.desktops import Desktops, RunningDesktop
from relay.dialling.login import DesktopEnd
from relay.limits import Limits
from tests.labs.client import HEIGHT, INIT, WIDTH, Far
from tests.labs.mcp_clients import ACCEPT, HELLO
from tests.labs.peers import KEY, KEY_UP, desktop_end

pytestmark = pytest.mark.filterwarnings(
    "ignore:Async generator '(httpx|httpcore)[.].*was garbage collected:ResourceWarning"
)


Way = Callable[[RunningDesktop], Awaitable[object]]


class Lab:
    """In the place of `Desktops`: every opening is a connection of its own."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.ends: list[tuple[trio.testing.MemorySendStream, Far]] = []
        self.fails = False

    async def reach(self, key: object, spec: str, way: Way, _owner: str = "") -> object:
        return await way(Running(self))

    async def open(self) -> DesktopEnd:
        if self.fails:
            raise DesktopError("cannot connect")
        near, stream = trio.testing.memory_stream_pair()
        far = Far(stream)
        far.picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        self._nursery.start_soon(far.run)
        self.ends.append((near.send_stream, far))
        return desktop_end(near, INIT)


class Running(RunningDesktop):
    """A desktop of the lab."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(TcpAddress("127.0.0.1", 1))
        object.__setattr__(self, "lab", lab)

    async def open(self, limits: Limits) -> DesktopEnd:
        lab: Lab = self.lab  # type: ignore[attr-defined]
        return await lab.open()


@pytest.fixture
def lab(nursery: trio.Nursery) -> Lab:
    return Lab(nursery)


@pytest.fixture
def session(lab: Lab) -> ComputerSession:
    return ComputerSession(cast(Desktops, lab), "lab", Limits())


def said(result: Result) -> str:
    return str(result["content"][0]["text"])


HOLD = {"text": "a", "duration": 100}


async def test_it_opens_at_the_first_call_only(
    lab: Lab, session: ComputerSession, autojump_clock: trio.abc.Clock
) -> None:
    await session.release()
    await session.aclose()
    assert lab.ends == []
    for _ in range(2):
        assert not (await session.call("screenshot", {}))["is_error"]
    assert len(lab.ends) == 1
    await session.aclose()


async def test_its_end_lets_go(
    lab: Lab, session: ComputerSession, autojump_clock: trio.abc.Clock
) -> None:
    await session.call("mouse_move", {"coordinate": [0, 0]})
    await session.call("left_mouse_down", {})
    await session.aclose()
    assert lab.ends[0][1].heard.endswith(b"\x05\0\0\0\0\0")


async def test_a_cancelled_call_lets_go_and_the_connection_stays(
    lab: Lab, session: ComputerSession, autojump_clock: trio.abc.Clock
) -> None:
    with trio.move_on_after(1):
        await session.call("hold_key", HOLD)
    far = lab.ends[0][1]
    assert KEY in far.heard
    await far.hears(KEY_UP)
    assert not (await session.call("left_click", {"coordinate": [1, 1]}))["is_error"]
    assert len(lab.ends) == 1
    await session.aclose()


async def test_cut_in_a_message_it_opens_anew(
    lab: Lab, session: ComputerSession, autojump_clock: trio.abc.Clock
) -> None:
    """Half a message may be out, and keys go up when the connection closes."""
    await session.call("screenshot", {})
    lab.ends[0][0].send_all_hook = trio.sleep_forever
    with trio.move_on_after(1) as patience:
        await session.call("hold_key", HOLD)
    assert patience.cancelled_caught
    with pytest.raises(trio.BrokenResourceError):
        await lab.ends[0][1].stream.send_all(b"x")
    assert "earlier screenshots are void" in said(await session.call("left_click", {}))
    assert not (await session.call("wait", {"duration": 1}))["is_error"]
    assert not (await session.call("screenshot", {}))["is_error"]
    assert not (await session.call("key", {"text": "a"}))["is_error"]
    assert len(lab.ends) == 2
    await session.aclose()


@pytest.mark.parametrize("version", [TOOLSET, "computer_20251124"])
async def test_of_a_new_desktop_nothing_is_known_before_the_next_turn(
    version: str, lab: Lab, autojump_clock: trio.abc.Clock
) -> None:
    def turn(*actions: object) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        for action in actions:
            given = {"coordinate": [1, 1]} if action == "left_click" else {}
            if version == TOOLSET:
                blocks.append({"name": action, "input": given})
            else:
                blocks.append({"input": {"action": action, **given}})
        return [{"id": str(number), **block} for number, block in enumerate(blocks)]

    own = OwnComputer(cast(Desktops, lab), Limits(), version)
    await own.connect("key", "lab")
    assert not (await own.run(turn("left_click")))[0]["is_error"]
    lab.ends[0][0].send_all_hook = trio.sleep_forever
    with trio.move_on_after(1):
        await own.run(turn("left_click"))
    assert "The desktop failed" in said((await own.run(turn("screenshot")))[0])
    await own.connect("key", "lab")
    for actions, texts in (
        (["left_click", "screenshot"], [VOID, NOT_EXECUTED]),
        ([["nonsense"]], [VOID]),
        (["screenshot", "left_click", "left_click"], [None, VOID, NOT_EXECUTED]),
        (["left_click"], [None]),
    ):
        results = await own.run(turn(*actions))
        assert [said(result) if result["is_error"] else None for result in results] == texts
        assert [result["tool_use_id"] for result in results] == ["0", "1", "2"][: len(actions)]
    await own.aclose()


async def test_calls_wait_for_each_other(
    lab: Lab, session: ComputerSession, autojump_clock: trio.abc.Clock
) -> None:
    done: list[tuple[str, float]] = []

    async def call(name: str, given: Mapping[str, Any]) -> None:
        assert not (await session.call(name, given))["is_error"]
        done.append((name, round(trio.current_time() - began_s)))

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, "wait", {"duration": 50})
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call, "screenshot", {})
        with trio.move_on_after(10):
            # Cancelled while it waits, it cuts nobody else's short.
            await session.call("screenshot", {})
    assert done == [("wait", 50), ("screenshot", 50)]
    assert len(lab.ends) == 1
    await session.aclose()


async def test_a_desktop_that_is_not_there_is_tried_again(
    lab: Lab, session: ComputerSession, autojump_clock: trio.abc.Clock
) -> None:
    lab.fails = True
    assert said(await session.call("screenshot", {})) == (
        "The desktop cannot be reached: cannot connect"
    )
    lab.fails = False
    assert not (await session.call("key", {"text": "a"}))["is_error"]
    await session.aclose()


class Idle:
    """In the place of a session."""

    def __init__(self) -> None:
        self.closed = trio.Event()

    async def call(self, name: str, given: Mapping[str, Any]) -> Result:
        return {"is_error": False, "content": []}

    async def release(self) -> None:
        pass

    async def aclose(self) -> None:
        self.closed.set()


async def test_a_session_that_nobody_uses_ends(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("api.mcp.http.IDLE_S", 0.3)
    session = Idle()
    nursery.start_soon(HttpFront("127.0.0.1:0", None).serve, lambda: cast(ComputerSession, session))
    printed = ""
    while not printed:
        await trio.sleep(0.01)
        printed = capsys.readouterr().err
    (url,) = re.findall(r"serving MCP at (\S+)", printed)
    async with httpx.AsyncClient(headers=ACCEPT) as http:
        answer = await http.post(url, json=HELLO)
        headers = {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"]}
        params = {"name": "wait", "arguments": {"duration": 1}}
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
        assert (await http.post(url, json=call, headers=headers)).status_code == 200
        assert not session.closed.is_set()
        with trio.fail_after(5):
            await session.closed.wait()
        assert (await http.post(url, json=call, headers=headers)).status_code == 404
    nursery.cancel_scope.cancel()
