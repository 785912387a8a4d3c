"""Relays a VNC desktop to a browser over a WebSocket, reading RFB in both directions."""

from relay.dial import Address, TcpAddress, UnixAddress, dial, parse_address
from relay.ended import Counters, Ended, Reason
from relay.errors import DesktopError, Direction, ProtocolError, RelayError
from relay.limits import Limits
from relay.login import DesktopEnd, Password, PasswordFile, PasswordSource, log_in, open_desktop
from relay.rfb.errors import CloseCode
from relay.rfb.rights import FULL, VIEW_ONLY, Rights
from relay.session import Session, carry

__all__ = [
    "FULL",
    "VIEW_ONLY",
    "Address",
    "CloseCode",
    "Counters",
    "DesktopEnd",
    "DesktopError",
    "Direction",
    "Ended",
    "Limits",
    "Password",
    "PasswordFile",
    "PasswordSource",
    "ProtocolError",
    "Reason",
    "RelayError",
    "Rights",
    "Session",
    "TcpAddress",
    "UnixAddress",
    "carry",
    "dial",
    "log_in",
    "open_desktop",
    "parse_address",
]
