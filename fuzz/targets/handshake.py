"""Only ProtocolError and HandshakeRefused escape; never more is asked for than the bounds allow;
an approved ServerInit, written again, reads the same.

Both handshakes: with a desktop of any version, and with a viewer.
"""

from __future__ import annotations

import struct
from typing import TypeVar

from fuzz.conversations import LIMITS, damaged
from fuzz.data import Data
from fuzz.rectangles import PIXEL_FORMATS
from relay.rfb import handshake
from relay.rfb.errors import EVIDENCE_BYTES, ProtocolError
from relay.rfb.handshake import HandshakeRefused, Negotiated, ServerInit, Steps

T = TypeVar("T")

_BANNERS = (
    *(b"RFB 003.00%d\n" % minor for minor in (3, 5, 7, 8, 8, 8)),
    *(b"RFB 003.889\n", b"RFB 004.001\n", b"RFB 005.000\n", b"RFB 000.000\n", b"RFB 003.002\n"),
    *(b"RFB -03.+08\n", b"HTTP/1.1 400", b"RFB 003.008\r"),
)
_ACCEPTABLE = ((1,), (2, 1), (2,), (1, 2, 16), ())
_ASK_LIMIT_BYTES = max(LIMITS.reason_bytes, LIMITS.name_bytes, 255, 24)


class _Ended(EOFError):
    """The peer says no more."""


def _drive(steps: Steps[T], wire: Data, sent: list[bytes]) -> T:
    """Runs a handshake with a peer that has said all it will say."""
    try:
        want = next(steps)
        while True:
            if isinstance(want, bytes):
                sent.append(want)
                want = next(steps)
                continue
            assert 0 < want <= _ASK_LIMIT_BYTES, f"asks for {want} bytes"
            said = wire.take(want)
            want = steps.throw(_Ended()) if len(said) < want else steps.send(said)
    except StopIteration as done:
        value: T = done.value
        return value


def _reason(data: Data) -> bytes:
    text = data.fill(data.byte())
    return struct.pack(">I", data.about(len(text))) + text


def _security(data: Data, minor: int) -> bytes:
    if minor < 7:
        kind = data.pick((1, 2, 0, 1, 2, 256, 19))
        return struct.pack(">I", data.about(kind)) + (b"" if kind else _reason(data))
    types = data.pick((b"\x01", b"\x02", b"\x02\x01", b"\x13\x02\x10", b"", bytes(range(255))))
    return bytes([data.about(len(types)) & 0xFF]) + types + (b"" if types else _reason(data))


def _server_init(data: Data) -> bytes:
    size = struct.pack(">HH", data.about(data.size() + 1) & 0xFFFF, data.about(48) & 0xFFFF)
    pixel = data.take(16).ljust(16, b"\0") if data.one_in(4) else data.pick(PIXEL_FORMATS).pack()
    name = data.fill(data.byte() % 48)
    return size + pixel + struct.pack(">I", data.about(len(name))) + name


def _desktop(data: Data) -> bytes:
    """What a desktop says, from its version to ServerInit."""
    banner = data.pick(_BANNERS)
    minor = 8 if banner > b"RFB 003.008" else banner[10] - ord("0")
    result = data.pick((0, 0, 0, 1, 2, 3, 1 << 31))
    after = _reason(data) if 0 < result < 3 else _server_init(data)
    said = banner + _security(data, minor)
    if minor > 7 or data.one_in(2):
        said += struct.pack(">I", result)
    return said + after


def _with_desktop(data: Data) -> None:
    acceptable = data.pick(_ACCEPTABLE)
    wire = Data(data.rest() if data.one_in(8) else damaged(data, _desktop(data)))
    sent: list[bytes] = []
    try:
        negotiated = _drive(handshake.negotiate(acceptable, LIMITS), wire, sent)
        assert negotiated.minor in (3, 7, 8), negotiated
        assert negotiated.security_type in acceptable, negotiated
        assert sent[0] == b"RFB 003.00%d\n" % negotiated.minor, sent
        init = _drive(handshake.finish(negotiated, LIMITS), wire, sent)
    except HandshakeRefused as refused:
        text = str(refused)
        # A reason is cut, and so is a list of names.
        assert text.isprintable(), text
        assert len(text) < 1024, text
        return
    assert sent[-1] == b"\x01", "not a shared desktop"
    _reads_again(init)


def _reads_again(init: ServerInit) -> None:
    packed = init.pack(LIMITS.name_bytes)
    again = _drive(handshake.finish(Negotiated(7, 1), LIMITS), Data(packed), [])
    assert again == init, (init, again)
    assert again.pack(LIMITS.name_bytes) == packed, packed
    short = _drive(handshake.finish(Negotiated(7, 1), LIMITS), Data(init.pack(5)), [])
    # Cut before a character rather than within.
    assert 1 < len(short.name) <= 5 or short.name == init.name, short
    assert init.name.startswith(short.name), short


def _with_viewer(data: Data) -> None:
    usual = data.pick((b"RFB 003.003\n", b"RFB 003.007\n\x01", b"RFB 003.008\n\x01"))
    said = data.rest() if data.one_in(8) else damaged(data, usual + data.take(1))
    asked = 12 if said.startswith(b"RFB 003.003\n") else 13
    polite = said[:asked] in (b"RFB 003.003\n", b"RFB 003.007\n\x01", b"RFB 003.008\n\x01")
    init = b"init"
    sent: list[bytes] = []
    try:
        shared = _drive(handshake.greet(init), Data(said), sent)
    finally:
        # Nothing of the desktop's before the viewer has said all that it must.
        assert (init in sent) is (polite and len(said) > asked), said
    assert shared is (said[asked] != 0), said


def run(data: bytes) -> None:
    choices = Data(data)
    side = _with_viewer if choices.byte() < 32 else _with_desktop
    try:
        side(choices)
    except ProtocolError as error:
        assert len(error.evidence) <= EVIDENCE_BYTES, error.evidence
        assert str(error).isprintable(), str(error)
    except _Ended:
        pass
