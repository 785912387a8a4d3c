"""`python -m api`, and the `deskrelay` command."""

from __future__ import annotations

import sys

from api.cli import run


def main() -> None:
    """The command's entry point."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
