"""`deskrelay agent`: the command line of the workspace's side."""

from __future__ import annotations

import ssl
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import trio
import typer

from api.cli.options import (
    DesktopPasswordFile,
    Geometry,
    check_password_file,
    checked,
    existing_file,
    is_loopback,
)
from api.http.logs import configure_logging
from api.privacy import be_private
from api.settings import check_bind, check_desktop
from relay.dialling.addresses import Address, TcpAddress, parse_address
from relay.dialling.passwords import PASSWORD_LINE_BYTES, Password, PasswordFile
from relay.dialling.workspace_agent import WorkspaceAgentAddress

__all__ = ["agent", "check_no_workspace_agent"]

SECRET_LEAST_CHARS: Final = 16
"""Whoever has the secret has the desktop, and nothing slows guesses down."""


def check_no_workspace_agent(text: str) -> Address | None:
    """The address in a desktop's specification, if it has one. Raises ValueError for a workspace
    agent's: no option tells its secret."""
    check_desktop(text)
    address = parse_address(text) if ":" in text else None
    if isinstance(address, WorkspaceAgentAddress):
        raise ValueError(f"{text!r} is a workspace agent; here it has to be the desktop itself")
    return address


def _check_own_desktop(text: str) -> None:
    address = check_no_workspace_agent(text)
    if isinstance(address, TcpAddress) and not is_loopback(f"{address.host}:{address.port}"):
        # Whoever reaches it there needs no secret, and nothing is encrypted on the way.
        raise ValueError(
            f"{text!r} is not on the loopback; run the workspace agent beside the desktop"
        )


def agent(
    desktop: Annotated[
        str,
        typer.Option(
            metavar="DESKTOP",
            parser=checked(_check_own_desktop),
            help="pattern, xvnc, portabledesktop, tcp://127.0.0.1:PORT or unix:PATH.",
        ),
    ] = "xvnc",
    bind: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            parser=checked(check_bind),
            help="Where to listen, or unix:PATH. Port 0 takes a free one.",
        ),
    ] = "127.0.0.1:6081",
    secret_file: Annotated[
        Path | None,
        existing_file(
            "The secret that relays share with it, in the file's first line: "
            f"{SECRET_LEAST_CHARS} or more characters of ASCII."
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, existing_file("Its certificate, and those between it and its authority.")
    ] = None,
    tls_key: Annotated[Path | None, existing_file("The certificate's key.")] = None,
    client_ca: Annotated[
        Path | None, existing_file("Lets in only who has a certificate of these authorities.")
    ] = None,
    geometry: Geometry = "1280x800",
    password_file: DesktopPasswordFile = None,
) -> None:
    """Serve a workspace's desktop to a relay on another machine."""
    check_password_file(desktop, password_file)
    if secret_file is None and client_ca is None:
        text = "anybody could use the desktop: give --secret-file, or --client-ca with TLS, or both"
        raise typer.BadParameter(text)
    secret = None if secret_file is None else _secret(secret_file)
    tls = _tls(tls_cert, tls_key, client_ca)
    try:
        # It needs NumPy and Pillow, which are an extra.
        from api.workspace.server import WorkspaceAgentSettings, run_workspace_agent
    except ModuleNotFoundError as error:
        raise typer.TyperException(
            f'{error.name} is not installed; pip install "deskrelay[server,client]" brings it'
        ) from None

    password = None if password_file is None else PasswordFile(password_file)
    settings = WorkspaceAgentSettings(desktop, bind, geometry, secret, tls, password)
    be_private()
    configure_logging()
    if tls is None and not bind.startswith("unix:") and not is_loopback(bind):
        print("Nothing is encrypted, the secret neither: see --tls-cert.", file=sys.stderr)
    trio.run(partial(run_workspace_agent, settings, _say))


def _say(url: str) -> None:
    print(f"serving at {url}", file=sys.stderr, flush=True)


def _secret(file: Path) -> Password:
    try:
        with file.open("rb") as opened:
            line = opened.readline(PASSWORD_LINE_BYTES).strip()
    except OSError as error:
        raise _bad("--secret-file", f"cannot read {file}: {error.strerror}") from None
    text = line.decode("ascii", "replace")
    if len(text) < SECRET_LEAST_CHARS or not (text.isascii() and text.isprintable()):
        wanted = f"{SECRET_LEAST_CHARS} or more characters of printable ASCII"
        raise _bad("--secret-file", f"the first line of {file} is not {wanted}")
    return Password(text)


def _tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> ssl.SSLContext | None:
    if (cert is None) is not (key is None):
        raise _bad("--tls-cert", "--tls-cert and --tls-key go together")
    if cert is None:
        if client_ca is not None:
            raise _bad("--client-ca", "it needs --tls-cert and --tls-key")
        return None
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    except (OSError, ValueError) as error:
        raise _bad("--client-ca", _reason(error)) from None
    try:
        # Else OpenSSL would ask on the terminal for the password of an encrypted key.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise _bad("--tls-cert", _reason(error)) from None
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: Exception) -> str:
    return f"cannot use the certificates: {getattr(error, 'strerror', None) or error}"


def _bad(option: str, text: str) -> typer.BadParameter:
    return typer.BadParameter(text, param_hint=option)
