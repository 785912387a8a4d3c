"""`deskrelay mcp`: the command line of the computer tool for MCP clients."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Final

import trio
import typer

from api.cli.agent import check_no_workspace_agent
from api.cli.options import (
    DesktopPasswordFile,
    check_password_file,
    checked,
    existing_file,
    is_loopback,
)
from api.http.logs import configure_logging
from api.privacy import be_private
from api.settings import DesktopSettings, check_address

__all__ = ["mcp"]

TOKEN_BYTES: Final = 32
"""Of chance, in a token that is made at the start."""


def mcp(
    desktop: Annotated[
        str,
        typer.Option(
            metavar="DESKTOP",
            parser=checked(check_no_workspace_agent),
            help="pattern, xvnc, portabledesktop, tcp://HOST:PORT or unix:PATH.",
        ),
    ],
    password_file: DesktopPasswordFile = None,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            parser=checked(check_address),
            help="Serve streamable HTTP at /mcp there, instead of one client on stdin and stdout.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        existing_file(
            "The token that HTTP clients must send, in the file's first line. Without this option "
            "one is made at the start, and printed."
        ),
    ] = None,
    no_token: Annotated[
        bool,
        typer.Option(
            "--no-token",
            help="Let every program on this machine in. For loopback addresses only.",
        ),
    ] = False,
    quiet: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=60,
            help="After an action a screenshot waits until nothing has changed for so long.",
        ),
    ] = 0.08,
    settle_limit: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, max=60, help="And so long at most.")
    ] = 2.0,
) -> None:
    """Offer a desktop to MCP clients: a language model's tools to see and use it."""
    check_password_file(desktop, password_file)
    token = _token(http, token_file, no_token=no_token)
    try:
        # Not at the top: these packages are extras, and no other command needs them.
        from api.mcp.http import HttpFront
        from api.mcp.server import run_mcp, stdio
        from relay.computer import Settings as ComputerSettings
    except ModuleNotFoundError as error:
        raise typer.TyperException(
            f'{error.name} is not installed; pip install "deskrelay[server,agent]" brings it'
        ) from None
    be_private()
    configure_logging()
    made = token is not None and token_file is None
    front = stdio if http is None else HttpFront(http, token, made=made).serve
    settings = DesktopSettings(password_file=password_file)
    trio.run(run_mcp, desktop, settings, front, ComputerSettings(quiet, settle_limit))


def _token(http: str | None, token_file: Path | None, *, no_token: bool) -> bytes | None:
    """The token that clients over HTTP have to send, if any: the file's, or a new one."""
    hint = "--no-token" if no_token else "--token-file"
    if http is None:
        if no_token or token_file is not None:
            raise typer.BadParameter("a token is for --http only", param_hint=hint)
        return None
    if no_token:
        if token_file is not None:
            raise typer.BadParameter("--token-file says that there is one", param_hint=hint)
        if not is_loopback(http):
            text = f"without one, whoever reaches {http} would have the desktop"
            raise typer.BadParameter(text, param_hint=hint)
        return None
    if token_file is None:
        return secrets.token_urlsafe(TOKEN_BYTES).encode()
    token = token_file.read_bytes().partition(b"\n")[0].strip()
    if not token:
        raise typer.BadParameter(f"the first line of {token_file} is empty", param_hint=hint)
    return token
