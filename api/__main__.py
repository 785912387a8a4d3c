"""`python -m api`, and the `deskrelay` command."""

from __future__ import annotations

import sys


def main() -> None:
    """The command's entry point."""
    try:
        # Not at the top: it takes a second, in which Ctrl-C is no traceback either.
        from api.cli.commands import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)  # as shells report SIGINT
    except ModuleNotFoundError as error:
        # The library comes without what the server needs.
        print(
            f"deskrelay: {error.name} is not installed; the command needs the server's packages:"
            " pip install 'deskrelay[server]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
