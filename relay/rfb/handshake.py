"""Both RFB handshakes as generators that do no I/O (RFC 6143, Sections 7.1 and 7.3).

A step generator yields an int to be resumed with exactly so many bytes of the peer, or bytes
to have them sent; its return value is the outcome. Whoever drives one owns the reading:

    steps = negotiate([SECURITY_NONE], limits)
    want = next(steps)      # 12: read 12 bytes, then steps.send(them)

A peer that ends the stream instead is told by throwing EOFError into the generator.

Versions differ where this module says so: in 3.3 the server dictates a security type, in 3.7 and
3.8 the client chooses one of a list; only 3.8 has a SecurityResult for type None and a reason
after a failed one.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from relay.rfb import pixel_format
from relay.rfb.errors import CloseCode, Direction, ProtocolError
from relay.rfb.pixel_format import PixelFormat

SECURITY_NONE = 1
SECURITY_VNC_AUTH = 2

# The registry has only the owner of these.
_RESERVED = {"RealVNC": (range(3, 16), range(128, 256)), "Apple": (range(31, 36),)}

# The registry of the community specification (Security), which follows IANA's, and below it two
# that desktops use unregistered: macOS lists 36, and UltraVNC dictates MS-Logon in 3.3.
SECURITY_NAMES = {
    number: f"{owner} type {number}"
    for owner, ranges in _RESERVED.items()
    for numbers in ranges
    for number in numbers
} | {
    0: "Invalid",
    1: "None",
    2: "VNC authentication",
    5: "RA2 (RSA-AES)",
    6: "RA2ne (RSA-AES unencrypted)",
    13: "RA2r (RSA-AES two-step)",
    16: "Tight",
    17: "Ultra",
    18: "TLS",
    19: "VeNCrypt",
    20: "SASL",
    21: "MD5 hash authentication",
    22: "xvp authentication",
    23: "Secure Tunnel",
    24: "Integrated SSH",
    30: "Apple's Diffie-Hellman (ARD)",
    113: "MSLogonII",
    129: "RA2 (RSA-AES-256)",
    130: "RA2ne (RSA-AES-256 unencrypted)",
    133: "RA2r (RSA-AES-256 two-step)",
    36: "Apple type 36",
    0xFFFFFFFA: "MS-Logon",
}

_NAMES_SHOWN = 32
"""Of the security types in a refusal; a desktop may list 255."""

_FAILED = {1: "wrong password?", 2: "too many attempts"}
"""SecurityResult, where no reason comes with it. 2 belongs to the Tight type, but servers send it
after VNC authentication too."""

OUR_BANNER = b"RFB 003.008\n"

_U32 = struct.Struct(">I")
_SIZE = struct.Struct(">HH")

T = TypeVar("T")
Steps = Generator[int | bytes, bytes, T]


class HandshakeBounds(Protocol):
    """The limits a handshake needs; `relay.Limits` has them."""

    @property
    def reason_bytes(self) -> int: ...
    @property
    def name_bytes(self) -> int: ...
    @property
    def framebuffer_side_px(self) -> int: ...
    @property
    def framebuffer_px(self) -> int: ...


class HandshakeRefused(Exception):
    """There is no way in, by what the other side says. The text is safe to show."""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The version both sides speak, as the minor number 3, 7 or 8, and the security type."""

    minor: int
    security_type: int


@dataclass(frozen=True, slots=True)
class ServerInit:
    """What a desktop says of itself (RFC 6143, Section 7.3.2). `name` is its bytes: real
    desktops send Latin-1 and GBK where UTF-8 is meant."""

    width: int
    height: int
    pixel_format: PixelFormat
    name: bytes

    def pack(self, name_limit: int) -> bytes:
        """The message for a viewer, the name cut to `name_limit` bytes, padding zero."""
        name = _cut(self.name, name_limit)
        return (
            _SIZE.pack(self.width, self.height)
            + self.pixel_format.pack()
            + _U32.pack(len(name))
            + name
        )


