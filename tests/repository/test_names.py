"""What documents, comments and docstrings call a file or a module is there under that name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs.places import ROOT

TOPS = "relay|api|bench|fuzz|tests|docs"
FILE = re.compile(rf"(?<![\w./-])(?:{TOPS})/[\w./-]*\w\.(?:py|md|toml|js|html|css|json)\b")
NAME = re.compile(rf"(?<=`)(?:{TOPS})(?:\.\w+)+(?=[`(])|(?<=python -m )(?:{TOPS})(?:\.\w+)+")

LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")

# What lies in the checkout and is not the project's: see .gitignore. And made-up trees.
NOT_OURS = {".peers", "novnc", "results"}
LEFT_OUT = {ROOT / "tests/repository/test_layers.py"}


def texts() -> Iterator[Path]:
    """Every text of the project's that may name a file. Not by git: a checkout may be without."""
    yield from ROOT.glob("*.md")
    yield from (ROOT / "Makefile", ROOT / "pyproject.toml", *sorted((ROOT / ".ci").iterdir()))
    for top in TOPS.split("|"):
        for path in sorted((ROOT / top).rglob("*")):
            ours = NOT_OURS.isdisjoint(path.parts) and path not in LEFT_OUT
            if ours and path.suffix in (".py", ".md", ".toml", ".js"):
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


@pytest.mark.parametrize("path", list(texts()), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_named_is_there(path: Path) -> None:
    text = path.read_text()
    missing = [name for name in FILE.findall(text) if not (ROOT / name).is_file()]
    missing += [name for name in NAME.findall(text) if not there(name)]
    if path.suffix == ".md":
        missing += [name for name in LINK.findall(text) if not (path.parent / name).exists()]
    assert missing == []
