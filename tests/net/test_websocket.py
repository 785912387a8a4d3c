"""WebSocket framing against RFC 6455: its examples, every split, every fault."""

from __future__ import annotations

import struct

import pytest

from relay.net.websocket import (
    BINARY,
    FLOOD_FRAMES,
    TEXT,
    FrameReader,
    MessageReader,
    close_payload,
    frame,
    header,
    masked,
    parse_close,
)
from relay.rfb.errors import CloseCode, Direction, ProtocolError
from tests.labs.splits import chunkings

MASK = bytes.fromhex("37fa213d")
# RFC 6455, Section 5.7, with opcode 2 in the place of text where the payload is a message.
HELLO = bytes.fromhex("8285 37fa213d 7f9f4d5158".replace(" ", ""))
FRAGMENTS = bytes.fromhex("0203 48656c 8002 6c6f".replace(" ", ""))
PING = bytes.fromhex("8905 48656c6c6f".replace(" ", ""))
CLOSE_1000 = bytes.fromhex("8882 00000000 03e8".replace(" ", ""))
MASKED_PONG = bytes.fromhex("8a85 37fa213d 7f9f4d5158".replace(" ", ""))


Read = tuple[bytes, list[tuple[int, bytes]]]


def read(
    wire: bytes,
    cuts: list[int],
    *,
    server: bool,
    kind: type[FrameReader] = FrameReader,
    limit_bytes: int = 1 << 20,
) -> Read:
    reader = kind(mask_expected=server, limit_bytes=limit_bytes)
    payload = b""
    for first, behind in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        buf = bytearray(b"??" + wire[first:behind])
        end = reader.unframe(buf, 2, len(buf))
        payload += buf[2:end]
    return payload, reader.controls


@pytest.mark.parametrize(
    ("wire", "server", "payload", "controls"),
    [
        (HELLO, True, b"Hello", []),
        (FRAGMENTS, False, b"Hello", []),
        (PING, False, b"", [(9, b"Hello")]),
        (MASKED_PONG, True, b"", [(10, b"Hello")]),
        # The longest control frame there may be.
        (frame(9, b"p" * 125, MASK), True, b"", [(9, b"p" * 125)]),
        (FRAGMENTS[:5] + PING + FRAGMENTS[5:], False, b"Hello", [(9, b"Hello")]),
        (b"\x82\x7e\x01\x00" + b"x" * 256, False, b"x" * 256, []),
        (b"\x82\x7f" + struct.pack(">Q", 65536) + b"y" * 65536, False, b"y" * 65536, []),
        (HELLO + MASKED_PONG + HELLO, True, b"HelloHello", [(10, b"Hello")]),
        # A payload of 2 and a key such that, cut anywhere, what follows looks like a frame too.
        (frame(BINARY, b"ab", b"\x82\x82\x82\x82") * 3, True, b"ababab", []),
        (frame(9, b"p" * 125, MASK) + MASKED_PONG, True, b"", [(9, b"p" * 125), (10, b"Hello")]),
        (b"\x82\x80mask" + HELLO, True, b"Hello", []),
        # A key of zeros is a key (Section 5.3), and leaves the payload as it is.
        (b"\x82\x85\0\0\0\0Hello", True, b"Hello", []),
        (b"\x8a\x00" + FRAGMENTS + b"\x82\x00", False, b"Hello", [(10, b"")]),
        (CLOSE_1000, True, b"", [(8, b"\x03\xe8")]),
        # RFC 6455, Section 1.4: data behind a close frame is discarded, good or not.
        (HELLO + CLOSE_1000 + HELLO + b"\xff\xff\xff", True, b"Hello", [(8, b"\x03\xe8")]),
    ],
)
def test_read_at_every_split(
    wire: bytes, server: bool, payload: bytes, controls: list[tuple[int, bytes]]
) -> None:
    for cuts in chunkings(len(wire)):
        assert read(wire, cuts, server=server) == (payload, controls), cuts


