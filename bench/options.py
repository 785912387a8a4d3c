"""How the commands of the bench are told what to run."""

from __future__ import annotations

import argparse
from collections.abc import Collection


def parser_of(name: str, says: str | None) -> argparse.ArgumentParser:
    """A command's parser; `says` is its module's docstring."""
    return argparse.ArgumentParser(
        prog=name, description=says, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def chosen(
    parser: argparse.ArgumentParser, kind: str, given: str, known: Collection[str]
) -> list[str]:
    """Names with commas between them. Ends the command at one that is not known."""
    names = given.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no {kind} {unknown[0]!r}; there are {', '.join(known)}")
    return names


def check_pace(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the command where --secs or --rounds cannot be."""
    if not (options.secs > 0 and options.rounds > 0):  # so that NaN is refused as well
        parser.error("--secs and --rounds must be more than 0")
