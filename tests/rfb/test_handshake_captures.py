"""The desktop's side of every capture's handshake: what the relay tells it, and what it learns."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from relay import Password
from tests.labs import captures
from tests.labs.captures import FROM_DESKTOP, Capture
from tests.labs.talker import check

# Found by trying: it makes the recorded viewer's answer out of the recorded challenge.
PASSWORDS = {"tiger-vncviewer-vncauth": Password("secret12")}
UNKNOWN = Password("unknown")


def expectations(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((captures.TRACES / f"{name}.expected.json").read_text())
    return found


SESSIONS = [name for name in captures.names() if expectations(name)["rfb_session"]]
REFUSED = [name for name in captures.names() if name not in SESSIONS]


def handshake_of(capture: Capture) -> bytes:
    """What the desktop said up to its name, had the viewer chosen what the relay chooses."""
    said = capture.stream(FROM_DESKTOP)
    init = capture.expected["server_init"]
    start = init["offset"]
    (name_bytes,) = struct.unpack_from(">I", said, start + 20)
    message = said[start : start + 24 + name_bytes]
    if capture.expected["security_type"] == 16:
        # Behind the list two counts of zero, then the SecurityResult: those of None in Tight.
        listed = 13 + said[12]
        assert said[listed : listed + 8] == bytes(8)
        return said[:listed] + said[listed + 8 : start] + message
    return said[:start] + message


def merged(told: list[tuple[int, bytes]]) -> dict[int, bytes]:
    """What was said at one place; a viewer may have sent it at once."""
    return {at: b"".join(data for place, data in told if place == at) for at, _ in told}


def answers_of(capture: Capture) -> dict[int, bytes]:
    """What the recorded viewer told the desktop, after how many of its bytes."""
    said, left = 0, capture.expected["client_messages_start"]
    told = []
    for way, data in capture.records:
        if way == FROM_DESKTOP:
            said += len(data)
        elif left and data:
            told.append((said, data[:left]))
            left -= len(told[-1][1])
    # The last byte is the ClientInit: we share, and some of the viewers did not.
    at, last = told[-1]
    return merged([*told[:-1], (at, last[:-1] + b"\x01")])


def sizes(told: dict[int, bytes]) -> dict[int, int]:
    return {at: len(data) for at, data in told.items()}


@pytest.mark.parametrize("name", SESSIONS or ["tiger-novnc-basic"])
async def test_sessions(name: str) -> None:
    capture = captures.load(name)
    if capture.expected.get("tight_auths"):
        pytest.skip("its viewer chose another type than the relay does, and that has a password")
    said = capture.expected["server_init"]
    found = await check(handshake_of(capture), PASSWORDS.get(name, UNKNOWN))
    assert found.refusal == ""
    assert found.init is not None
    assert (found.init.width, found.init.height) == (said["width"], said["height"])
    assert found.init.name.decode() == said["name"]
    flags = bytes.fromhex(said["pixel_format"])
    assert found.init.pixel_format.pack() == flags[:3] + bytes([bool(flags[3])]) + flags[4:]
    assert found.version == capture.expected["version"]
    told = merged(found.told)
    if capture.expected["security_type"] == 16:
        listed = 13 + capture.stream(FROM_DESKTOP)[12]
        assert told == {12: b"RFB 003.008\n", listed: b"\x01", listed + 4: b"\x01"}
        return
    assert found.security_type == capture.expected["security_type"]
    assert sizes(told) == sizes(answers_of(capture))
    if found.security_type == 1 or name in PASSWORDS:
        assert told == answers_of(capture)


@pytest.mark.parametrize("name", REFUSED or ["tiger-vncviewer-wrongpw"])
async def test_refusals(name: str) -> None:
    capture = captures.load(name)
    said = capture.stream(FROM_DESKTOP)
    refused = await check(said[:400], UNKNOWN)
    if capture.expected.get("security_type") in (1, 2):
        reason = capture.expected.get("reason", "wrong password?")
        assert refused.refusal == f"the desktop refused the authentication: {reason}"
    elif any(capture.expected["security_types_offered"]):
        assert refused.refusal.endswith(", which this relay does not do")
    else:
        assert refused.refusal.startswith("the desktop refused the connection: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tiger-vncviewer-tlsnone", "the desktop asks for VeNCrypt, which this relay does not do"),
        ("xtight-xtightviewer-raw", "the desktop asks for Tight, which this relay does not do"),
    ],
)
async def test_other_security_types(name: str, text: str) -> None:
    capture = captures.load(name)
    said = capture.stream(FROM_DESKTOP)
    # The list as if it had only what that viewer chose.
    number = capture.expected["security_type"]
    refused = await check(said[:12] + bytes([1, number]) + said[13 + said[12] :][:200], UNKNOWN)
    assert (refused.refusal, refused.told) == (text, [(12, b"RFB 003.008\n")])
