"""WebSocket framing against RFC 6455: its examples, every split, every fault."""

from __future__ import annotations

import struct

import pytest

from relay.rfb.errors import CloseCode, ProtocolError
from relay.websocket import (
    BINARY,
    CONTROL_FLOOD_FRAMES,
    FrameReader,
    close_payload,
    frame,
    header,
    masked,
    parse_close,
)
from tests.splits import chunkings

MASK = bytes.fromhex("37fa213d")
# RFC 6455, Section 5.7, with opcode 2 in the place of text where the payload is a message.
HELLO = bytes.fromhex("8285 37fa213d 7f9f4d5158".replace(" ", ""))
FRAGMENTS = bytes.fromhex("0203 48656c 8002 6c6f".replace(" ", ""))
PING = bytes.fromhex("8905 48656c6c6f".replace(" ", ""))
MASKED_PONG = bytes.fromhex("8a85 37fa213d 7f9f4d5158".replace(" ", ""))


def read(wire: bytes, cuts: list[int], *, server: bool) -> tuple[bytes, list[tuple[int, bytes]]]:
    reader = FrameReader(mask_expected=server, limit_bytes=1 << 20)
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
        (FRAGMENTS[:5] + PING + FRAGMENTS[5:], False, b"Hello", [(9, b"Hello")]),
        (b"\x82\x7e\x01\x00" + b"x" * 256, False, b"x" * 256, []),
        (b"\x82\x7f" + struct.pack(">Q", 65536) + b"y" * 65536, False, b"y" * 65536, []),
        (HELLO + MASKED_PONG + HELLO, True, b"HelloHello", [(10, b"Hello")]),
        (b"\x82\x80mask" + HELLO, True, b"Hello", []),
        (bytes.fromhex("8882 00000000 03e8".replace(" ", "")), True, b"", [(8, b"\x03\xe8")]),
    ],
)
def test_read_at_every_split(
    wire: bytes, server: bool, payload: bytes, controls: list[tuple[int, bytes]]
) -> None:
    for cuts in chunkings(len(wire)):
        assert read(wire, cuts, server=server) == (payload, controls), cuts


def test_written_as_the_examples() -> None:
    assert frame(BINARY, b"Hello", MASK) == HELLO
    assert header(BINARY, 256) == b"\x82\x7e\x01\x00"
    assert header(BINARY, 65536) == b"\x82\x7f\0\0\0\0\0\x01\0\0"
    assert header(BINARY, 125) == b"\x82\x7d"
    assert header(BINARY, 126) == b"\x82\x7e\x00\x7e"
    assert masked(masked(b"anything", MASK), MASK) == b"anything"


FAULTS: dict[str, tuple[bytes, CloseCode]] = {
    "reserved bit": (b"\xc2\x80mask", CloseCode.WEBSOCKET_FAULT),
    "not masked": (b"\x82\x01x", CloseCode.WEBSOCKET_FAULT),
    "opcode 3": (b"\x83\x80mask", CloseCode.WEBSOCKET_FAULT),
    "opcode 11": (b"\x8b\x80mask", CloseCode.WEBSOCKET_FAULT),
    "text": (b"\x81\x80mask", CloseCode.TEXT_FRAME),
    "goes on from nothing": (b"\x80\x80mask", CloseCode.WEBSOCKET_FAULT),
    "begins inside another": (b"\x02\x80mask\x82\x80mask", CloseCode.WEBSOCKET_FAULT),
    "ping in pieces": (b"\x09\x80mask", CloseCode.WEBSOCKET_FAULT),
    "ping too long": (b"\x89\xfe\x00\x7emask", CloseCode.WEBSOCKET_FAULT),
    "length in too many bytes": (b"\x82\xfe\x00\x7dmask", CloseCode.WEBSOCKET_FAULT),
    "length in far too many": (
        b"\x82\xff" + struct.pack(">Q", 65535) + b"mask",
        CloseCode.WEBSOCKET_FAULT,
    ),
    "too large": (b"\x82\xff" + struct.pack(">Q", (1 << 20) + 1) + b"mask", CloseCode.TOO_BIG),
    "close of one byte": (b"\x88\x81\0\0\0\0\x03", CloseCode.WEBSOCKET_FAULT),
    "close code 1005": (b"\x88\x82\0\0\0\0\x03\xed", CloseCode.WEBSOCKET_FAULT),
    "close code 999": (b"\x88\x82\0\0\0\0\x03\xe7", CloseCode.WEBSOCKET_FAULT),
    "close reason not UTF-8": (b"\x88\x83\0\0\0\0\x03\xe8\xff", CloseCode.WEBSOCKET_FAULT),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str) -> None:
    wire, code = FAULTS[name]
    wire = HELLO + wire
    for cuts in chunkings(len(wire)):
        with pytest.raises(ProtocolError) as caught:
            read(wire, cuts, server=True)
        assert caught.value.close_code == code, cuts
        assert caught.value.offset >= len(HELLO)


def test_a_client_refuses_masked_frames() -> None:
    with pytest.raises(ProtocolError):
        read(HELLO, [], server=False)


def test_a_flood_of_control_frames() -> None:
    calm = (b"\x8a\x80mask" * CONTROL_FLOOD_FRAMES + HELLO) * 2
    assert len(read(calm, [], server=True)[1]) == 2 * CONTROL_FLOOD_FRAMES
    with pytest.raises(ProtocolError) as caught:
        read(b"\x8a\x80mask" * (CONTROL_FLOOD_FRAMES + 1), [], server=True)
    assert caught.value.close_code == CloseCode.POLICY


def test_close_payloads() -> None:
    assert close_payload(1000, "") == b"\x03\xe8"
    assert parse_close(close_payload(4410, "chat archived")) == (4410, "chat archived")
    assert parse_close(b"") == (1005, "")
    # Cut to 125 bytes, never inside a character.
    long = close_payload(1000, "é" * 100)
    assert len(long) <= 125
    assert parse_close(long) == (1000, "é" * 61)
