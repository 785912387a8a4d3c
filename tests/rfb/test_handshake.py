"""The handshake with a desktop: every version, security type and refusal.

Bytes are written out from RFC 6143, Sections 7.1 to 7.3, and from the community specification.
"""

from __future__ import annotations

import struct

import pytest

from relay import DesktopError, Limits, Password, log_in
from relay.rfb.handshake import ServerInit
from relay.rfb.pixel_format import parse
from tests.labs.peers import PIXEL_FORMAT
from tests.labs.talker import Outcome, Talker, check, outcome

INIT = struct.pack(">HH", 640, 480) + PIXEL_FORMAT + b"\0\0\0\x03lab"
REASON = b"\0\0\0\x08go away\x07"
NO_TYPES = b"\0"

# A challenge and the answer of another program, recorded with Wireshark for "12345678"
# (mitchellh/go-vnc, client_auth_test.go).
CHALLENGE = bytes.fromhex("138ea42e0e66f3ad2df308c304cdc42a")
RESPONSE = bytes.fromhex("5be156fa4949ef56d3f844977327959f")
PASSWORD = Password("12345678")

# What the desktop says, and what it is then told.
Script = list[tuple[bytes, bytes]]

V33 = (b"RFB 003.003\n", b"RFB 003.003\n")
V37 = (b"RFB 003.007\n", b"RFB 003.007\n")
V38 = (b"RFB 003.008\n", b"RFB 003.008\n")
AUTH = (CHALLENGE, RESPONSE)
OK, FAILED, TOO_MANY = b"\0\0\0\0", b"\0\0\0\x01", b"\0\0\0\x02"

LETS_IN: dict[str, tuple[Script, str, int]] = {
    "3.3, None": ([V33, (b"\0\0\0\x01", b"\x01"), (INIT, b"")], "3.3", 1),
    "3.3, VNC": ([V33, (b"\0\0\0\x02" + AUTH[0], AUTH[1]), (OK, b"\x01"), (INIT, b"")], "3.3", 2),
    "3.7, None": ([V37, (b"\x02\x10\x01", b"\x01"), (b"", b"\x01"), (INIT, b"")], "3.7", 1),
    "3.7, VNC": ([V37, (b"\x01\x02", b"\x02"), AUTH, (OK, b"\x01"), (INIT, b"")], "3.7", 2),
    "3.8, None": ([V38, (b"\x01\x01", b"\x01"), (OK, b"\x01"), (INIT, b"")], "3.8", 1),
    "3.8, VNC": ([V38, (b"\x01\x02", b"\x02"), AUTH, (OK, b"\x01"), (INIT, b"")], "3.8", 2),
    "None where there is a choice": (
        [V38, (b"\x03\x00\x02\x01", b"\x01"), (OK, b"\x01"), (INIT, b"")],
        "3.8",
        1,
    ),
    "the last of 255": (
        [V38, (b"\xff" + b"\x13" * 254 + b"\x02", b"\x02"), AUTH, (OK, b"\x01"), (INIT, b"")],
        "3.8",
        2,
    ),
    "a macOS list": (
        [
            (b"RFB 003.889\n", V38[1]),
            (b"\x05\x1e\x21\x24\x23\x02", b"\x02"),
            AUTH,
            (OK, b"\x01"),
            (INIT, b""),
        ],
        "3.8",
        2,
    ),
}

