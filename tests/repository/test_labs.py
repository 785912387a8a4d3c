"""tests/labs/README.md has a line for each module of tests/labs, and for no other."""

from __future__ import annotations

import re

from tests.labs.places import ROOT

LABS = ROOT / "tests" / "labs"


def test_each_module_has_its_line() -> None:
    modules = {str(path.relative_to(LABS)) for path in LABS.rglob("*.py")}
    modules = {name for name in modules if not name.endswith("__init__.py")}
    listed = re.findall(r"^- `([\w/]+\.py)`: \S", (LABS / "README.md").read_text(), re.MULTILINE)
    assert set(listed) == modules