def _cut(name: bytes, limit: int) -> bytes:
    """At most `limit` bytes, and not half a character where the name is UTF-8."""
    if len(name) > limit:
        ends = range(limit, max(limit - 4, 0), -1)
        limit = next((end for end in ends if name[end] & 0xC0 != 0x80), limit)
    return name[:limit]


def _fault(rule: str, text: str, where: str) -> ProtocolError:
    return ProtocolError(
        rule,
        text,
        direction=Direction.DOWN,
        offset=0,
        where=where,
        close_code=CloseCode.DESKTOP_FAULT,
    )


def printable(raw: bytes, limit: int = 200) -> str:
    """Text of a peer made safe to show: control characters removed, at most `limit` characters."""
    text = raw.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()[:limit]


# The versions that desktops announce and the one we then speak. 3.3 to 3.6 never gained a
# meaning beyond 3.3 (UltraVNC sends 3.4 and 3.6); Apple's 3.889, Intel's 4.x and RealVNC's 4.1
# and 5.x speak 3.8.
def parse_banner(banner: bytes) -> int:
    """The minor version to speak (3, 7 or 8) with a desktop of this ProtocolVersion.

    Raises ProtocolError where it is none, HandshakeRefused for a repeater.
    """
    digits = banner[4:7] + banner[8:11]
    if banner[:4] != b"RFB " or banner[7:8] != b"." or banner[11:] != b"\n" or not digits.isdigit():
        raise _fault(
            "banner", "this is not RFB: the greeting is not 'RFB xxx.yyy'", "ProtocolVersion"
        )
    version = (int(banner[4:7]), int(banner[8:11]))
    if version >= (3, 8):
        return 8
    if version == (3, 7):
        return 7
    if version >= (3, 3):
        return 3
    if version == (0, 0):
        # A viewer would next send 250 bytes that name a desktop waiting there.
        raise HandshakeRefused("this is UltraVNC's repeater; use the desktop's own address")
    raise _fault(
        "version", f"version {version[0]}.{version[1]} is older than 3.3", "ProtocolVersion"
    )


def _reason(bounds: HandshakeBounds, otherwise: str) -> Steps[str]:
    """A reason-string as text; `otherwise` where the desktop says nothing or closes instead."""
    try:
        (length,) = _U32.unpack((yield 4))
        if length > bounds.reason_bytes:
            raise _fault("reason-length", f"a reason of {length} bytes", "reason-string")
        text = printable((yield length)) if length else ""
    except EOFError:
        return otherwise
    return text or otherwise


def name_of(security_type: int) -> str:
    """The registered name of a security type, for messages."""
    return SECURITY_NAMES.get(security_type, f"type {security_type}")


def negotiate(acceptable: Collection[int], bounds: HandshakeBounds) -> Steps[Negotiated]:
    """Version and security type with a desktop (RFC 6143, Sections 7.1.1 and 7.1.2).

    `acceptable` holds the security types the caller can do, best first. Raises
    HandshakeRefused when the desktop refuses or offers none of them, ProtocolError when it
    does not speak RFB.
    """
    minor = parse_banner((yield 12))
    yield b"RFB 003.00%d\n" % minor
    offered: Sequence[int]
    if minor == 3:
        (dictated,) = _U32.unpack((yield 4))
        if dictated not in SECURITY_NAMES:
            raise _fault("security-type", f"security type {dictated}", "Security")
        offered = [dictated] if dictated else []
    else:
        count = (yield 1)[0]
        offered = (yield count) if count else b""
    if not offered:
        reason = yield from _reason(bounds, "no reason given")
        raise HandshakeRefused(f"the desktop refused the connection: {reason}")
    for security_type in acceptable:
        if security_type in offered:
            if minor > 3:
                yield bytes([security_type])
            return Negotiated(minor, security_type)
    names = [name_of(security_type) for security_type in dict.fromkeys(offered)]
    shown = ", ".join(names[:_NAMES_SHOWN])
    if len(names) > _NAMES_SHOWN:
        shown += f" and {len(names) - _NAMES_SHOWN} more"
    if SECURITY_VNC_AUTH in offered:
        raise HandshakeRefused(f"the desktop asks for {shown}, and no password is configured")
    raise HandshakeRefused(f"the desktop asks for {shown}, which this relay does not do")


