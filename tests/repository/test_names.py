"""What documents, comments and docstrings call a file or a module is there under that name."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs.places import ROOT

TOPS = "relay|api|bench|fuzz|tests|docs"
FILE = re.compile(rf"(?<![\w./-])(?:{TOPS})/[\w./-]*\w\.(?:py|md|toml|js|html|css|json)\b")
NAME = re.compile(rf"(?<=`)(?:{TOPS})(?:\.\w+)+(?=[`(])|(?<=python -m )(?:{TOPS})(?:\.\w+)+")

# Its trees are made up.
LEFT_OUT = {ROOT / "tests/repository/test_layers.py"}


def texts() -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in listed.splitlines():
        path = ROOT / name
        read = path.suffix in (".py", ".md", ".toml", ".js") or path.name in ("Makefile", "run")
        if read and path.is_file() and path not in LEFT_OUT:
            yield path


def there(name: str) -> bool:
    """Whether a dotted name is a module, or something that a module's text has."""
    head, *rest = name.split(".")
    place = ROOT / head
    while rest and (place / rest[0]).is_dir():
        place /= rest.pop(0)
    if rest and (place / f"{rest[0]}.py").is_file():
        place /= f"{rest.pop(0)}.py"
    source = place if place.is_file() else place / "__init__.py"
    return source.is_file() and all(re.search(rf"\b{word}\b", source.read_text()) for word in rest)


LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("path", list(texts()), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_named_is_there(path: Path) -> None:
    text = path.read_text()
    missing = [name for name in FILE.findall(text) if not (ROOT / name).is_file()]
    missing += [name for name in NAME.findall(text) if not there(name)]
    if path.suffix == ".md":
        missing += [name for name in LINK.findall(text) if not (path.parent / name).exists()]
    assert missing == []
