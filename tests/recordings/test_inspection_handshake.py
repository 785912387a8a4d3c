"""The handshake between two others, and the rules they break, as `deskrelay inspect` tells."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from relay.recordings.inspection import Element, report
from relay.rfb.errors import Direction
from tests.labs.inspecting import (
    BELL,
    DOWN,
    INIT,
    KEY,
    OK,
    START,
    UP,
    VERSION,
    agree,
    inspected,
    records,
)

# The handshake


FAILED = b"\0\0\0\1"
CHALLENGE, RESPONSE = b"c" * 16, b"r" * 16
REASON = b"\0\0\0\3" + b"no\x1b"
NONE, VNC = b"\0\0\0\1STDVNOAUTH__", b"\0\0\0\2STDVVNCAUTH_"
CAPABILITIES = b"\0\1\0\0\0\1\0\0" + b"m" * 32

# Name: desktop's bytes, viewer's bytes, version, security type, whether a session follows.
# From RFC 6143, Sections 7.1 to 7.3 and Appendix A; for Tight and VeNCrypt from the community
# specification.
HANDSHAKES: dict[str, tuple[bytes, bytes, str | None, int | None, bool]] = {
    "3.8, None": (VERSION[8] + b"\1\1" + OK + INIT, VERSION[8] + b"\1\1", "3.8", 1, True),
    "3.8, VNC": (
        VERSION[8] + b"\2\1\2" + CHALLENGE + OK + INIT,
        VERSION[8] + b"\2" + RESPONSE + b"\0",
        "3.8",
        2,
        True,
    ),
    "3.8, wrong password": (
        VERSION[8] + b"\1\2" + CHALLENGE + FAILED + REASON,
        VERSION[8] + b"\2" + RESPONSE,
        "3.8",
        2,
        False,
    ),
    "3.8, refused": (VERSION[8] + b"\0" + REASON, VERSION[8], "3.8", 0, False),
    "3.7, None": (VERSION[7] + b"\1\1" + INIT, VERSION[7] + b"\1\1", "3.7", 1, True),
    "3.7 with a desktop of 3.8": (
        VERSION[8] + b"\1\1" + INIT,
        VERSION[7] + b"\1\1",
        "3.7",
        1,
        True,
    ),
    "3.7, wrong password": (
        VERSION[7] + b"\1\2" + CHALLENGE + FAILED,
        VERSION[7] + b"\2" + RESPONSE,
        "3.7",
        2,
        False,
    ),
    "3.3, None": (VERSION[3] + b"\0\0\0\1" + INIT, VERSION[3] + b"\1", "3.3", 1, True),
    "3.3 with a desktop of 3.8": (
        VERSION[8] + b"\0\0\0\1" + INIT,
        VERSION[3] + b"\1",
        "3.3",
        1,
        True,
    ),
    "3.3, VNC": (
        VERSION[3] + b"\0\0\0\2" + CHALLENGE + OK + INIT,
        VERSION[3] + RESPONSE + b"\1",
        "3.3",
        2,
        True,
    ),
    "3.3, wrong password": (
        VERSION[3] + b"\0\0\0\2" + CHALLENGE + FAILED,
        VERSION[3] + RESPONSE,
        "3.3",
        2,
        False,
    ),
    "3.3, refused": (VERSION[3] + b"\0\0\0\0" + REASON, VERSION[3], "3.3", 0, False),
    "3.3, refused before the viewer's word": (
        VERSION[3] + b"\0\0\0\0" + REASON,
        b"",
        "3.3",
        0,
        False,
    ),
    "Apple's version": (
        b"RFB 003.889\n\1\1" + OK + INIT,
        b"RFB 003.889\n\1\1",
        "3.8",
        1,
        True,
    ),
    "Tight without authentication": (
        VERSION[8] + b"\2\1\x10" + OK + OK + OK + INIT + CAPABILITIES,
        VERSION[8] + b"\x10\1",
        "3.8",
        16,
        True,
    ),
    "Tight, a tunnel, VNC": (
        VERSION[8]
        + b"\1\x10\0\0\0\1"
        + b"\0\0\0\0TGHTNOTUNNEL"
        + b"\0\0\0\2"
        + NONE
        + VNC
        + CHALLENGE
        + OK
        + INIT
        + CAPABILITIES,
        VERSION[8] + b"\x10" + b"\0\0\0\0" + b"\0\0\0\2" + RESPONSE + b"\1",
        "3.8",
        16,
        True,
    ),
    "VeNCrypt": (
        VERSION[8] + b"\1\x13" + b"\0\2" + b"\0" + b"\1\0\0\1\4" + b"\1" + b"\x16\3\3",
        VERSION[8] + b"\x13" + b"\0\2" + b"\0\0\1\4" + b"\x16\3\1",
        "3.8",
        19,
        False,
    ),
    "unknown security": (
        VERSION[8] + b"\1\x1e" + b"whatever",
        VERSION[8] + b"\x1e" + b"whatever",
        "3.8",
        30,
        False,
    ),
    "ends before the choice": (VERSION[8] + b"\1\1", VERSION[8], "3.8", None, False),
    "ends before the viewer's version": (VERSION[8], b"", None, None, False),
    "ends inside ServerInit": (
        VERSION[8] + b"\1\1" + OK + INIT[:-1],
        VERSION[8] + b"\1\1",
        "3.8",
        1,
        False,
    ),
}


def orders(down: bytes, up: bytes) -> Iterator[list[tuple[Direction, bytes]]]:
    """Ways in which the two sides' bytes can arrive: either first, in turns, in any two pieces."""
    yield [(DOWN, down), (UP, up)]
    yield [(UP, up), (DOWN, down)]
    longest = max(len(down), len(up))
    yield [(way, data[i : i + 1]) for i in range(longest) for way, data in ((UP, up), (DOWN, down))]
    for cut in range(1, len(down)):
        yield [(DOWN, down[:cut]), (UP, up), (DOWN, down[cut:])]
    for cut in range(1, len(up)):
        yield [(UP, up[:cut]), (DOWN, down), (UP, up[cut:])]


