"""A workspace agent over HTTP: who is let in, what comes first, and what it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from api.workspace.server import ACTION_PATH, BODY_BYTES
from relay import TcpAddress
from relay.desktops import RunningDesktop
from relay.desktops.pattern import Pattern
from relay.dialling.workspace_agent import DEFAULT_PATH
from relay.limits import Limits
from tests.labs.desktop_server import read_head
from tests.labs.peers import Frames, client_frame
from tests.labs.workspace_agent import LIMITS, SECRET, FakeDesktop, Lab, workspace_agent


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with workspace_agent(FakeDesktop()) as made:
        yield made


# Who is let in


async def test_health_is_told_to_anybody(lab: Lab) -> None:
    answer = await lab.client.get("/healthz", headers={"Authorization": ""})
    assert (answer.status_code, answer.text) == (200, "OK")


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer x", f"Bearer {SECRET}x", f"Basic {SECRET}", SECRET]
)
@pytest.mark.parametrize("path", [ACTION_PATH, DEFAULT_PATH, "/nowhere"])
async def test_without_the_secret_nothing_is_looked_at(lab: Lab, path: str, given: str) -> None:
    answer = await lab.client.post(path, content=b"{", headers={"Authorization": given})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json() == {
        "message": "Unauthorized.",
        "detail": "The header Authorization must be Bearer and the workspace agent's secret.",
    }
    status, body = await lab.refusal(path, Authorization=given)
    assert (status, body["message"]) == (401, "Unauthorized.")
    assert lab.desktop.starts == 0


async def test_no_answer_is_kept(lab: Lab) -> None:
    for answer in (
        await lab.client.post(ACTION_PATH, content=b"{"),
        await lab.client.post(ACTION_PATH, content=b"{", headers={"Authorization": ""}),
        await lab.client.get(DEFAULT_PATH),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


async def test_two_secrets_are_ambiguous(lab: Lab) -> None:
    status, body = await lab.refusal(authorization="Bearer x")
    assert (status, body["message"]) == (400, "Ambiguous request.")


async def test_a_page_is_not_let_in(lab: Lab) -> None:
    origin = {"Origin": "https://desk.example"}
    answer = await lab.client.post(ACTION_PATH, json={"action": "key"}, headers=origin)
    assert (answer.status_code, answer.json()["message"]) == (403, "Forbidden.")
    assert (await lab.refusal(Origin="null"))[0] == 403
    assert lab.desktop.starts == 0


async def test_without_a_secret_tls_has_judged() -> None:
    async with workspace_agent(FakeDesktop(), secret=None) as lab:
        answer = await lab.client.post(ACTION_PATH, content=b"{", headers={"Authorization": ""})
        assert answer.json()["message"] == "Failed to decode request body."


# What comes first


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "Failed to decode request body."),
        (b'{"action": "nope"}', "Unknown action: nope"),
        (b'{"action": "key"}', 'Missing "text" for key action.'),
    ],
)
async def test_a_body_that_is_refused_starts_no_desktop(
    lab: Lab, body: bytes, message: str
) -> None:
    answer = await lab.client.post(ACTION_PATH, content=body)
    assert (answer.status_code, answer.json()["message"]) == (400, message)
    assert lab.desktop.starts == 0


async def test_other_requests(lab: Lab) -> None:
    answer = await lab.client.post(ACTION_PATH, content=b" " * (BODY_BYTES + 1))
    assert (answer.status_code, answer.json()["message"]) == (413, "Request body is too large.")
    answer = await lab.client.get(ACTION_PATH)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = await lab.client.get("/nowhere")
    assert (answer.status_code, answer.json()) == (404, {"message": "Route not found."})
    assert await lab.refusal("/nowhere") == (404, {"message": "Route not found."})
    answer = await lab.client.get(DEFAULT_PATH)
    assert (answer.status_code, answer.json()["message"]) == (426, "WebSocket upgrade required.")
    status, body = await lab.refusal(Sec_WebSocket_Version="8")
    assert (status, body["message"]) == (400, "Bad WebSocket upgrade request.")
    assert lab.desktop.starts == 0


async def test_the_longest_text_is_taken() -> None:
    async with workspace_agent(Pattern((64, 64), LIMITS)) as lab:
        answer = await lab.act(action="type", text="😀" * 10_000)
        assert answer.json() == {"output": "type action performed"}


@pytest.mark.parametrize("how", ["action", "vnc"])
async def test_a_desktop_that_does_not_start(lab: Lab, how: str) -> None:
    lab.desktop.failure = "Xvnc is not installed"
    expected = {"message": "Failed to start desktop session.", "detail": "Xvnc is not installed"}
    if how == "vnc":
        assert await lab.refusal() == (500, expected)
    else:
        answer = await lab.act(action="left_click")
        assert (answer.status_code, answer.json()) == (500, expected)


async def test_a_desktop_that_is_just_ending_is_started_again() -> None:
    """It still takes connections, and says nothing on them."""

    class Ending(FakeDesktop):
        async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
            self.starts += 1
            doubted, dying = trio.Event(), self.starts == 1

            async def serve(stream: trio.SocketStream) -> None:
                if not dying:
                    await self._serve(stream)

            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            address = TcpAddress("127.0.0.1", listener.socket.getsockname()[1])
            running = RunningDesktop(address, doubt=doubted.set)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, serve, [listener])
                task_status.started(running)
                await doubted.wait()
                running.ended.set()
                nursery.cancel_scope.cancel()

    desktop = Ending()
    async with workspace_agent(desktop) as lab:
        stream, head = await lab.upgrade()
        async with stream:
            assert b" 101 " in head
            assert await Frames(stream).binary(12) == b"RFB 003.008\n"
    assert desktop.starts == 2


async def test_a_desktop_that_says_nothing() -> None:
    class Silent(FakeDesktop):
        async def _serve(self, stream: trio.SocketStream) -> None:
            await stream.receive_some(1)

    async with workspace_agent(Silent(), limits=Limits(handshake_timeout_s=0.2)) as lab:
        status, body = await lab.refusal()
    assert (status, body["message"]) == (500, "Failed to connect to VNC server.")
    assert body["detail"] == "the desktop says nothing"


@pytest.mark.parametrize("how", ["action", "vnc"])
async def test_a_desktop_that_cannot_be_reached(lab: Lab, how: str) -> None:
    lab.desktop.reachable = False
    if how == "vnc":
        status, body = await lab.refusal()
    else:
        answer = await lab.act(action="left_click")
        status, body = answer.status_code, answer.json()
    assert (status, body["message"]) == (500, "Failed to connect to VNC server.")
    assert "Connection refused" in body["detail"]


async def test_a_client_that_leaves_holds_no_key() -> None:
    async with workspace_agent(Pattern((640, 480), LIMITS)) as lab:
        await lab.act(action="mouse_move", coordinate=[1, 1])
        with trio.move_on_after(0.3) as left:
            await lab.act(action="hold_key", text="shift", duration=60_000)
        assert left.cancelled_caught
        # Who comes next does not wait for it.
        with trio.fail_after(5):
            assert (await lab.act(action="key", text="Tab")).status_code == 200


# The desktop


async def test_the_desktops_bytes_as_they_are(lab: Lab) -> None:
    stream, head = await lab.upgrade()
    async with stream:
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"sec-websocket-extensions" not in head.lower()
        frames = Frames(stream)
        assert await frames.binary(12) == b"RFB 003.008\n"
        # It judges nothing: that is the relay's.
        await stream.send_all(client_frame(b"nonsense"))
        await stream.send_all(client_frame(b"are you there", 9))
        assert await frames.next() == (10, b"are you there")
        with trio.fail_after(5):
            while lab.desktop.heard != b"nonsense":
                await trio.sleep(0.01)
        await stream.send_all(client_frame(b"text", 1))
        assert (await frames.close())[0] == 1003


async def test_the_desktop_is_dialled_before_the_101(lab: Lab) -> None:
    lab.desktop.hold = trio.Event()
    async with await trio.open_tcp_stream("127.0.0.1", lab.port) as stream:
        await stream.send_all(lab.head())
        await lab.desktop.asked.wait()
        with trio.move_on_after(0.1) as early:
            await stream.receive_some(1)
        assert early.cancelled_caught
        lab.desktop.hold.set()
        assert b" 101 " in await read_head(stream)
        assert len(lab.desktop.streams) == 1


async def test_the_relay_hears_that_the_desktop_has_ended(lab: Lab) -> None:
    stream, _ = await lab.upgrade()
    async with stream:
        frames = Frames(stream)
        await frames.binary(12)
        await lab.desktop.streams[0].aclose()
        assert await frames.close() == (4503, "the desktop has ended")


async def test_the_desktop_hears_that_the_relay_has_ended(lab: Lab) -> None:
    stream, _ = await lab.upgrade()
    await Frames(stream).binary(12)
    await stream.aclose()
    with trio.fail_after(5):
        # The fake serves until the workspace agent has closed.
        while lab.desktop.streams[0].socket.fileno() >= 0:
            await trio.sleep(0.01)


async def test_a_relay_that_reads_nothing_holds_the_desktop_up() -> None:
    class Flooding(FakeDesktop):
        sent_bytes = 0

        async def _serve(self, stream: trio.SocketStream) -> None:
            try:
                while True:
                    await stream.send_all(bytes(65_536))
                    self.sent_bytes += 65_536
            except trio.BrokenResourceError:
                pass

    desktop = Flooding()
    async with workspace_agent(desktop) as lab:
        stream, _ = await lab.upgrade()
        async with stream:
            await trio.sleep(0.5)
            held_bytes = desktop.sent_bytes
            # In the kernel's buffers: two sockets of the desktop's, two of the relay's.
            assert 0 < held_bytes < 16_000_000
            await trio.sleep(0.2)
            assert desktop.sent_bytes == held_bytes
            await Frames(stream).binary(20_000_000)


async def test_a_workspace_agent_that_ends_says_goodbye(lab: Lab) -> None:
    stream, _ = await lab.upgrade()
    async with stream:
        frames = Frames(stream)
        await frames.binary(12)
        lab.serving.cancel()
        assert await frames.close() == (1001, "the workspace agent is going away")


async def test_a_workspace_agent_that_ends_refuses_who_waits(lab: Lab) -> None:
    lab.desktop.hold = trio.Event()
    async with await trio.open_tcp_stream("127.0.0.1", lab.port) as stream:
        await stream.send_all(lab.head())
        await lab.desktop.asked.wait()
        lab.serving.cancel()
        assert (await read_head(stream)).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize(
    "action",
    [{"action": "wait"}, {"action": "hold_key", "text": "shift"}],
    ids=lambda action: action["action"],
)
async def test_a_workspace_agent_that_ends_cuts_actions_short(action: dict[str, Any]) -> None:
    async with workspace_agent(Pattern((640, 480), LIMITS)) as lab:
        answers = []

        async def act() -> None:
            answers.append(await lab.act(**action, duration=60_000))

        await lab.act(action="cursor_position")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(act)
            await trio.sleep(0.2)
            lab.serving.cancel()
            # Well before connections are cut.
            with trio.fail_after(1):
                while not answers:
                    await trio.sleep(0.01)
        (answer,) = answers
        assert (answer.status_code, answer.json()) == (503, {"message": "Agent is going away."})


# Actions, on an RFB server


async def test_actions_over_rfb() -> None:
    async with workspace_agent(Pattern((640, 480), LIMITS)) as lab:
        answer = await lab.act(action="mouse_move", coordinate=[0, 0])
        assert (answer.status_code, answer.json()) == (
            200,
            {"output": "mouse_move action performed"},
        )
        assert (await lab.act(action="cursor_position")).json() == {"output": "x=0,y=0"}
        shot = (await lab.act(action="screenshot", scaled_width=320, scaled_height=240)).json()
        assert (shot["screenshot_width"], shot["screenshot_height"]) == (320, 240)
        zoom = (await lab.act(action="zoom", region=[0, 0, 64, 48])).json()
        assert (zoom["output"], zoom["screenshot_width"]) == ("zoom", 640)


async def test_a_desktop_that_was_restarted_is_acted_on() -> None:
    """The first ends as soon as it has been acted on."""
    ended: list[trio.CancelScope] = []

    class Restarting(Pattern):
        async def run(self, *, task_status: trio.TaskStatus[RunningDesktop]) -> None:
            with trio.CancelScope() as scope:
                ended.append(scope)
                await super().run(task_status=task_status)

    async with workspace_agent(Restarting((640, 480), LIMITS)) as lab:
        assert (await lab.act(action="mouse_move", coordinate=[5, 5])).status_code == 200
        ended[0].cancel()
        await trio.testing.wait_all_tasks_blocked(0.05)
        answer = await lab.act(action="mouse_move", coordinate=[6, 6])
        assert (answer.status_code, len(ended)) == (200, 2)
