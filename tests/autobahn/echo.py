"""An echo server on the relay's own WebSocket layer, for Autobahn|Testsuite."""

from __future__ import annotations

import base64
import hashlib

import trio

from relay.net.websocket import CLOSE, PING, PONG, MessageReader, close_payload, frame, parse_close
from relay.rfb.errors import ProtocolError

_MESSAGE_LIMIT_BYTES = 16_777_216
"""The largest message of the suite (cases 9.1.6 and 9.2.6)."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def _upgrade(stream: trio.SocketStream) -> bytes:
    """The server's handshake (RFC 6455, Section 4.2.2); returns what came behind the request."""
    request = b""
    while b"\r\n\r\n" not in request:
        data = await stream.receive_some()
        if not data:
            raise trio.BrokenResourceError("no request")
        request += data
    head, _, early = request.partition(b"\r\n\r\n")
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    key = {name.strip().lower(): value.strip() for name, _, value in lines}[b"sec-websocket-key"]
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
    await stream.send_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    return early


async def _converse(stream: trio.SocketStream) -> None:
    reader = MessageReader(mask_expected=True, limit_bytes=_MESSAGE_LIMIT_BYTES)
    data = await _upgrade(stream) or await stream.receive_some()
    while data:
        buf = bytearray(data)
        fault: ProtocolError | None = None
        try:
            reader.unframe(buf, 0, len(buf))
        except ProtocolError as error:
            fault = error
        # What came before a fault is answered before it.
        for opcode, payload in reader.controls:
            if opcode == CLOSE:
                code, _ = parse_close(payload)
                return await stream.send_all(frame(CLOSE, close_payload(code, "")))
            if opcode != PONG:
                await stream.send_all(frame(PONG if opcode == PING else opcode, payload))
        reader.controls.clear()
        if fault is not None:
            text = fault.args[0]
            return await stream.send_all(frame(CLOSE, close_payload(fault.close_code, text)))
        data = await stream.receive_some()
    return None


async def serve_echo(stream: trio.SocketStream) -> None:
    """Echoes one peer's messages until either side closes."""
    async with stream:
        try:
            await _converse(stream)
            await stream.send_eof()
            # Closing with bytes unread resets the connection, and may take the close frame along.
            with trio.move_on_after(1):
                async for _ in stream:
                    pass
        except trio.BrokenResourceError:
            # The suite hangs up as it likes.
            return
