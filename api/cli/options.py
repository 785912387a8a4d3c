"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import typer

from api.settings import check_geometry

__all__ = [
    "DesktopPasswordFile",
    "Geometry",
    "check_password_file",
    "checked",
    "existing_file",
    "is_loopback",
]


def checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """A parser of texts that `check` does not refuse with a ValueError."""

    def parse(text: str) -> str:
        try:
            check(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        return text

    return parse


def existing_file(help_text: str, *names: str) -> Any:
    """An option that is a file's path; of those `names`, or its parameter's."""
    return typer.Option(
        *names, metavar="FILE", exists=True, dir_okay=False, readable=True, help=help_text
    )


Geometry = Annotated[
    str,
    typer.Option(
        metavar="WIDTHxHEIGHT",
        parser=checked(check_geometry),
        help="The screen of a desktop that is started here, in pixels.",
    ),
]
DesktopPasswordFile = Annotated[
    Path | None,
    existing_file(
        "The password of a desktop at an address, in the file's first line.", "--password-file"
    ),
]


def check_password_file(desktop: str, file: Path | None) -> None:
    """Refuses a password for a desktop that has none."""
    if file is not None and ":" not in desktop:
        text = f"the desktop {desktop} has no password; only tcp://HOST:PORT and unix:PATH may"
        raise typer.BadParameter(text, param_hint="--password-file")


def is_loopback(bind: str) -> bool:
    """Whether `HOST:PORT` is on this machine alone."""
    host = bind.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
