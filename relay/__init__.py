"""Relays a VNC desktop to a browser over a WebSocket, reading RFB in both directions."""

from relay.dial import Address, TcpAddress, UnixAddress, dial, parse_address
from relay.ended import Counters, Ended, Reason
from relay.errors import DesktopError, Direction, ProtocolError, RelayError
from relay.limits import Limits
from relay.login import DesktopEnd, Password, log_in, open_desktop
from relay.rfb.errors import CloseCode
from relay.session import Session, carry

__all__ = [
    "Address",
    "CloseCode",
    "Counters",
    "DesktopEnd",
    "DesktopError",
    "Direction",
    "Ended",
    "Limits",
    "Password",
    "ProtocolError",
    "Reason",
    "RelayError",
    "Session",
    "TcpAddress",
    "UnixAddress",
    "carry",
    "dial",
    "log_in",
    "open_desktop",
    "parse_address",
]
