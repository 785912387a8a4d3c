"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from api.settings import check_geometry

__all__ = ["DesktopPasswordFile", "Geometry", "check_password_file", "checked"]


def checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """A parser of texts that `check` does not refuse with a ValueError."""

    def parse(text: str) -> str:
        try:
            check(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        return text

    return parse


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
    typer.Option(
        "--password-file",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        readable=True,
        help="The password of a desktop at an address, in the file's first line.",
    ),
]


def check_password_file(desktop: str, file: Path | None) -> None:
    """Refuses a password for a desktop that has none."""
    if file is not None and ":" not in desktop:
        text = f"the desktop {desktop} has no password; only tcp://HOST:PORT and unix:PATH may"
        raise typer.BadParameter(text, param_hint="--password-file")