@pytest.mark.parametrize("length", [1, 124, 125, 126, 127])
def test_read_where_lengths_grow(length: int) -> None:
    wire = b"".join(frame(BINARY, bytes([n]) * length, MASK) for n in (1, 2))
    payload = b"\1" * length + b"\2" * length
    for cuts in chunkings(len(wire)):
        assert read(wire, cuts, server=True) == (payload, []), cuts


def test_a_short_frame_may_be_over_the_limit() -> None:
    fits, over = frame(BINARY, b"four", MASK), frame(BINARY, b"fives", MASK)
    for cuts in chunkings(len(fits + over)):
        with pytest.raises(ProtocolError) as caught:
            read(fits + over, cuts, server=True, limit_bytes=4)
        assert (caught.value.rule, caught.value.offset) == ("frame-size", len(fits)), cuts


def test_written_as_the_examples() -> None:
    assert frame(BINARY, b"Hello", MASK) == HELLO
    assert header(BINARY, 256) == b"\x82\x7e\x01\x00"
    assert header(BINARY, 65535) == b"\x82\x7e\xff\xff"
    assert header(BINARY, 65536) == b"\x82\x7f\0\0\0\0\0\x01\0\0"
    assert header(BINARY, 125) == b"\x82\x7d"
    assert header(BINARY, 126) == b"\x82\x7e\x00\x7e"
    assert masked(masked(b"anything", MASK), MASK) == b"anything"


def close(code: int, reason: bytes = b"") -> bytes:
    """A close frame under a key of zeros."""
    return bytes((0x88, 0x80 | 2 + len(reason))) + bytes(4) + struct.pack(">H", code) + reason


FAULTS: dict[str, tuple[bytes, str, CloseCode]] = {
    "bit 1": (b"\xc2\x80mask", "frame-reserved-bit", CloseCode.WEBSOCKET_FAULT),
    "bit 2": (b"\xa2\x80mask", "frame-reserved-bit", CloseCode.WEBSOCKET_FAULT),
    "bit 3": (b"\x92\x80mask", "frame-reserved-bit", CloseCode.WEBSOCKET_FAULT),
    "bit 1 of a ping": (b"\xc9\x80mask", "frame-reserved-bit", CloseCode.WEBSOCKET_FAULT),
    "not masked": (b"\x82\x01x", "frame-mask", CloseCode.WEBSOCKET_FAULT),
    "ping not masked": (b"\x89\x00", "frame-mask", CloseCode.WEBSOCKET_FAULT),
    "opcode 3": (b"\x83\x80mask", "frame-opcode", CloseCode.WEBSOCKET_FAULT),
    "opcode 7": (b"\x87\x80mask", "frame-opcode", CloseCode.WEBSOCKET_FAULT),
    "opcode 11": (b"\x8b\x80mask", "frame-opcode", CloseCode.WEBSOCKET_FAULT),
    "opcode 15": (b"\x8f\x80mask", "frame-opcode", CloseCode.WEBSOCKET_FAULT),
    "text": (b"\x81\x80mask", "text-frame", CloseCode.TEXT_FRAME),
    "goes on from nothing": (b"\x80\x80mask", "frame-order", CloseCode.WEBSOCKET_FAULT),
    "begins inside another": (
        b"\x02\x80mask\x82\x80mask",
        "frame-order",
        CloseCode.WEBSOCKET_FAULT,
    ),
    "ping in pieces": (b"\x09\x80mask", "control-frame", CloseCode.WEBSOCKET_FAULT),
    "ping too long": (b"\x89\xfe\x00\x7emask", "control-frame", CloseCode.WEBSOCKET_FAULT),
    "length in too many bytes": (
        b"\x82\xfe\x00\x7dmask",
        "frame-length",
        CloseCode.WEBSOCKET_FAULT,
    ),
    "length in far too many": (
        b"\x82\xff" + struct.pack(">Q", 65535) + b"mask",
        "frame-length",
        CloseCode.WEBSOCKET_FAULT,
    ),
    # RFC 6455, Section 5.2: "the most significant bit MUST be 0".
    "length of 64 bits": (
        b"\x82\xff" + struct.pack(">Q", 1 << 63) + b"mask",
        "frame-length",
        CloseCode.WEBSOCKET_FAULT,
    ),
    "too large": (
        b"\x82\xff" + struct.pack(">Q", (1 << 20) + 1) + b"mask",
        "frame-size",
        CloseCode.TOO_BIG,
    ),
    "far too large": (
        b"\x82\xff" + struct.pack(">Q", (1 << 63) - 1) + b"mask",
        "frame-size",
        CloseCode.TOO_BIG,
    ),
    "close of one byte": (b"\x88\x81\0\0\0\0\x03", "close-payload", CloseCode.WEBSOCKET_FAULT),
    "close code 1005": (close(1005), "close-payload", CloseCode.WEBSOCKET_FAULT),
    "close code 999": (close(999), "close-payload", CloseCode.WEBSOCKET_FAULT),
    "close reason not UTF-8": (close(1000, b"\xff"), "close-payload", CloseCode.NOT_UTF8),
    "close reason cut": (close(1000, b"\xc3"), "close-payload", CloseCode.NOT_UTF8),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str) -> None:
    wire, rule, code = FAULTS[name]
    wire = HELLO + wire
    for cuts in chunkings(len(wire)):
        with pytest.raises(ProtocolError) as caught:
            read(wire, cuts, server=True)
        assert (caught.value.rule, caught.value.close_code) == (rule, code), cuts
        # The frame that is at fault, however its bytes came.
        behind = 6 if name == "begins inside another" else 0
        assert caught.value.offset == len(HELLO) + behind, cuts
        # Nothing of the payload is said.
        assert "0xff" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 6, 7, 8])
