"""Characters that do something to what shows them: they steer a terminal, end a line of a log, or
turn the direction of text, so that it reads as something else."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["CONTROLS", "escaped", "refuse_controls"]

CONTROLS: Final = (
    r"\x00-\x1f\x7f-\x9f"  # C0, DEL and C1
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional marks, overrides, isolates
    r"\u2028\u2029"  # line and paragraph separators
)
"""Within [] of a regular expression, Python's and a JSON schema's."""

# Half a character too, which no encoding has: what prints it fails.
_CONTROL: Final = re.compile(f"[{CONTROLS}\ud800-\udfff]")


def escaped(text: str) -> str:
    r"""Somebody else's `text` for a terminal or a log: `\x1b` and so on in the place of those."""
    return _CONTROL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def refuse_controls(text: str, what: str) -> None:
    """Raises ValueError where `text`, which is input of ours, has any; `what` is what it is."""
    if _CONTROL.search(text):
        raise ValueError(
            f"{what} has no control characters, line breaks, or marks of a text's direction"
        )