REFUSES: dict[str, tuple[Script, str]] = {
    "3.3, VNC, failed": (
        [V33, (b"\0\0\0\x02" + AUTH[0], AUTH[1]), (FAILED, b"")],
        "the desktop refused the authentication: wrong password?",
    ),
    "3.3, VNC, too many": (
        [V33, (b"\0\0\0\x02" + AUTH[0], AUTH[1]), (TOO_MANY, b"")],
        "the desktop refused the authentication: too many attempts",
    ),
    "3.7, VNC, failed": (
        [V37, (b"\x01\x02", b"\x02"), AUTH, (FAILED, b"")],
        "the desktop refused the authentication: wrong password?",
    ),
    "3.7, VNC, too many": (
        [V37, (b"\x01\x02", b"\x02"), AUTH, (TOO_MANY, b"")],
        "the desktop refused the authentication: too many attempts",
    ),
    "3.8, None, failed": (
        [V38, (b"\x01\x01", b"\x01"), (FAILED + REASON, b"")],
        "the desktop refused the authentication: go away",
    ),
    "3.8, VNC, failed": (
        [V38, (b"\x01\x02", b"\x02"), AUTH, (FAILED + REASON, b"")],
        "the desktop refused the authentication: go away",
    ),
    "3.8, VNC, too many": (
        [V38, (b"\x01\x02", b"\x02"), AUTH, (TOO_MANY + REASON, b"")],
        "the desktop refused the authentication: go away",
    ),
    "3.8, an empty reason": (
        [V38, (b"\x01\x02", b"\x02"), AUTH, (TOO_MANY + b"\0\0\0\0", b"")],
        "the desktop refused the authentication: too many attempts",
    ),
    "3.8, no reason": (
        [V38, (b"\x01\x02", b"\x02"), AUTH, (FAILED, b"")],
        "the desktop refused the authentication: wrong password?",
    ),
    "3.8, more after a failure": (
        [V38, (b"\x01\x02", b"\x02"), AUTH, (FAILED + REASON, b""), (INIT, b"")],
        "the desktop refused the authentication: go away",
    ),
    "3.8, a result that is none": (
        [V38, (b"\x01\x01", b"\x01"), (b"\xde\xad\xbe\xef", b"")],
        "SecurityResult: SecurityResult 3735928559",
    ),
    "3.3, no": ([V33, (OK + REASON, b"")], "the desktop refused the connection: go away"),
    "3.7, no": ([V37, (NO_TYPES + REASON, b"")], "the desktop refused the connection: go away"),
    "3.8, no": ([V38, (NO_TYPES + REASON, b"")], "the desktop refused the connection: go away"),
    "3.8, no and no reason": (
        [V38, (NO_TYPES, b"")],
        "the desktop refused the connection: no reason given",
    ),
    "3.8, half a reason": (
        [V38, (NO_TYPES + REASON[:9], b"")],
        "the desktop refused the connection: no reason given",
    ),
    "a reason in Latin-1 with a bell, lines and a turn of direction": (
        [V38, (NO_TYPES + b"\0\0\0\x0everw\xe4\x07rt\r\n\xe2\x80\xaex", b"")],
        "the desktop refused the connection: verw\ufffd rt   x",
    ),
    "only the type that is none": ([V38, (b"\x01\0", b"")], "the desktop asks for Invalid, "),
    "3.3, other": ([V33, (b"\0\0\0\x10", b"")], "asks for Tight, which this relay does not do"),
    "3.3, UltraVNC's": ([V33, (b"\xff\xff\xff\xfa", b"")], "asks for MS-Logon, which this"),
    "3.3, unregistered": ([V33, (b"\0\0\0\x63", b"")], "Security: security type 99"),
    "3.3, nonsense": ([V33, (b"HTTP", b"")], "Security: security type 1213486160"),
    "only others": (
        [V38, (b"\x04\x13\x63\x13\x05", b"")],
        "asks for VeNCrypt, type 99, RA2 (RSA-AES), which this relay does not do",
    ),
    "255 others": (
        [V38, (b"\xff" + bytes(range(3, 3 + 253)) + b"\x13\x13", b"")],
        " and 221 more, which",
    ),
    "not RFB": ([(b"SSH-2.0-Open\n\n", b"")], "this is not RFB"),
    "HTTP": ([(b"HTTP/1.1 400 Bad Request\r\n", b"")], "this is not RFB"),
    "not quite RFB": ([(b"RFP 003.008\n", b"")], "this is not RFB"),
    "a comma": ([(b"RFB 003,008\n", b"")], "this is not RFB"),
    "signs in the version": ([(b"RFB -03.+08\n", b"")], "this is not RFB"),
    "digits of elsewhere": ([(b"RFB 003.0\xd9\xa8\n", b"")], "this is not RFB"),
    "no line": ([(b"RFB 003.008\r", b"")], "this is not RFB"),
    "too old": ([(b"RFB 003.002\n", b"")], "version 3.2 is older than 3.3"),
    "a repeater": ([(b"RFB 000.000\n", b"")], "this is UltraVNC's repeater"),
    "no framebuffer": ([V33, (b"\0\0\0\x01", b"\x01"), (bytes(24), b"")], "framebuffer of 0x0"),
    "33 others": (
        [V38, (b"\x21" + bytes(range(50, 83)), b"")],
        "type 80, type 81 and 1 more, which",
    ),
    "32 others": ([V38, (b"\x20" + bytes(range(50, 82)), b"")], "type 80, type 81, which"),
    **{
        f"a framebuffer of {w}x{h}": (
            [V33, (b"\0\0\0\x01", b"\x01"), (struct.pack(">HH", w, h) + INIT[4:], b"")],
            f"framebuffer of {w}x{h}",
        )
        # Wider, higher, and larger than the limits.
        for w, h in ((0, 9), (9, 0), (16_385, 1), (1, 16_385), (8_192, 8_193), (16_384, 4_097))
    },
    "24 bits per pixel": (
        [V33, (b"\0\0\0\x01", b"\x01"), (INIT[:4] + b"\x18" + INIT[5:], b"")],
        "ServerInit > pixel format: 24 bits per pixel",
    ),
    "nothing": ([(b"", b"")], "closed the connection during the handshake"),
    "half a version": ([(b"RFB 003", b"")], "closed the connection during the handshake"),
    "half a list": ([V38, (b"\x02\x01", b"")], "closed the connection during the handshake"),
    "half a size": (
        [V33, (b"\0\0\0\x01", b"\x01"), (INIT[:3], b"")],
        "closed the connection during the handshake",
    ),
    "half a name": (
        [V33, (b"\0\0\0\x01", b"\x01"), (INIT[:-1], b"")],
        "closed the connection during the handshake",
    ),
}

