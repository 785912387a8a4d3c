"""Imports go one way: api -> relay -> relay.rfb; relay.rfb needs the standard library alone,
relay.rfb.pixels excepted."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs.places import ROOT

# Of the extra `client`, and only in what `import relay` leaves alone.
PICTURES = {"numpy", "PIL"}
FILES = sorted([*(ROOT / "relay").rglob("*.py"), *(ROOT / "api").rglob("*.py")])


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    where = path.relative_to(ROOT).parts
    for name in imported(path):
        top = name.partition(".")[0]
        if where[:2] == ("relay", "rfb"):
            inside = name == "relay.rfb" or name.startswith("relay.rfb.")
            # Pixels are the client's, and nothing that frames needs them.
            allowed = PICTURES if where[2] == "pixels" else set()
            assert inside or top in allowed or top in sys.stdlib_module_names, name
            assert not name.startswith("relay.rfb.pixels") or where[2] == "pixels", name
        elif where[0] == "relay":
            allowed = {"relay", "trio", "trio_websocket", "wsproto", "h11", "cryptography"}
            if where[1] in ("client", "computer"):
                allowed |= PICTURES
            assert top in allowed or top in sys.stdlib_module_names, name
        assert top not in ("tests", "bench", "fuzz")


def test_the_library_brings_no_extras() -> None:
    extras = ("fastapi", "hypercorn", "sqlalchemy", "pydantic", "structlog", "numpy", "PIL", "api")
    code = f"import sys, relay; print([m for m in {extras} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
