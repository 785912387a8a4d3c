"""The handshake between two others, as a recording shows it (RFC 6143, Sections 7.1 and 7.3).

Either side's bytes are taken in the order in which the protocol has them, whatever the order in
which they arrive: TigerVNC turns a blocked viewer away before it has said a word.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from typing import TypeVar

from relay.rfb import describe, handshake, pixel_format
from relay.rfb.errors import EVIDENCE_BYTES, CloseCode, Direction, ProtocolError, Violation
from relay.rfb.handshake import SECURITY_NONE, SECURITY_VNC_AUTH, HandshakeBounds, ServerInit

DOWN, UP = Direction.DOWN, Direction.UP

SECURITY_TIGHT = 16
SECURITY_VENCRYPT = 19

_CAPABILITIES_LIMIT = 256
"""Tunnels, authentication types, or messages of one kind. Real servers list up to a dozen."""

_CLOSE_CODES = {DOWN: CloseCode.DESKTOP_FAULT, UP: CloseCode.POLICY}

_u32 = struct.Struct(">I").unpack
_counts = struct.Struct(">HHH2x")
_init = struct.Struct(f">HH{pixel_format.SIZE}sI")

T = TypeVar("T")
Steps = Generator[tuple[Direction, int], bytes, T]
"""Yields whose bytes it wants and how many; is resumed with exactly those."""

Observer = Callable[[Direction, int, str, str], None]
"""Called with who sent an element, its offset, its name and what it says, once it is whole."""


class ObservedHandshake:
    """`feed` takes what arrives, in any pieces.

    `minor` is the version both speak (3, 7 or 8) and `security_type` what was chosen, or 0 where
    the desktop refused; each is None until it is known. `over` says that nothing more is taken;
    `init` is then the desktop's ServerInit, and `left` what came behind it from either side. No
    `init` means that no session follows which could be read: the desktop refused, or what
    follows is encrypted.
    """

    def __init__(self, bounds: HandshakeBounds, observer: Observer) -> None:
        self.minor: int | None = None
        self.security_type: int | None = None
        self.init: ServerInit | None = None
        self.over = False
        self.left = {DOWN: bytearray(), UP: bytearray()}
        self.offsets = {DOWN: 0, UP: 0}
        self._bounds = bounds
        self._observer = observer
        self._where = "ProtocolVersion"
        self._began = (DOWN, 0)
        self._steps = self._handshake()
        self._want = next(self._steps)

    def feed(self, direction: Direction, data: bytes) -> None:
        """Raises ProtocolError; `offset` counts from the connection's first byte there."""
        if self.over:
            return
        self.left[direction] += data
        while not self.over and len(self.left[self._want[0]]) >= self._want[1]:
            way, count = self._want
            piece = bytes(self.left[way][:count])
            del self.left[way][:count]
            at = self.offsets[way]
            self.offsets[way] += count
            try:
                self._want = self._steps.send(piece)
            except StopIteration:
                self.over = True
            except (Violation, ProtocolError) as fault:
                self.over = True
                raise ProtocolError(
                    fault.rule,
                    str(fault.args[0]),
                    direction=way,
                    offset=at,
                    where=self._where,
                    close_code=_CLOSE_CODES[way],
                    evidence=piece[:EVIDENCE_BYTES],
                ) from None

    def _begin(self, direction: Direction, where: str) -> None:
        """The element that comes next."""
        self._where = where
        self._began = direction, self.offsets[direction]

    def _end(self, details: str) -> None:
        """The element has been read."""
        self._observer(*self._began, self._where, details)

    def _handshake(self) -> Steps[None]:
        chosen = yield from self._security()
        if not chosen:
            return
        authentication = chosen
        if chosen == SECURITY_TIGHT:
            authentication = yield from self._tight()
        elif chosen == SECURITY_VENCRYPT:
            yield from self._vencrypt()
        if authentication == SECURITY_VNC_AUTH:
            for direction, where in ((DOWN, "VNC challenge"), (UP, "VNC response")):
                self._begin(direction, where)
                yield direction, 16
                self._end("16 bytes")
        elif authentication != SECURITY_NONE:
            return
        if self.minor == 8 or authentication == SECURITY_VNC_AUTH:
            failed = yield from self._result()
            if failed:
                return
        self._begin(UP, "ClientInit")
        shared = yield UP, 1
        self._end("shared" if shared != b"\0" else "exclusive")
        init = yield from self._server_init()
        if chosen == SECURITY_TIGHT:
            self._begin(DOWN, "Tight capabilities")
            counts = _counts.unpack((yield DOWN, _counts.size))
            for count in counts:
                yield from self._capabilities(DOWN, count)
            self._end("{} server messages, {} client messages, {} encodings".format(*counts))
        self.init = init

    def _version(self, direction: Direction) -> Steps[int]:
        self._begin(direction, "ProtocolVersion")
        banner = yield direction, 12
        minor = handshake.parse_banner(banner)
        self._end(handshake.printable(banner))
        return minor

    def _security(self) -> Steps[int]:
        """RFC 6143, Sections 7.1.1 and 7.1.2; Appendix A for 3.3."""
        announced = minor = yield from self._version(DOWN)
        # A desktop of 3.3 need not wait for the viewer's version before it goes on.
        if announced > 3:
            minor = min(announced, (yield from self._version(UP)))
        self.minor = minor
        self._begin(DOWN, "Security")
        chosen = 0
        if minor == 3:
            (chosen,) = _u32((yield DOWN, 4))
            if chosen > 255:
                raise Violation("security-type", f"security type {chosen}")
            offered = bytes([chosen] if chosen else [])
        else:
            (count,) = yield DOWN, 1
            offered = (yield DOWN, count) if count else b""
        if offered:
            self._end(", ".join(map(handshake.name_of, offered)))
        if minor > 3 and offered:
            self._begin(UP, "Security")
            (chosen,) = yield UP, 1
            if chosen not in offered:
                raise Violation("viewer-security", f"security type {chosen} was not offered")
            self._end(handshake.name_of(chosen))
        self.security_type = chosen
        if not offered:
            reason = yield from self._reason()
            self._end(f"refused: {reason!r}")
        if announced == 3:
            yield from self._version(UP)
        return chosen

    def _reason(self) -> Steps[str]:
        (length,) = _u32((yield DOWN, 4))
        if length > self._bounds.reason_bytes:
            raise Violation("reason-length", f"a reason of {length} bytes")
        return handshake.printable((yield DOWN, length)) if length else ""

    def _capabilities(self, direction: Direction, count: int) -> Steps[None]:
        """Each is a u32 code, a vendor and a signature."""
        if count > _CAPABILITIES_LIMIT:
            raise Violation("tight-capabilities", f"{count} capabilities")
        if count:
            yield direction, 16 * count

    def _tight(self) -> Steps[int]:
        """Community specification, Tight Security Type: a tunnel and an authentication type,
        where there is something to choose. Returns the authentication type."""
        code = SECURITY_NONE
        for where in ("Tight tunnel", "Tight authentication"):
            self._begin(DOWN, where)
            (count,) = _u32((yield DOWN, 4))
            yield from self._capabilities(DOWN, count)
            self._end(f"{count} types")
            if count:
                self._begin(UP, where)
                (code,) = _u32((yield UP, 4))
                self._end(f"type {code}")
            else:
                code = SECURITY_NONE
        return int(code)

    def _vencrypt(self) -> Steps[None]:
        """Community specification, VeNCrypt: version 0.2, and a type. TLS follows most of them."""
        for direction in (DOWN, UP):
            self._begin(direction, "VeNCrypt version")
            version = yield direction, 2
            self._end(f"{version[0]}.{version[1]}")
        if version != b"\0\x02":
            return
        yield DOWN, 1
        self._begin(DOWN, "VeNCrypt types")
        (count,) = yield DOWN, 1
        if count:
            types = struct.unpack(f">{count}I", (yield DOWN, 4 * count))
            self._end(", ".join(map(str, types)))
            self._begin(UP, "VeNCrypt type")
            (chosen,) = _u32((yield UP, 4))
            self._end(str(chosen))

    def _result(self) -> Steps[bool]:
        """RFC 6143, Section 7.1.3. Whether it failed."""
        self._begin(DOWN, "SecurityResult")
        (result,) = _u32((yield DOWN, 4))
        if not result:
            self._end("OK")
        elif self.minor == 8:
            reason = yield from self._reason()
            self._end(f"failed: {reason!r}")
        else:
            self._end("failed")
        return bool(result)

    def _server_init(self) -> Steps[ServerInit]:
        self._begin(DOWN, "ServerInit")
        width, height, raw, name_length = _init.unpack((yield DOWN, _init.size))
        handshake.check_size(width, height, self._bounds)
        try:
            pixels = pixel_format.parse(raw)
        except ValueError as error:
            raise Violation("pixel-format", str(error)) from None
        if name_length > self._bounds.name_bytes:
            raise Violation("name-length", f"a name of {name_length} bytes")
        name = (yield DOWN, name_length) if name_length else b""
        self._end(
            f"{width}x{height}, {describe.format_of_pixels(pixels)}, "
            f"name {handshake.printable(name)!r}"
        )
        return ServerInit(width, height, pixels, name)
