"""The desktop endpoint: what it answers to a request."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog

from api.store import Access
from relay import CloseCode, DesktopError
from tests.labs.desktop_server import KEY, Lab, lab, parse, read_head
from tests.labs.peers import PIXEL_FORMAT, Frames, client_frame

# The fixture.
__all__ = ["lab"]


async def test_a_browser_gets_a_session_without_deflate(lab: Lab) -> None:
    stream, head = await lab.open(Origin=f"http://127.0.0.1:{lab.port}")
    async with stream:
        status, headers, _ = parse(head)
        assert status == 101
        # RFC 6455, Section 4.2.2, step 5.
        guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(KEY.encode() + guid).digest()).decode()
        assert headers["sec-websocket-accept"] == accept
        assert "sec-websocket-extensions" not in headers
        assert "sec-websocket-protocol" not in headers
        frames = Frames(stream)
        for answer in (b"RFB 003.008\n", b"\x01", b"\x01"):
            await stream.send_all(client_frame(answer))
        init = struct.pack(">HH", 64, 48) + PIXEL_FORMAT + b"\0\0\0\x03lab"
        assert await frames.binary(18 + len(init)) == b"RFB 003.008\n\x01\x01\0\0\0\0" + init


@pytest.mark.parametrize(
    "where",
    [
        lambda token: {"Coder_Session_Token": token},
        lambda token: {"Coder_Session_Token": None, "Authorization": f"Bearer {token}"},
        lambda token: {
            "Coder_Session_Token": None,
            "Cookie": f"coder_session_token={token}",
            "Origin": "same",
        },
    ],
    ids=["header", "bearer", "cookie"],
)
async def test_the_token_may_be_in(lab: Lab, where: Callable[[str], dict[str, Any]]) -> None:
    changes = where(lab.token)
    if changes.get("Origin") == "same":
        changes["Origin"] = f"http://127.0.0.1:{lab.port}"
    stream, head = await lab.open(**changes)
    await stream.aclose()
    assert b" 101 " in head


async def test_the_token_may_be_in_the_query(lab: Lab) -> None:
    path = f"{lab.path}?coder_session_token={lab.token}"
    stream, head = await lab.open(Coder_Session_Token=None, path=path)
    await stream.aclose()
    assert b" 101 " in head


@pytest.mark.parametrize("prefix", ["/api/v2", "/api/experimental"])
@pytest.mark.parametrize("tail", ["desktop", "stream/desktop"])
async def test_aliases(lab: Lab, prefix: str, tail: str) -> None:
    stream, head = await lab.open(path=f"{prefix}/chats/{lab.chat}/{tail}")
    await stream.aclose()
    assert b" 101 " in head


REFUSALS: dict[str, tuple[Callable[[Lab], bytes], int, str]] = {
    "no token": (
        lambda lab: lab.head(Coder_Session_Token=None),
        401,
        "You are signed out or your session has expired. Please sign in again to continue.",
    ),
    "bad token": (
        lambda lab: lab.head(Coder_Session_Token="0123456789-" + "x" * 22),
        401,
        "You are signed out or your session has expired. Please sign in again to continue.",
    ),
    "foreign origin": (lambda lab: lab.head(Origin="https://evil.example"), 403, "Forbidden."),
    "null origin": (lambda lab: lab.head(Origin="null"), 403, "Forbidden."),
    "cookie without origin": (
        lambda lab: lab.head(Coder_Session_Token=None, Cookie=f"coder_session_token={lab.token}"),
        403,
        "Forbidden.",
    ),
    "unknown chat": (
        lambda lab: lab.head(f"/api/v2/chats/{uuid4()}/desktop"),
        404,
        "Resource not found or you do not have access to this resource",
    ),
    "not a uuid": (
        lambda lab: lab.head("/api/v2/chats/nonsense/desktop"),
        400,
        'Invalid UUID "chat".',
    ),
    "plain GET": (
        lambda lab: lab.head(Upgrade=None, Connection="close"),
        426,
        "WebSocket upgrade required.",
    ),
    "version 8": (
        lambda lab: lab.head(Sec_WebSocket_Version="8"),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "no key": (
        lambda lab: lab.head(Sec_WebSocket_Key=None),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "short key": (
        lambda lab: lab.head(Sec_WebSocket_Key="c2hvcnQ="),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "two keys": (
        lambda lab: lab.head(sec_websocket_key=KEY),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "body": (lambda lab: lab.head(Content_Length="5"), 400, "Bad WebSocket upgrade request."),
    "http 9.9": (lambda lab: lab.head(version="9.9"), 505, "HTTP version not supported."),
    "http 1.0": (lambda lab: lab.head(version="1.0"), 426, "WebSocket upgrade required."),
    "HEAD": (lambda lab: b"HEAD" + lab.head().removeprefix(b"GET"), 405, ""),
    "POST": (
        lambda lab: b"POST" + lab.head(Connection="Upgrade, close").removeprefix(b"GET"),
        405,
        "Method not allowed.",
    ),
    "two hosts": (lambda lab: lab.head(host="127.0.0.1"), 400, "Malformed HTTP request."),
    "no upgrade": (
        lambda lab: lab.head(Upgrade="h2c"),
        426,
        "WebSocket upgrade required.",
    ),
    "view_only=perhaps": (
        lambda lab: lab.head(path=f"{lab.path}?view_only=perhaps"),
        400,
        "Validation failed.",
    ),
    "two upgrades": (
        lambda lab: lab.head(upgrade="h2c"),
        426,
        "WebSocket upgrade required.",
    ),
    "two versions": (
        lambda lab: lab.head(sec_websocket_version="13"),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "chunked body": (
        lambda lab: lab.head(Transfer_Encoding="chunked"),
        400,
        "Bad WebSocket upgrade request.",
    ),
    "foreign host": (
        lambda lab: lab.head(Host="evil.example"),
        421,
        "This server does not answer for that host.",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_refused_before_any_desktop(lab: Lab, name: str) -> None:
    make, status, message = REFUSALS[name]
    got, headers, body = await lab.ask(make(lab))
    assert got == status
    if message:
        assert headers["content-type"] == "application/json; charset=utf-8"
        assert json.loads(body)["message"] == message
    if status == 426:
        assert headers["upgrade"] == "websocket"
    if status == 426 or "version" in name:
        assert headers["sec-websocket-version"] == "13"
    assert lab.desktops.starts == 0
    assert lab.accepted == []


async def test_an_archived_chat_opens_no_desktop(lab: Lab) -> None:
    await lab.store.set_archived(lab.chat, True)
    status, _, body = await lab.ask(lab.head())
    assert (status, json.loads(body)["message"]) == (400, "Chat is archived.")
    assert lab.desktops.starts == 0


async def test_a_chat_without_workspace(lab: Lab) -> None:
    user = await lab.store.ensure_user("alice")
    chat = await lab.store.create_chat(user.id, title="", workspace_id=None)
    status, _, body = await lab.ask(lab.head(f"/api/v2/chats/{chat.id}/desktop"))
    assert (status, json.loads(body)["message"]) == (400, "Chat has no workspace.")


async def test_somebody_elses_chat_looks_unknown(lab: Lab) -> None:
    bob = await lab.store.ensure_user("bob")
    status, _, _ = await lab.ask(lab.head(Coder_Session_Token=await lab.store.create_token(bob.id)))
    assert status == 404
    assert lab.desktops.starts == 0


async def test_the_next_session_looks_nothing_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    look_ups: list[object] = []
    real = lab.store.database.run

    async def noted(work: Any, *, write: bool = False) -> Any:
        look_ups.append(work)
        return await real(work, write=write)

    monkeypatch.setattr(lab.store.database, "run", noted)
    for _ in range(3):
        stream, head = await lab.open()
        await stream.aclose()
        assert b" 101 " in head
    assert len(look_ups) == 1


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (lambda lab: lab.store.set_archived(lab.chat, True), 400, "Chat is archived."),
        (lambda lab: lab.store.revoke_token(lab.token[:10]), 401, "You are signed out"),
        (
            lambda lab: lab.store.database.run(
                lambda connection: connection.exec_driver_sql("UPDATE users SET status = 'away'"),
                write=True,
            ),
            401,
            "User is not active",
        ),
    ],
    ids=["archived", "revoked", "suspended"],
)
async def test_what_is_changed_counts_at_the_next_request(
    lab: Lab, change: Callable[[Lab], Awaitable[object]], status: int, message: str
) -> None:
    stream, head = await lab.open()
    await stream.aclose()
    assert b" 101 " in head
    await change(lab)
    starts = lab.desktops.starts
    got, _, body = await lab.ask(lab.head())
    assert got == status
    assert json.loads(body)["message"].startswith(message)
    assert lab.desktops.starts == starts


async def test_a_chat_archived_between_the_look_and_the_listing_opens_no_desktop(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = lab.store.access

    async def archived_meanwhile(token_id: str, chat_id: UUID) -> Access:
        access = await real(token_id, chat_id)
        await lab.store.set_archived(chat_id, True)
        lab.live.end_chat(chat_id, CloseCode.ARCHIVED, "chat archived")  # finds nobody
        return access

    monkeypatch.setattr(lab.store, "access", archived_meanwhile)
    status, _, body = await lab.ask(lab.head())
    assert (status, json.loads(body)["message"]) == (400, "Chat is archived.")
    assert lab.desktops.starts == 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("tokens", "An internal error occurred."),
        ("chats", "Internal error fetching chat."),
        ("workspaces", "Internal error fetching chat workspace."),
    ],
)
async def test_what_the_store_cannot_read_has_its_own_text(
    lab: Lab, table: str, message: str
) -> None:
    await lab.store.database.run(
        lambda connection: connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO gone"),
        write=True,
    )
    # Who asks is told first all the same.
    nobody = {"Coder_Session_Token": "0123456789-" + "x" * 22}
    assert (await lab.ask(lab.head(**nobody)))[0] == (500 if table == "tokens" else 401)
    status, _, body = await lab.ask(lab.head())
    assert (status, json.loads(body)["message"].startswith(message)) == (500, True)


async def test_a_desktop_that_does_not_start_says_why(lab: Lab) -> None:
    lab.desktops.failure = DesktopError("Xvnc ended: no fonts in /x", told="Xvnc has no fonts")
    with structlog.testing.capture_logs() as lines:
        status, _, body = await lab.ask(lab.head())
    assert status == 500
    assert json.loads(body) == {
        "message": "Failed to connect to agent desktop.",
        "detail": "Xvnc has no fonts",
    }
    assert [line["problem"] for line in lines if "problem" in line] == [str(lab.desktops.failure)]
    # A page cannot read that answer; it asks the chat, until the desktop opens again.
    assert (await lab.look())["desktop_problem"] == "Xvnc has no fonts"
    lab.desktops.failure = None
    viewer, _ = await lab.open()
    await viewer.aclose()
    assert "desktop_problem" not in await lab.look()


@pytest.mark.parametrize("desktop", ["a desktop of\x1b[2J the past", "tcp://10.1.2.3:70000"])
async def test_what_is_not_for_those_who_look_is_in_the_log_alone(lab: Lab, desktop: str) -> None:
    """Also what nobody has thought of telling them."""
    for failure in (
        DesktopError(f"{desktop} in /run/x failed"),
        ValueError(f"{desktop!r} is none"),
    ):
        lab.desktops.failure = failure
        with structlog.testing.capture_logs() as lines:
            _, _, body = await lab.ask(lab.head())
        assert json.loads(body)["detail"] == "the server's log says why"
        assert (await lab.look())["desktop_problem"] == "the server's log says why"
        assert [line["problem"] for line in lines if "problem" in line] == [str(failure)]


@pytest.mark.parametrize(
    ("garbage", "detail"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n", "does not speak RFB"),
        # RFC 6143, Section 7.1.2: no security types, then a reason.
        (b"RFB 003.008\n\0\0\0\0\x08too many", "refused the connection: too many"),
        (b"RFB 003.008\n\x01\x13", "VeNCrypt"),
    ],
    ids=["ssh", "refusal", "security"],
)
async def test_what_is_no_desktop_is_told_before_the_101(
    lab: Lab, garbage: bytes, detail: str
) -> None:
    lab.garbage = garbage
    status, _, body = await lab.ask(lab.head())
    assert status == 500
    assert detail in json.loads(body)["detail"]


async def test_a_refused_desktop_is_counted_by_rule(lab: Lab) -> None:
    lab.garbage = b"SSH-2.0-OpenSSH_9\r\n"
    await lab.ask(lab.head())
    assert b'rule="banner"} 1.0' in await lab.metrics()


@pytest.mark.parametrize(
    "header",
    [
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=x",
        b"Sec-WebSocket-Extensions: \xff",
        b"Sec-WebSocket-Protocol: \xff, binary",
    ],
)
async def test_what_is_declined_is_not_even_read(lab: Lab, header: bytes) -> None:
    head = lab.head(Sec_WebSocket_Extensions=None).removesuffix(b"\r\n") + header + b"\r\n\r\n"
    stream = await lab.connect()
    async with stream:
        await stream.send_all(head)
        answer = (await read_head(stream)).lower()
    assert b" 101 " in answer
    assert b"sec-websocket-extensions" not in answer
    assert b"sec-websocket-protocol" not in answer


async def test_connection_may_stand_in_several_lines(lab: Lab) -> None:
    # RFC 9110, Section 5.2: they are one list.
    head = lab.head().removesuffix(b"\r\n") + b"Connection: keep-alive\r\n\r\n"
    stream = await lab.connect()
    async with stream:
        await stream.send_all(head)
        assert b" 101 " in await read_head(stream)
