"""The RFB handshakes over streams: as client toward a desktop, as server toward a viewer.

A security type is one class with one async method, listed in `SECURITY_TYPES`.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import trio
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from relay.dialling.addresses import Address, dial
from relay.dialling.passwords import Password, PasswordSource, ask
from relay.errors import DesktopError, ProtocolError
from relay.limits import Limits
from relay.net import streams
from relay.rfb import handshake
from relay.rfb.errors import EVIDENCE_BYTES
from relay.rfb.handshake import HandshakeRefused, ServerInit, Steps
from relay.rfb.pixel_format import PixelFormat

T = TypeVar("T")


class Wire(Protocol):
    """What a handshake needs of a peer: exactly so many bytes, and a way to answer."""

    async def read_exactly(self, count: int) -> bytes: ...
    async def send_all(self, data: bytes) -> None: ...


class PeerClosed(EOFError):
    """The peer ended the stream inside a handshake."""


async def drive(steps: Steps[T], wire: Wire) -> T:
    """Runs a handshake generator (see `relay.rfb.handshake`) over a wire."""
    try:
        want = next(steps)
        while True:
            if isinstance(want, bytes):
                await wire.send_all(want)
                want = next(steps)
                continue
            try:
                data = await wire.read_exactly(want)
            except PeerClosed as end:
                want = steps.throw(end)
            else:
                want = steps.send(data)
    except StopIteration as done:
        value: T = done.value
        return value


class _StreamWire:
    """A desktop's stream as a wire. `rest` is what arrived beyond the handshake, `last` what was
    read last, up to byte `offset` of the stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.rest = bytearray()
        self.last = b""
        self.offset = 0

    async def read_exactly(self, count: int) -> bytes:
        while len(self.rest) < count:
            try:
                data = await streams.receive(self._stream, 4096)
            except trio.BrokenResourceError:
                raise PeerClosed from None
            if not data:
                raise PeerClosed
            self.rest += data
            if len(self.rest) < count:
                # A desktop that drips, or says a long reason, is not the only one.
                await trio.lowlevel.checkpoint()
        taken = bytes(self.rest[:count])
        del self.rest[:count]
        self.last = taken
        self.offset += count
        return taken

    async def send_all(self, data: bytes) -> None:
        try:
            await streams.send(self._stream, data)
        except trio.BrokenResourceError:
            # A desktop that has refused and closed already (TigerVNC's blacklist does so before
            # it is asked): its reason is still to be read.
            pass


class NoSecurity:
    """Security type 1 (RFC 6143, Section 7.2.1): nothing to do."""

    async def authenticate(self, wire: Wire, password: PasswordSource | None) -> None:
        del wire, password


class VncAuth:
    """Security type 2 (RFC 6143, Section 7.2.2): DES of a 16-byte challenge."""

    async def authenticate(self, wire: Wire, password: PasswordSource | None) -> None:
        assert password is not None  # or this type would not have been chosen
        challenge = await wire.read_exactly(16)
        await wire.send_all(vnc_auth_response(challenge, await ask(password)))


def vnc_auth_response(challenge: bytes, password: Password) -> bytes:
    """The 16-byte answer to a VNC authentication challenge.

    The key is the password's first eight bytes, zeros where it is shorter, each with its bits in
    reverse order: that is what every VNC server does and RFC 6143 errata 4951 says.
    """
    key = password.reveal()[:8].ljust(8, b"\0")
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    # cryptography has no single DES; with three equal keys triple DES is the same function.
    encryptor = Cipher(TripleDES(mirrored * 3), modes.ECB()).encryptor()
    return encryptor.update(challenge) + encryptor.finalize()


class SecurityType(Protocol):
    """One way to authenticate toward a desktop.

    Raises DesktopError where it cannot. A wrong password shows in the SecurityResult after it.
    """

    async def authenticate(self, wire: Wire, password: PasswordSource | None) -> None: ...


# Best first. VeNCrypt, RA2 and ARD get a class and a line each.
SECURITY_TYPES: dict[int, SecurityType] = {
    handshake.SECURITY_NONE: NoSecurity(),
    handshake.SECURITY_VNC_AUTH: VncAuth(),
}


class DesktopEnd:
    """A desktop after the handshake: its stream, and what is known of it.

    `early` holds bytes that came after ServerInit in the same read. `version` is "3.3", "3.7"
    or "3.8".
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        init: ServerInit,
        *,
        version: str,
        security_type: int,
        early: bytes = b"",
    ) -> None:
        self.stream = stream
        self.init = init
        self.version = version
        self.security_type = security_type
        self.early = early

    @property
    def width(self) -> int:
        return self.init.width

    @property
    def height(self) -> int:
        return self.init.height

    @property
    def pixel_format(self) -> PixelFormat:
        return self.init.pixel_format

    @property
    def name(self) -> str:
        """The desktop's name with control characters removed."""
        return handshake.printable(self.init.name)

    async def aclose(self) -> None:
        await self.stream.aclose()


async def log_in(
    stream: trio.abc.Stream,
    *,
    password: PasswordSource | None = None,
    limits: Limits | None = None,
) -> DesktopEnd:
    """The whole RFB handshake as client, ServerInit included.

    Takes the stream over: it is closed when this raises. Raises DesktopError when the desktop
    refuses, is not RFB, ends the stream or takes longer than `limits.handshake_timeout_s`.
    """
    limits = limits or Limits()
    wire = _StreamWire(stream)
    acceptable = [
        number
        for number in SECURITY_TYPES
        if number == handshake.SECURITY_NONE or password is not None
    ]
    try:
        with trio.fail_after(limits.handshake_timeout_s):
            negotiated = await drive(handshake.negotiate(acceptable, limits), wire)
            await SECURITY_TYPES[negotiated.security_type].authenticate(wire, password)
            init = await drive(handshake.finish(negotiated, limits), wire)
    except BaseException as error:
        await streams.cut(stream)
        text = _explain(error, limits)
        if text is None:
            raise
        fault = error if isinstance(error, ProtocolError) else None
        if fault is not None:
            fault.offset = wire.offset - len(wire.last)
            fault.evidence = wire.last[:EVIDENCE_BYTES]
        raise DesktopError(text, fault, told=text) from None
    return DesktopEnd(
        stream,
        init,
        version=f"3.{negotiated.minor}",
        security_type=negotiated.security_type,
        early=bytes(wire.rest),
    )


def _explain(error: BaseException, limits: Limits) -> str | None:
    if isinstance(error, HandshakeRefused):
        return str(error)
    if isinstance(error, ProtocolError):
        return f"the desktop does not speak RFB as it should: {error.where}: {error.args[0]}"
    if isinstance(error, trio.TooSlowError):
        within = f"within {limits.handshake_timeout_s:g} s"
        return f"the handshake with the desktop was not finished {within}"
    if isinstance(error, PeerClosed):
        return "the desktop closed the connection during the handshake"
    return None


async def open_desktop(
    address: Address, *, password: PasswordSource | None = None, limits: Limits | None = None
) -> DesktopEnd:
    """Dials `address` and logs in. Raises DesktopError; leaves nothing open then."""
    limits = limits or Limits()
    stream = await dial(address, timeout_s=limits.dial_timeout_s)
    return await log_in(stream, password=password, limits=limits)
