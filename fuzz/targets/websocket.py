"""Only ProtocolError escapes; what is held is bounded; whole equals split; what was read, written
again as frames, reads the same.

WebSocket frames from a viewer (masked) and from a server (not).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from fuzz.conversations import cut, damaged
from fuzz.data import Data
from relay.net.websocket import (
    BINARY,
    CONTROL_LIMIT_BYTES,
    FLOOD_FRAMES,
    FrameReader,
    frame,
    parse_close,
)
from relay.rfb.errors import ProtocolError

_LIMIT_BYTES = 70_000
_HEADER_LIMIT_BYTES = 13  # of 14 at most, less than whole

_OPCODES = (2, 2, 2, 2, 0, 0, 9, 10, 8, 1, 3, 11)
_LENGTHS = (0, 1, 5, 124, 125, 126, 127, 200, 65_535, 65_536)


def _frame(data: Data, masking: bool) -> bytes:
    """One frame (RFC 6455, Section 5.2), written out here and mostly legal."""
    opcode = data.pick(_OPCODES)
    final = 0x00 if opcode < 3 and data.one_in(4) else 0x80
    first = final | opcode | (data.byte() & 0x70 if data.one_in(32) else 0)
    if opcode == 8:
        payload = struct.pack(">H", data.about(data.pick((1000, 1001, 3000, 1005, 999))) & 0xFFFF)
        payload = (payload + data.take(data.byte() % 8))[: data.about(200) & 0xFF]
    elif opcode > 8:
        payload = data.fill(data.pick((0, 4, 125, 126)) if data.one_in(8) else data.byte() % 16)
    else:
        choice = data.byte()
        payload = data.fill(_LENGTHS[choice] if choice < len(_LENGTHS) else choice % 32)
    length = data.about(len(payload))
    bit = 0x80 if masking is not data.one_in(32) else 0
    form = data.byte()
    if length > 65_535 or form == 1:
        head = struct.pack(">BBQ", first, bit | 127, length)
    elif length > 125 or form == 2:
        head = struct.pack(">BBH", first, bit | 126, length)
    else:
        head = bytes((first, bit | length))
    return head + (data.take(4).ljust(4, b"m") if bit else b"") + payload


def _read(
    pieces: Sequence[bytes], masking: bool
) -> tuple[bytes, list[tuple[int, bytes]], tuple[int, str] | None]:
    """The payload, the control frames, and what ended it: offset and rule."""
    reader = FrameReader(mask_expected=masking, limit_bytes=_LIMIT_BYTES)
    payload = b""
    for piece in pieces:
        buf = bytearray(b"<<%b>>" % piece)
        stop = len(buf) - 2
        try:
            end = reader.unframe(buf, 2, stop)
        except ProtocolError as error:
            return payload, reader.controls, (error.offset, error.rule)
        assert 2 <= end <= stop, "more payload than bytes"
        assert buf[:2] == b"<<", "wrote before the window"
        assert buf[stop:] == b">>", "wrote behind the window"
        payload += buf[2:end]
        assert len(reader._head) <= _HEADER_LIMIT_BYTES, "a header without end"
        assert len(reader._control) <= CONTROL_LIMIT_BYTES, "a control frame without end"
    return payload, reader.controls, None


def run(data: bytes) -> None:
    choices = Data(data)
    choice = choices.byte()
    masking = bool(choice & 1)
    cuts = Data(choices.take(10))
    if choice < 32:
        wire = choices.rest()
    elif choice < 34:
        # Close to a flood, which a few more control frames may make.
        wire = frame(9, b"", b"mask" if masking else b"") * (FLOOD_FRAMES - 1)
        wire += b"".join([_frame(choices, masking) for _ in range(3)])
    else:
        frames = [_frame(choices, masking) for _ in range(choices.byte() % 6 + 1)]
        wire = damaged(choices, b"".join(frames))

    payload, controls, fault = _read([wire], masking)
    pieces = cut(cuts, wire)
    split_payload, split_controls, split_fault = _read(pieces, masking)
    story = (masking, wire.hex(), fault)
    assert split_fault == fault, (story, split_fault, pieces)
    if fault is None:
        assert split_payload == payload, (story, pieces)
        assert split_controls == controls, (story, pieces)
    else:
        assert 0 <= fault[0] <= len(wire), story
        payload, controls, before = _read([wire[: fault[0]]], masking)
        assert before is None, (story, before)
        assert payload.startswith(split_payload), (story, pieces)
        assert controls == split_controls, (story, pieces)

    key = b"mask" if masking else b""
    assert all(opcode > 7 for opcode, _ in controls), story
    assert [opcode for opcode, _ in controls[:-1]].count(8) == 0, ("after a close", story)
    for opcode, content in controls:
        if opcode == 8:
            parse_close(content)
    again = [frame(opcode, content, key) for opcode, content in controls]
    if len(payload) <= _LIMIT_BYTES:
        # In the middle, so that many control frames are no more of a flood than they were; an
        # empty frame would count as one of them.
        if payload:
            again.insert(len(again) // 2, frame(BINARY, payload, key))
        assert _read([b"".join(again)], masking) == (payload, controls, None), story
