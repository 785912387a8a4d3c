"""Relays a VNC desktop to a browser over a WebSocket, reading RFB in both directions."""

from typing import TYPE_CHECKING

from relay.dialling.addresses import Address, TcpAddress, UnixAddress, dial, parse_address
from relay.dialling.login import DesktopEnd, log_in, open_desktop
from relay.dialling.passwords import Password, PasswordFile, PasswordSource
from relay.dialling.workspace_agent import WorkspaceAgentAddress, WorkspaceAgentCredentials
from relay.ended import Counters, Ended, Reason
from relay.errors import (
    DesktopError,
    Direction,
    ProtocolError,
    RelayError,
    WorkspaceAgentError,
    WorkspaceAgentStep,
)
from relay.limits import Limits
from relay.rfb.errors import CloseCode
from relay.rfb.rights import FULL, VIEW_ONLY, Rights
from relay.session import Session, carry

if TYPE_CHECKING:
    from relay.client import Desktop, connect

__all__ = [
    "FULL",
    "VIEW_ONLY",
    "Address",
    "CloseCode",
    "Counters",
    "Desktop",
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
    "WorkspaceAgentAddress",
    "WorkspaceAgentCredentials",
    "WorkspaceAgentError",
    "WorkspaceAgentStep",
    "carry",
    "connect",
    "dial",
    "log_in",
    "open_desktop",
    "parse_address",
]


def __getattr__(name: str) -> object:
    """The client, which needs NumPy and Pillow, is imported by those who use it."""
    if name in ("Desktop", "connect"):
        try:
            from relay import client
        except ModuleNotFoundError as error:
            text = f"relay.{name} needs {error.name}: pip install 'deskrelay[client]'"
            raise ModuleNotFoundError(text, name=error.name) from error

        value: object = getattr(client, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
