"""The RFB handshake as client: versions, refusals, passwords, deadlines.

Bytes are written out from RFC 6143, Sections 7.1 to 7.3.
"""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

from relay import DesktopEnd, DesktopError, Limits, Password, log_in
from relay.login import vnc_auth_response
from tests.peers import PIXEL_FORMAT

INIT = struct.pack(">HH", 640, 480) + PIXEL_FORMAT + b"\0\0\0\x03lab"
REASON = b"\0\0\0\x08go away\x07"

# What the desktop sends, by what it then expects: (sent, expected answer).
Script = list[tuple[bytes, bytes]]

OK: dict[str, tuple[Script, str]] = {
    "3.8": (
        [
            (b"RFB 003.008\n", b"RFB 003.008\n"),
            (b"\x01\x01", b"\x01"),
            (b"\0\0\0\0", b"\x01"),
            (INIT, b""),
        ],
        "3.8",
    ),
    "3.7, no result for None": (
        [(b"RFB 003.007\n", b"RFB 003.007\n"), (b"\x02\x10\x01", b"\x01\x01"), (INIT, b"")],
        "3.7",
    ),
    "3.3, the desktop dictates": (
        [(b"RFB 003.003\n", b"RFB 003.003\n"), (b"\0\0\0\x01", b"\x01"), (INIT, b"")],
        "3.3",
    ),
    "UltraVNC's 3.6 is 3.3": (
        [(b"RFB 003.006\n", b"RFB 003.003\n"), (b"\0\0\0\x01", b"\x01"), (INIT, b"")],
        "3.3",
    ),
    "Apple's 3.889 is 3.8": (
        [
            (b"RFB 003.889\n", b"RFB 003.008\n"),
            (b"\x05\x1e\x21\x24\x23\x01", b"\x01"),
            (b"\0\0\0\0", b"\x01"),
            (INIT, b""),
        ],
        "3.8",
    ),
    "RealVNC's 5.0 is 3.8": (
        [
            (b"RFB 005.000\n", b"RFB 003.008\n"),
            (b"\x01\x01", b"\x01"),
            (b"\0\0\0\0", b"\x01"),
            (INIT, b""),
        ],
        "3.8",
    ),
}

REFUSED: dict[str, tuple[Script, str]] = {
    "not RFB": ([(b"SSH-2.0-Open\n\n", b"")], "not RFB"),
    "signs in the version": ([(b"RFB -03.+08\n", b"")], "not RFB"),
    "too old": ([(b"RFB 002.000\n", b"")], "older than 3.3"),
    "a repeater": ([(b"RFB 000.000\n", b"")], "older than 3.3"),
    "no types and a reason": (
        [(b"RFB 003.008\n", b"RFB 003.008\n"), (b"\0" + REASON, b"")],
        "refused the connection: go away",
    ),
    "a blacklist that answers unasked": (
        [(b"RFB 003.003\n\0\0\0\0" + REASON, b"RFB 003.003\n")],
        "refused the connection: go away",
    ),
    "only other types": (
        [(b"RFB 003.008\n", b"RFB 003.008\n"), (b"\x02\x13\x63", b"")],
        "VeNCrypt, type 99",
    ),
    "an endless reason": (
        [(b"RFB 003.008\n", b"RFB 003.008\n"), (b"\0\x7f\xff\xff\xff", b"")],
        "a reason of 2147483647 bytes",
    ),
    "a result that is none": (
        [
            (b"RFB 003.008\n", b"RFB 003.008\n"),
            (b"\x01\x01", b"\x01"),
            (b"\xde\xad\xbe\xef", b""),
        ],
        "SecurityResult 3735928559",
    ),
    "an endless name": (
        [
            (b"RFB 003.007\n", b"RFB 003.007\n"),
            (b"\x01\x01", b"\x01\x01"),
            (INIT[:20] + b"\xff\xff\xff\xff", b""),
        ],
        "a name of 4294967295 bytes",
    ),
    "no framebuffer": (
        [
            (b"RFB 003.007\n", b"RFB 003.007\n"),
            (b"\x01\x01", b"\x01\x01"),
            (b"\0\0\0\0" + INIT[4:], b""),
        ],
        "a framebuffer of 0x0",
    ),
    "24 bits per pixel": (
        [
            (b"RFB 003.007\n", b"RFB 003.007\n"),
            (b"\x01\x01", b"\x01\x01"),
            (INIT[:4] + b"\x18" + INIT[5:], b""),
        ],
        "24 bits per pixel",
    ),
    "closes": ([(b"RFB 003", b"")], "closed the connection"),
}