def finish(negotiated: Negotiated, bounds: HandshakeBounds) -> Steps[ServerInit]:
    """From after the authentication to ServerInit (RFC 6143, Sections 7.1.3, 7.3.1, 7.3.2).

    Asks for a shared desktop: several viewers may look at one.
    """
    if negotiated.minor == 8 or negotiated.security_type != SECURITY_NONE:
        (result,) = _U32.unpack((yield 4))
        if result and result not in _FAILED:
            raise _fault("security-result", f"SecurityResult {result}", "SecurityResult")
        if result:
            reason = _FAILED[result]
            if negotiated.minor == 8:
                reason = yield from _reason(bounds, reason)
            raise HandshakeRefused(f"the desktop refused the authentication: {reason}")
    yield b"\x01"
    head = yield _SIZE.size + pixel_format.SIZE + 4
    width, height = _SIZE.unpack_from(head)
    check_size(width, height, bounds)
    try:
        pixels = pixel_format.parse(head, _SIZE.size)
    except ValueError as error:
        raise _fault("pixel-format", str(error), "ServerInit > pixel format") from None
    (name_length,) = _U32.unpack_from(head, _SIZE.size + pixel_format.SIZE)
    if name_length > bounds.name_bytes:
        raise _fault("name-length", f"a name of {name_length} bytes", "ServerInit > name")
    name = (yield name_length) if name_length else b""
    return ServerInit(width, height, pixels, name)


def check_size(width: int, height: int, bounds: HandshakeBounds) -> None:
    """Refuses a framebuffer that is empty or larger than the bounds. Raises ProtocolError."""
    if not width or not height:
        raise _fault("framebuffer-size", f"a framebuffer of {width}x{height}", "ServerInit > size")
    if max(width, height) > bounds.framebuffer_side_px or width * height > bounds.framebuffer_px:
        raise _fault(
            "framebuffer-size",
            f"a framebuffer of {width}x{height}, beyond the limits",
            "ServerInit > size",
        )


_VIEWER_VERSIONS = {b"RFB 003.003\n": 3, b"RFB 003.007\n": 7, OUR_BANNER: 8}


def greet(init: bytes) -> Steps[bool]:
    """The whole handshake with a viewer: we are RFB 3.8, speak 3.3 and 3.7 where a viewer prefers
    them, and offer None, because the session token has authenticated it already. `init` is the
    ServerInit message. Returns whether the viewer asked to share. Raises ProtocolError.
    """
    yield OUR_BANNER
    banner = yield 12
    minor = _VIEWER_VERSIONS.get(banner)
    if minor is None:
        text = "the viewer did not answer with version 3.3, 3.7 or 3.8"
        raise _viewer_fault("viewer-version", text, 0, "ProtocolVersion", banner)
    if minor == 3:
        yield b"\x00\x00\x00\x01"
    else:
        yield b"\x01\x01"
        choice = yield 1
        if choice != b"\x01":
            text = "the viewer chose a security type not offered"
            raise _viewer_fault("viewer-security", text, 12, "Security", choice)
    if minor == 8:
        yield b"\x00\x00\x00\x00"
    shared = (yield 1) != b"\x00"
    yield init
    return shared


def _viewer_fault(rule: str, text: str, offset: int, where: str, evidence: bytes) -> ProtocolError:
    return ProtocolError(
        rule,
        text,
        direction=Direction.UP,
        offset=offset,
        where=where,
        close_code=CloseCode.POLICY,
        evidence=evidence,
    )
