"""Runs one target under Atheris, which follows the coverage of the parsers.

`python -m fuzz.with_atheris viewer -max_total_time=60`; what follows the target is libFuzzer's.
Atheris is in the dependency group `fuzz` (pip install --group fuzz). New inputs go to a directory
of their own, not to the corpus in the repository; a crash goes where the plain driver puts it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fuzz import targets


def main(arguments: list[str]) -> int:
    """Does not return once Atheris runs."""
    try:
        import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        print("Atheris is not installed: pip install --group fuzz", file=sys.stderr)
        return 2
    if not arguments or arguments[0] not in targets.names():
        print(f"which target? {', '.join(targets.names())}", file=sys.stderr)
        return 2
    target, *options = arguments
    # Only what is imported in here is followed.
    with atheris.instrument_imports(include=["relay", "api.http.upgrade"]):
        from fuzz.driver import save
        from fuzz.seeds import seeds

        run = targets.load(target)

    def one(data: bytes) -> None:
        try:
            run(data)
        except Exception:
            print(f"saved as {save(target, data)}", file=sys.stderr)
            raise

    found = Path(tempfile.mkdtemp(prefix=f"fuzz-{target}-"))
    for number, seed in enumerate(seeds(target)):
        (found / f"seed-{number}").write_bytes(seed)
    print(f"inputs in {found}", file=sys.stderr)
    atheris.Setup([sys.argv[0], "-max_len=4096", *options, str(found)], one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
