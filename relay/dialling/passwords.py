"""Secrets, and where they come from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import trio

from relay.errors import DesktopError

__all__ = ["Password", "PasswordFile", "PasswordSource", "ask"]

PASSWORD_LINE_BYTES = 1_024
"""Of a password file's first line; the rest is not read. No security type takes more than 255."""


NO_PASSWORD = "the server cannot read the desktop's password"


class Password:
    """A secret that shows itself in no log, repr, error or pickle. Raises ValueError for text
    that is not Unicode."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        try:
            # Bytes of a file or variable that are not UTF-8 come out as they went in.
            encoded = secret.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            encoded = None
        # Not within `except`: that error has the secret, and would be this one's context.
        if encoded is None:
            raise ValueError("a password has characters that are none in Unicode")
        self._secret = encoded

    def reveal(self) -> bytes:
        """The secret in UTF-8."""
        return self._secret

    def __repr__(self) -> str:
        return "Password(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Password is not pickled")


PasswordSource = Password | Callable[[], str | Awaitable[str]]
"""A password, or what is called for it at each login that needs one, within the handshake's
deadline. What it raises ends the login as it is; its text must not hold the secret."""


@dataclass(frozen=True, slots=True)
class PasswordFile:
    """A password source: a file's first line, read at each login, so that it can be changed."""

    path: Path

    async def __call__(self) -> str:
        """Raises DesktopError."""
        try:
            # In a thread that may be left behind: files can be slow, and a pipe can wait for ever.
            line = await trio.to_thread.run_sync(self._first_line, abandon_on_cancel=True)
        except OSError as error:
            text = f"cannot read the password file {self.path}: {error.strerror}"
            raise DesktopError(text, told=NO_PASSWORD) from None
        if not line:
            text = f"the first line of the password file {self.path} is empty"
            raise DesktopError(text, told=NO_PASSWORD)
        return line.decode("utf-8", "surrogateescape")

    def _first_line(self) -> bytes:
        with self.path.open("rb") as file:
            return file.readline(PASSWORD_LINE_BYTES).rstrip(b"\r\n")


async def ask(source: PasswordSource) -> Password:
    """The password itself, or what the source says of it."""
    if isinstance(source, Password):
        return source
    answer = source()
    return Password(answer if isinstance(answer, str) else await answer)