# Announced lengths beyond the limits; what follows is never read.
ENDLESS: dict[str, tuple[Script, str]] = {
    "a reason of 4 GiB": (
        [V38, (NO_TYPES + b"\xff\xff\xff\xff", b"")],
        "a reason of 4294967295 bytes",
    ),
    "3.3, a reason of 4 GiB": (
        [V33, (OK + b"\xff\xff\xff\xff", b"")],
        "a reason of 4294967295 bytes",
    ),
    "a reason after the result": (
        [V38, (b"\x01\x01", b"\x01"), (FAILED + b"\0\0\x10\x01", b"")],
        "a reason of 4097 bytes",
    ),
    "a name of 4 GiB": (
        [V33, (b"\0\0\0\x01", b"\x01"), (INIT[:20] + b"\xff\xff\xff\xff", b"")],
        "a name of 4294967295 bytes",
    ),
    "a name": (
        [V33, (b"\0\0\0\x01", b"\x01"), (INIT[:20] + b"\0\0\x10\x01", b"")],
        "a name of 4097 bytes",
    ),
}


def expected(script: Script) -> tuple[bytes, list[tuple[int, bytes]]]:
    """A script as what the desktop says, and after how many bytes it is told what."""
    wire = b""
    told = []
    for said, answer in script:
        wire += said
        if answer:
            told.append((len(wire), answer))
    return wire, told


@pytest.mark.parametrize("name", LETS_IN)
async def test_lets_in(name: str) -> None:
    script, version, security_type = LETS_IN[name]
    wire, told = expected(script)
    init = ServerInit(640, 480, parse(PIXEL_FORMAT), b"lab")
    assert await check(wire, PASSWORD) == Outcome(told, init, version, security_type)


@pytest.mark.parametrize("name", [*REFUSES, *ENDLESS])
async def test_refuses(name: str) -> None:
    script, text = (REFUSES | ENDLESS)[name]
    wire, told = expected(script)
    refused = await check(wire, PASSWORD)
    assert refused.told == told
    assert text in refused.refusal
    assert refused.refusal.isprintable()


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_is_too_long_is_not_read(name: str) -> None:
    wire, _ = expected(ENDLESS[name][0])
    talker = Talker(wire + b"x" * 100_000, [len(wire)])
    with pytest.raises(DesktopError):
        await log_in(talker)
    assert talker.said == len(wire)


@pytest.mark.parametrize(
    ("banner", "answer"),
    [
        ("003.003", "003.003"),
        ("003.004", "003.003"),  # UltraVNC
        ("003.005", "003.003"),  # the community specification: to be read as 3.3
        ("003.006", "003.003"),  # UltraVNC
        ("003.007", "003.007"),
        ("003.008", "003.008"),
        ("003.009", "003.008"),
        ("003.016", "003.008"),
        ("003.889", "003.008"),  # Apple
        ("004.000", "003.008"),  # Intel AMT
        ("004.001", "003.008"),  # RealVNC 4
        ("005.000", "003.008"),  # RealVNC 5
    ],
)
async def test_versions(banner: str, answer: str) -> None:
    single = await check(f"RFB {banner}\n".encode())
    assert single.told == [(12, f"RFB {answer}\n".encode())]


# The community specification, Security: the types it describes, and others that are registered.
REGISTERED = {
    5: "(RSA-AES)",
    6: "(RSA-AES unencrypted)",
    13: "(RSA-AES two-step)",
    16: "Tight",
    17: "Ultra",
    18: "TLS",
    19: "VeNCrypt",
    20: "SASL",
    21: "MD5 hash authentication",
    22: "xvp authentication",
    23: "Secure Tunnel",
    24: "Integrated SSH",
    30: "Diffie-Hellman",
    113: "MSLogonII",
    129: "(RSA-AES-256)",
    130: "(RSA-AES-256 unencrypted)",
    133: "(RSA-AES-256 two-step)",
    **dict.fromkeys((3, 4, *range(7, 13), 14, 15, 128, 131, 132, *range(134, 256)), "RealVNC"),
    **dict.fromkeys(range(31, 36), "Apple"),
}