def test_a_short_frame_does_not_end_the_message_of_another(cut: int) -> None:
    begun, whole = b"\x02\x81mask?", frame(BINARY, b"whole", MASK)
    with pytest.raises(ProtocolError) as caught:
        read(begun + whole + HELLO, [cut] if cut else [], server=True)
    assert (caught.value.rule, caught.value.offset) == ("frame-order", len(begun))


def test_a_fault_is_blamed_on_who_sent_it() -> None:
    for server, way in ((True, Direction.UP), (False, Direction.DOWN)):
        with pytest.raises(ProtocolError) as caught:
            read(b"\xff" * 20, [], server=server)
        assert caught.value.direction is way


def test_a_client_refuses_masked_frames() -> None:
    for wire in (HELLO, MASKED_PONG, CLOSE_1000):
        for cuts in chunkings(len(wire)):
            with pytest.raises(ProtocolError) as caught:
                read(wire, cuts, server=False)
            assert caught.value.rule == "frame-mask"


# The header of a piece too many, whose payload has not come.
CUT_FLOOD = b"\x02\x80mask" + b"\x00\x80mask" * (FLOOD_FRAMES - 1) + b"\x00\x81mask"


@pytest.mark.parametrize("fault", [b"\x83\x80mask", b"\x82\x01x", close(999), CUT_FLOOD])
def test_what_follows_a_fault_is_discarded(fault: bytes) -> None:
    # RFC 6455, Section 7.1.7: no data is processed any more, not even a good close frame.
    behind = HELLO + CLOSE_1000 + b"\xff" * 20
    for cuts in chunkings(len(behind)):
        reader = FrameReader(mask_expected=True, limit_bytes=1 << 20)
        buf = bytearray(fault)
        with pytest.raises(ProtocolError):
            reader.unframe(buf, 0, len(buf))
        for first, stop in zip([0, *cuts], [*cuts, len(behind)], strict=True):
            buf = bytearray(b"??" + behind[first:stop])
            assert reader.unframe(buf, 2, len(buf)) == 2, cuts
        assert reader.controls == []
        assert not reader.closed


PONG = b"\x8a\x80mask"
EMPTY_BEGINS, EMPTY_PIECE = b"\x02\x80mask", b"\x00\x80mask"
THIN_BEGINS, THIN_PIECE = b"\x02\x81mask?", b"\x00\x81mask?"
CRUMB = bytes((0x00, 0x80 | 31)) + b"mask" + bytes(31)
PIECE = bytes((0x00, 0x80 | 32)) + MASK + bytes(32)
END = b"\x80\x81mask?"