@pytest.mark.parametrize("name", HANDSHAKES)
def test_handshake(name: str) -> None:
    down, up, version, security_type, session = HANDSHAKES[name]
    wanted = {
        "version": version,
        "security_type": security_type,
        "client_messages": {"4": 1} if session else {},
        "server_messages": {"2": 2} if session else {},
        "rects": {},
        "final_framebuffer": [640, 480] if session else None,
        "error": None,
    }
    shown = set()
    for order in orders(down + BELL * 2 * session, up + KEY * session):
        seen: list[Element] = []
        agree(report(inspected(records(order), seen.append)), wanted)
        assert not any("\x1b" in element.details for element in seen)
        for way in Direction:
            shown.add((way, *((e.offset, e.name, e.details) for e in seen if e.direction is way)))
    # Each side says the same at the same place, whatever the order.
    assert len(shown) == 2


# Broken rules


def after(way: Direction, data: bytes) -> dict[Direction, bytes]:
    return START | {way: START[way] + data}


FAULTS: dict[str, tuple[dict[Direction, bytes], str, int, str, str]] = {
    "no RFB": (
        {DOWN: b"HTTP/1.1 400 Bad Request\r\n", UP: b""},
        "server_to_client",
        0,
        "banner",
        "ProtocolVersion: this is not RFB",
    ),
    "no RFB from the viewer": (
        {DOWN: VERSION[8], UP: b"GET / HTTP/1.1\r\n"},
        "client_to_server",
        0,
        "banner",
        "ProtocolVersion: this is not RFB",
    ),
    "a choice that was not offered": (
        {DOWN: VERSION[8] + b"\1\1", UP: VERSION[8] + b"\2"},
        "client_to_server",
        12,
        "viewer-security",
        "Security: security type 2 was not offered",
    ),
    "3.3, a type of 32 bits": (
        {DOWN: VERSION[3] + b"\1\0\0\0", UP: VERSION[3]},
        "server_to_client",
        12,
        "security-type",
        "Security: security type 16777216",
    ),
    "a long reason": (
        {DOWN: VERSION[8] + b"\0\xff\xff\xff\xff", UP: VERSION[8]},
        "server_to_client",
        13,
        "reason-length",
        "Security: a reason of 4294967295 bytes",
    ),
    "many tunnels": (
        {DOWN: VERSION[8] + b"\1\x10\xff\xff\xff\xff", UP: VERSION[8] + b"\x10"},
        "server_to_client",
        14,
        "tight-capabilities",
        "Tight tunnel: 4294967295 capabilities",
    ),
    "a framebuffer of nothing": (
        {DOWN: VERSION[8] + b"\1\1" + OK + bytes(24), UP: START[UP]},
        "server_to_client",
        18,
        "framebuffer-size",
        "ServerInit: a framebuffer of 0x0",
    ),
    "24 bits per pixel": (
        {DOWN: VERSION[8] + b"\1\1" + OK + INIT[:4] + b"\x18" + INIT[5:], UP: START[UP]},
        "server_to_client",
        18,
        "pixel-format",
        "ServerInit: 24 bits per pixel",
    ),
    "a long name": (
        {DOWN: VERSION[8] + b"\1\1" + OK + INIT[:20] + b"\0\1\0\0", UP: START[UP]},
        "server_to_client",
        18,
        "name-length",
        "ServerInit: a name of 65536 bytes",
    ),
    "no message of a desktop": (
        after(DOWN, BELL + b"\x63"),
        "server_to_client",
        len(START[DOWN]) + 1,
        "message-type",
        "message type: ",
    ),
    "no message of a viewer": (
        after(UP, KEY + b"\x63"),
        "client_to_server",
        len(START[UP]) + 8,
        "message-type",
        "message type: ",
    ),
    "a rectangle outside": (
        after(DOWN, BELL + struct.pack(">BxHHHHHi", 0, 1, 640, 0, 1, 1, 0)),
        "server_to_client",
        len(START[DOWN]) + 5,
        "rectangle-outside",
        "FramebufferUpdate > rectangle 0 > Raw: 1x1 at 640,0 outside",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str) -> None:
    sent, direction, offset, rule, text = FAULTS[name]
    for order in orders(sent[DOWN], sent[UP]):
        error = report(inspected(records(order)))["error"]
        assert error.pop("text").startswith(text)
        assert error == {"direction": direction, "offset": offset, "rule": rule}


def test_after_a_fault_the_other_side_is_still_read() -> None:
    pieces = [(way, data) for way, data in after(DOWN, b"\x63").items()]
    found = report(inspected(records([*pieces, (UP, KEY), (DOWN, BELL), (UP, b"\x63")])))
    assert found["client_messages"] == {"4": 1}
    assert found["server_messages"] == {}
    assert found["bytes"] == {
        "client_to_server": len(START[UP]) + 9,
        "server_to_client": len(START[DOWN]) + 2,
    }
    # The first of the two.
    assert found["error"]["direction"] == "server_to_client"


def test_a_text_that_is_never_whole_is_no_fault_and_not_counted() -> None:
    # asyncvnc 1.3.0 forgets two bytes of padding: the length is two bytes off, here 878,194.
    text = b"\6\0\0\0\0\x0d\x66\x72og jumps"
    found = report(inspected(records([*START.items(), (UP, KEY + text)])))
    assert found["client_messages"] == {"4": 1}
    assert found["error"] is None