@pytest.mark.parametrize("number", REGISTERED)
async def test_every_other_type_is_refused_by_name(number: int) -> None:
    for said in (V38[0] + bytes([1, number]), V33[0] + bytes([0, 0, 0, number])):
        refused = await outcome(said, PASSWORD, [])
        assert REGISTERED[number] in refused.refusal
        assert refused.refusal.endswith(", which this relay does not do")
        assert [data for _, data in refused.told] == [said[:12]]


async def test_without_a_password_none_is_tried() -> None:
    text = "the desktop asks for VeNCrypt, VNC authentication, and no password is configured"
    refused = await check(V38[0] + b"\x02\x13\x02" + CHALLENGE)
    assert (refused.refusal, refused.told) == (text, [(12, V38[1])])
    assert "no password is configured" in (await check(V33[0] + b"\0\0\0\x02")).refusal


@pytest.mark.parametrize(
    ("name", "passed_on"),
    [
        (b"x" * 1024, b"x" * 1024),
        (b"x" * 1025, b"x" * 1024),
        (b"x" * 1023 + "ä".encode(), b"x" * 1023),
        (b"x" * 1022 + "ä".encode(), b"x" * 1022 + "ä".encode()),
        (b"x" * 1021 + "🖥".encode(), b"x" * 1021),
        (b"x" * 1020 + "🖥!".encode(), b"x" * 1020 + "🖥".encode()),
        (b"caf\xe9 \xc4\xe3", b"caf\xe9 \xc4\xe3"),  # Latin-1 and GBK pass as they are
        (b"\xa4" * 4096, b"\xa4" * 1024),
    ],
)
async def test_names_of_any_encoding(name: bytes, passed_on: bytes) -> None:
    wire, _ = expected(LETS_IN["3.7, None"][0][:-1])
    wire += INIT[:20] + struct.pack(">I", len(name)) + name
    end = await log_in(Talker(wire + b"\x02", []))
    assert (end.init.name, end.early) == (name, b"\x02")
    message = INIT[:20] + struct.pack(">I", len(passed_on)) + passed_on
    assert end.init.pack(Limits().viewer_name_bytes) == message


@pytest.mark.parametrize(
    "pixel_format",
    [
        "2020000100ff00ff00ff100800000000",  # depth 32 of 32, as QEMU says it
        "201800ff00ff00ff00ff100800000000",  # a flag of 255, as x11vnc says it
        "201e000103ff03ff03ff140a00000000",  # 10 bits a channel
        "0808000000000000000000000000 0000",  # a colour map
    ],
)
async def test_pixel_formats_that_must_pass(pixel_format: str) -> None:
    raw = bytes.fromhex(pixel_format.replace(" ", ""))
    wire = V33[0] + b"\0\0\0\x01" + INIT[:4] + raw[:13] + b"\xaa\xbb\xcc" + INIT[20:]
    init = (await check(wire)).init
    assert init is not None
    flags = raw[:3] + bytes([bool(raw[3])])
    assert init.pixel_format.pack() == flags + raw[4:13] + b"\0\0\0"


@pytest.mark.parametrize("size", [(16_384, 1), (1, 16_384), (8_192, 8_192), (16_384, 4_096)])
async def test_the_largest_framebuffers(size: tuple[int, int]) -> None:
    head = struct.pack(">HH", *size)
    wire, _ = expected([V33, (b"\0\0\0\x01", b"\x01"), (head + INIT[4:], b"")])
    end = await check(wire, None)
    assert end.init is not None
    assert (end.init.width, end.init.height) == size


@pytest.mark.parametrize(
    ("name", "limit", "kept"),
    [
        (b"a\xf0\x9f\x96\xa5b", 4, 1),
        (b"a\xf0\x9f\x96\xa5b", 5, 5),
        # No UTF-8: what is no beginning of a character is looked through for three bytes only.
        (b"ab" + b"\x80" * 20, 10, 10),
        (b"a\x80\x80\x80", 2, 2),
    ],
)
def test_names_are_cut_before_a_character(name: bytes, limit: int, kept: int) -> None:
    init = ServerInit(640, 480, parse(PIXEL_FORMAT), name)
    assert init.pack(limit)[20:] == struct.pack(">I", kept) + name[:kept]