@pytest.mark.parametrize(
    ("opening", "crumb", "rule"),
    [
        (HELLO, PONG, "control-flood"),
        (HELLO, b"\x82\x80mask", "fragment-flood"),
        (b"", EMPTY_BEGINS + EMPTY_PIECE * FLOOD_FRAMES, "fragment-flood"),
        (b"", THIN_BEGINS + THIN_PIECE * FLOOD_FRAMES, "fragment-flood"),
        (b"", THIN_BEGINS + CRUMB * FLOOD_FRAMES, "fragment-flood"),
        # In turns they count together.
        (b"", THIN_BEGINS + (THIN_PIECE + PONG) * (FLOOD_FRAMES // 2), "control-flood"),
    ],
)
def test_a_flood_of_frames_that_bring_nothing(opening: bytes, crumb: bytes, rule: str) -> None:
    flood = crumb if len(crumb) > 10 else crumb * (FLOOD_FRAMES + 1)
    last = flood.rindex(b"mask") - 2
    for cuts in ([], list(range(1, len(opening + flood)))):
        read((opening + flood)[: len(opening) + last], [], server=True)
        with pytest.raises(ProtocolError) as caught:
            read(opening + flood, cuts, server=True)
        assert (caught.value.rule, caught.value.close_code) == (rule, CloseCode.POLICY)
        assert caught.value.offset == len(opening) + last


def test_frames_that_bring_something_between_are_no_flood() -> None:
    calm = (PONG * FLOOD_FRAMES + HELLO) * 2
    assert len(read(calm, [], server=True)[1]) == 2 * FLOOD_FRAMES
    # One byte that ends its message is a message.
    thin = (THIN_BEGINS + THIN_PIECE * (FLOOD_FRAMES - 1) + END) * 2
    assert len(read(thin, [], server=True)[0]) == 2 * (FLOOD_FRAMES + 1)
    # However many pieces a message has, if they are not crumbs.
    many = THIN_BEGINS + PIECE * (3 * FLOOD_FRAMES) + END
    assert len(read(many, [], server=True)[0]) == 3 * FLOOD_FRAMES * 32 + 2
    # A close frame ends the flood in its own way.
    assert read(PONG * FLOOD_FRAMES + CLOSE_1000, [], server=True)[1][-1] == (8, b"\x03\xe8")


# RFC 6455, Sections 7.4.1 and 7.4.2, and the registry it made (IANA, WebSocket Close Code Number
# Registry: 1012 to 1014).
@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
)
def test_close_codes_that_may_be_sent(code: int) -> None:
    wire = close(code, b"why")
    for cuts in chunkings(len(wire)):
        assert read(wire, cuts, server=True)[1] == [(8, struct.pack(">H", code) + b"why")]
    assert parse_close(close_payload(code, "why")) == (code, "why")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_close_codes_that_must_not_be_sent(code: int) -> None:
    with pytest.raises(ValueError, match=f"^close code {code}$"):
        parse_close(struct.pack(">H", code))


def test_close_payloads() -> None:
    assert close_payload(1000, "") == b"\x03\xe8"
    assert parse_close(close_payload(4410, "chat archived")) == (4410, "chat archived")
    # 1005 "MUST NOT be set as a status code in a Close control frame" (Section 7.4.1).
    assert parse_close(b"") == (1005, "")
    assert close_payload(1005, "") == b""
    # Cut to 125 bytes, never inside a character.
    long = close_payload(1000, "é" * 100)
    assert len(long) <= 125
    assert parse_close(long) == (1000, "é" * 61)


# RFC 3629, Section 7: characters of one, two and three bytes; then one of four (Section 3).
JAPANESE = bytes.fromhex("e697a5 e69cac e8aa9e".replace(" ", ""))
GREEK = bytes.fromhex("41 e289a2 ce91 2e".replace(" ", ""))
CLEF = bytes.fromhex("f09d849e")


def text(payload: bytes, first: int = 0x81) -> bytes:
    return bytes((first, 0x80 | len(payload))) + MASK + masked(payload, MASK)


@pytest.mark.parametrize(
    ("wire", "server", "messages"),
    [
        # RFC 6455, Section 5.7.
        (bytes.fromhex("810548656c6c6f"), False, [(TEXT, b"Hello")]),
        (bytes.fromhex("818537fa213d7f9f4d5158"), True, [(TEXT, b"Hello")]),
        (bytes.fromhex("010348656c80026c6f"), False, [(TEXT, b"Hello")]),
        (bytes.fromhex("010348656c890548656c6c6f80026c6f"), False, [(9, b"Hello"), (1, b"Hello")]),
        (HELLO + text(GREEK) + HELLO, True, [(2, b"Hello"), (1, GREEK), (2, b"Hello")]),
        (FRAGMENTS + b"\x82\x00\x81\x00", False, [(2, b"Hello"), (2, b""), (1, b"")]),
        (
            text(JAPANESE[:4], 1) + text(b"", 0) + text(JAPANESE[4:8], 0) + text(JAPANESE[8:], 128),
            True,
            [(TEXT, JAPANESE)],
        ),
        (
            text(CLEF[:1], 1) + MASKED_PONG + text(CLEF[1:], 0) + text(b"", 0x80),
            True,
            [(10, b"Hello"), (1, CLEF)],
        ),
        (
            text(b"\xff\xc3", 0x82) + text(GREEK) + CLOSE_1000 + text(b"x"),
            True,
            [(2, b"\xff\xc3"), (1, GREEK), (8, b"\x03\xe8")],
        ),
    ],
)
def test_messages_at_every_split(
    wire: bytes, server: bool, messages: list[tuple[int, bytes]]
) -> None:
    for cuts in chunkings(len(wire)):
        assert read(wire, cuts, server=server, kind=MessageReader) == (b"", messages), cuts


# The byte sequences that RFC 3629, Section 4, does not have, and how many of their bytes tell.
@pytest.mark.parametrize(
    ("sequence", "tells"),
    [
        ("80", 1),
        ("c080", 1),
        ("c3c3", 2),
        ("e09f80", 2),
        ("eda080", 3),  # the second byte tells, but Python's decoder waits for the third
        ("e28080" + "e228", 5),
        ("f08f8080", 2),
        ("f4908080", 2),
        ("f09d84c0", 4),
        ("f5808080", 1),
        ("fe", 1),
        ("ff", 1),
    ],
)
def test_text_that_is_not_utf_8_fails_at_the_byte_that_tells(sequence: str, tells: int) -> None:
    wrong = bytes.fromhex(sequence)
    before = text(GREEK[:2], 1)
    wire = before + text(GREEK[2:] + wrong + b"behind", 0)
    told = len(before) + 6 + len(GREEK[2:]) + tells
    for cuts in chunkings(told):
        assert read(wire[: told - 1], [], server=True, kind=MessageReader) == (b"", [])
        with pytest.raises(ProtocolError) as caught:
            read(wire[:told], cuts, server=True, kind=MessageReader)
        fault = caught.value
        assert (fault.rule, fault.close_code) == ("text-utf8", CloseCode.NOT_UTF8), cuts
        assert fault.offset == len(before)


@pytest.mark.parametrize(
    "wire",
    [text(CLEF[:3]), text(b"x", 1) + text(CLEF[:1], 0x80), text(CLEF[:2], 1) + text(b"", 0x80)],
)
def test_text_must_not_end_inside_a_character(wire: bytes) -> None:
    for cuts in chunkings(len(wire)):
        with pytest.raises(ProtocolError) as caught:
            read(wire, cuts, server=True, kind=MessageReader)
        assert caught.value.rule == "text-utf8"


def test_a_message_is_bounded_with_all_its_pieces() -> None:
    begun = text(b"12345", 2) + text(b"678", 0)
    fits, over = begun + text(b"90", 0x80), begun + text(b"901", 0x80)
    for cuts in chunkings(len(fits)):
        controls = read(fits, cuts, server=True, kind=MessageReader, limit_bytes=10)[1]
        assert controls == [(BINARY, b"1234567890")], cuts
    for cuts in chunkings(len(over)):
        with pytest.raises(ProtocolError) as caught:
            read(over, cuts, server=True, kind=MessageReader, limit_bytes=10)
        assert (caught.value.rule, caught.value.close_code) == ("message-size", CloseCode.TOO_BIG)