async def play(script: Script, pieces: int, **options: object) -> DesktopEnd:
    """Runs `log_in` against the script, whose bytes come `pieces` at a time; 0: at once."""
    near, far = trio.testing.memory_stream_pair()
    ends: list[DesktopEnd] = []

    async def desktop() -> None:
        try:
            for sent, answer in script:
                step = pieces or len(sent)
                for at in range(0, len(sent), step):
                    await far.send_all(sent[at : at + step])
                    if pieces:
                        await trio.testing.wait_all_tasks_blocked()
                heard = b""
                while len(heard) < len(answer):
                    more = await far.receive_some(len(answer) - len(heard))
                    if not more:
                        return
                    heard += more
                assert heard == answer
            await far.send_eof()
        except trio.BrokenResourceError:
            # It was refused before it had said all.
            return

    failure: DesktopError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desktop)
        try:
            ends.append(await log_in(near, **options))  # type: ignore[arg-type]
        except DesktopError as error:
            failure = error
            with pytest.raises(trio.ClosedResourceError):
                await near.send_all(b"x")
    if failure is not None:
        raise failure
    return ends[0]


@pytest.mark.parametrize("pieces", [0, 1, 5])
@pytest.mark.parametrize("name", OK)
async def test_versions(name: str, pieces: int) -> None:
    script, version = OK[name]
    end = await play(script, pieces)
    assert (end.version, end.width, end.height, end.name) == (version, 640, 480, "lab")
    assert end.pixel_format.pack() == PIXEL_FORMAT


@pytest.mark.parametrize("pieces", [0, 1])
@pytest.mark.parametrize("name", REFUSED)
async def test_refusals(name: str, pieces: int) -> None:
    script, text = REFUSED[name]
    with pytest.raises(DesktopError, match=text):
        await play(script, pieces)


async def test_what_comes_early_is_kept() -> None:
    script = OK["3.8"][0][:-1] + [(INIT + b"\x02\x02", b"")]
    assert (await play(script, 0)).early == b"\x02\x02"


@pytest.mark.parametrize(
    ("password", "block"),
    [("\x01", "95a8d72813daa94d"), ("\x02", "0eec1487dd8c26d5"), ("\x04", "7ad16ffb79c45926")],
)
def test_vnc_authentication_by_published_vectors(password: str, block: str) -> None:
    """NIST SP 800-17, variable key known answer test: keys 80..., 40... and 20... (and parity
    bits, which DES ignores) over eight zero bytes. Reversed bits make them passwords of ASCII."""
    assert vnc_auth_response(bytes(16), Password(password)) == bytes.fromhex(block * 2)


def test_vnc_authentication_takes_eight_bytes() -> None:
    long, short = Password("123456789"), Password("12345678")
    assert vnc_auth_response(bytes(16), long) == vnc_auth_response(bytes(16), short)


async def test_a_password_is_sent_where_it_is_asked() -> None:
    challenge = bytes(range(16))
    answer = vnc_auth_response(challenge, Password("sesame"))
    script = [
        (b"RFB 003.008\n", b"RFB 003.008\n"),
        (b"\x01\x02", b"\x02"),
        (challenge, answer),
        (b"\0\0\0\0", b"\x01"),
        (INIT, b""),
    ]
    assert (await play(script, 1, password=Password("sesame"))).security_type == 2
    wrong = [*script[:3], (b"\0\0\0\x01" + REASON, b"")]
    with pytest.raises(DesktopError, match="refused the authentication: go away") as caught:
        await play(wrong, 0, password=Password("sesame"))
    assert "sesame" not in str(caught.value)
    with pytest.raises(DesktopError, match="VNC authentication"):
        await play(script, 0)


def test_a_password_shows_itself_nowhere() -> None:
    secret = Password("sesame")
    assert "sesame" not in repr(secret) + str(secret) + f"{secret}"


async def test_a_silent_desktop(autojump_clock: trio.testing.MockClock) -> None:
    near, _far = trio.testing.memory_stream_pair()
    with pytest.raises(DesktopError, match="within 3 s"):
        await log_in(near, limits=Limits(handshake_timeout_s=3))
    assert trio.current_time() == pytest.approx(3)


async def test_dripping_is_no_way_round(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()

    async def drip() -> None:
        for byte in b"RFB 003.008\n":
            await far.send_all(bytes([byte]))
            await trio.sleep(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(DesktopError, match="within 3 s"):
            await log_in(near, limits=Limits(handshake_timeout_s=3))
        nursery.cancel_scope.cancel()
