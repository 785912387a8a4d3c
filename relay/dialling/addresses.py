"""Reaches a desktop's address: TCP, a unix socket, or a workspace agent; one deadline for all
attempts on an address."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import trio

from relay.controls import refuse_controls
from relay.dialling.workspace_agent import (
    DEFAULT_PATH,
    SCHEMES,
    WorkspaceAgentAddress,
    WorkspaceAgentCredentials,
    error_of,
    upgraded,
)
from relay.errors import DesktopError, WorkspaceAgentStep
from relay.limits import Limits
from relay.net import kernel


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A desktop on a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A desktop on a unix socket in the file system; of one with a `uid`, that user's and nobody
    else's listens there."""

    path: str
    uid: int | None = None

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress | WorkspaceAgentAddress

FORMS: Final = "tcp://HOST:PORT, unix:PATH, ws://HOST:PORT or wss://HOST:PORT"


def parse_address(text: str, workspace_agent: WorkspaceAgentCredentials | None = None) -> Address:
    """Reads `tcp://HOST:PORT`, `unix:PATH`, or where a workspace agent is, as
    `wss://HOST:PORT[/PATH]` or `ws://` without TLS; `workspace_agent` is for such a one.

    Raises ValueError saying what is wrong.
    """
    # Also because urlsplit passes over line breaks and tabs: what is listed would not be dialled.
    refuse_controls(text, "an address")
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise ValueError(f"{text!r}: a unix socket needs an absolute path, as in unix:/run/vnc")
        return UnixAddress(path)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address: {error}") from None
    if parts.scheme not in ("tcp", *SCHEMES) or not parts.hostname or not port:
        raise ValueError(f"{text!r} is not an address; use {FORMS}")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{text!r} has more than a host, a port and a path; use {FORMS}")
    if parts.scheme == "tcp":
        if parts.path:
            raise ValueError(f"{text!r} has more than a host and a port; use tcp://HOST:PORT")
        return TcpAddress(parts.hostname, port)
    path = parts.path if parts.path not in ("", "/") else DEFAULT_PATH
    if not (path.isascii() and path.isprintable()) or " " in path:
        raise ValueError(
            f"{text!r}: the path of a workspace agent is printable ASCII without spaces"
        )
    return WorkspaceAgentAddress(parts.scheme, parts.hostname, port, path, workspace_agent)


_UCRED: Final = struct.Struct("iII")
"""Linux: process, user and group of the other end of a unix socket."""

KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)
"""Socket options by which a machine that vanished is noticed in half a minute, while something is
sent to it and while nothing is: a silent desktop is legal."""


async def dial(address: Address, *, timeout_s: float) -> trio.abc.Stream:
    """Connects to `address` within `timeout_s` seconds; a workspace agent, once reached, has a
    deadline of its own to bring its desktop. Raises DesktopError, for a workspace agent a
    WorkspaceAgentError."""
    try:
        with trio.fail_after(timeout_s):
            if isinstance(address, UnixAddress):
                return _checked(await trio.open_unix_socket(address.path), address)
            # trio sets TCP_NODELAY on a stream: a pointer event must not wait for the next.
            stream = await _open_tcp(address.host, address.port)
            for option in KEEPALIVE:
                stream.setsockopt(*option)
    except trio.TooSlowError:
        text = f"no answer from {address} within {timeout_s:g} s"
        raise _failure(address, WorkspaceAgentStep.TIMEOUT, text) from None
    except (OSError, UnicodeError) as error:
        # A UnicodeError is a name that cannot be one: a label of more than 63 characters.
        text = f"cannot connect to {address}: {_reasons(error)}"
        raise _failure(address, WorkspaceAgentStep.DISCONNECTED, text) from None
    if not isinstance(address, WorkspaceAgentAddress):
        return stream
    # For whoever reads it, it is no socket any more.
    kernel.hold_unread(stream, Limits().desktop_window_bytes)
    return await upgraded(stream, address)


def _checked(stream: trio.SocketStream, address: UnixAddress) -> trio.SocketStream:
    if address.uid is not None:
        credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(credentials)
        if uid != address.uid:
            stream.socket.close()
            raise DesktopError(f"uid {uid} listens at {address} in the place of {address.uid}")
    return stream


def _failure(address: Address, step: WorkspaceAgentStep, text: str) -> DesktopError:
    if isinstance(address, WorkspaceAgentAddress):
        return error_of(address, step, text)
    return DesktopError(text, told=text.replace(str(address), "the desktop"))


async def _open_tcp(host: str, port: int) -> trio.SocketStream:
    try:
        family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        return await trio.open_tcp_stream(host, port)
    # A name's addresses race each other, in a nursery; one address needs none of that.
    reached = trio.socket.socket(family)
    try:
        await reached.connect((host, port))
        return trio.SocketStream(reached)
    except BaseException:
        reached.close()
        raise


def _reasons(error: Exception) -> str:
    """Trio groups the attempts on a name's addresses, in the cause of an error without a word."""
    cause = error.__cause__
    causes = cause.exceptions if isinstance(cause, ExceptionGroup) else [error]
    return ", ".join(dict.fromkeys(map(_reason, causes)))


def _reason(error: Exception) -> str:
    # Trio's text repeats the address; that of a name that is not known has a number below 0.
    number = getattr(error, "errno", None) or 0
    return os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)
