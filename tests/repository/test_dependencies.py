"""Floors and locks: above every known advisory, and the one as the other says."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.labs.places import ROOT
from tests.repository.dependencies import (
    DEV,
    SERVER,
    advisories,
    floors,
    locked,
    ours,
    page,
    unsafe,
)
from tests.repository.test_layers import SEES_PIXELS, imported, modules, room

LINE = re.compile(
    r"#.*|[a-z0-9-]+==[\w.]+( ; [\w<>=!'() .]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
)
"""All that a lock may have: no host, no path, no version without hashes."""

# Which extras what lies in a package may use, beside what the library needs.
EXTRAS = {
    **dict.fromkeys(SEES_PIXELS, ("client",)),
    "api.agents": ("server", "agent"),
    "api.mcp": ("server", "agent"),
}


distributions_of = cache(packages_distributions)  # which reads every file that is installed


@cache
def allowed(place: str) -> set[str]:
    extras = EXTRAS.get(place, ("server",) if place.startswith("api") else ())
    listed = [one for extra in extras for one in ours().extras[extra]]
    return set(floors([*ours().library, *listed]))


# --- The lists of pyproject.toml ---


@pytest.mark.parametrize(("module", "path"), modules(ROOT).items(), ids=modules(ROOT))
def test_what_is_imported_is_declared(module: str, path: Path) -> None:
    tops = {name.partition(".")[0] for name in imported(path)}
    others = tops - set(sys.stdlib_module_names) - {"relay", "api"}
    used = {canonicalize_name(distributions_of()[top][0]) for top in others}
    place = room(module)
    assert place is not None
    assert used <= allowed(place)


def test_no_floor_is_below_an_advisory() -> None:
    each = [floors([one]) for one in ours().all()]  # one by one: lists may name the same
    assert [line for floor in each for line in unsafe(floor, advisories())] == []


def test_what_others_bring_to_users_has_a_floor_too_where_there_are_advisories() -> None:
    brought = {one.package for one in advisories()} & set(locked(SERVER))
    assert brought <= set(floors([*ours().users(), *ours().groups["build"]]))


def test_what_builds_the_project_is_locked_with_the_same_floor() -> None:
    assert set(ours().build) <= set(ours().groups["build"])


# --- The locks ---


@pytest.mark.parametrize("path", [DEV, SERVER], ids=lambda path: path.name)
def test_a_lock_has_pins_and_hashes_alone(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    for line, after in pairwise(lines):
        assert "==" not in line or after.startswith("    --hash="), line


@pytest.mark.parametrize("path", [DEV, SERVER], ids=lambda path: path.name)
def test_a_lock_is_what_pyproject_asks_for(path: Path) -> None:
    group = ours().groups
    asked = [*ours().library, *ours().extras["server"], *group["dev"], *group["bench"]]
    if path == SERVER:
        asked = ours().users()
    pins = locked(path)
    amiss = {
        str(one): pin
        for one in [*asked, *group["build"]]
        if not (pin := pins.get(canonicalize_name(one.name))) or pin not in one.specifier
    }
    assert amiss == {}, "`make lock` makes it anew"


def test_what_is_tested_is_what_a_server_gets() -> None:
    dev = locked(DEV)
    others = {name: pin for name, pin in locked(SERVER).items() if dev.get(name, pin) != pin}
    assert others == {}


@pytest.mark.parametrize("path", [DEV, SERVER], ids=lambda path: path.name)
def test_no_lock_is_below_an_advisory(path: Path) -> None:
    assert list(unsafe(locked(path), advisories())) == []


def test_the_page_is_not_below_an_advisory() -> None:
    assert list(unsafe(page(), advisories())) == []


# --- The advisories ---


def test_an_advisory_names_what_we_have_and_who_says_so() -> None:
    have = {**locked(DEV), **locked(SERVER), **page()}
    for one in advisories():
        assert one.package in have
        assert re.fullmatch(r"CVE-\d{4}-\d{4,}|GHSA(-\w{4}){3}", one.id)
        assert one.source.startswith("https://")
        assert one.does


def test_what_an_old_version_does_is_told() -> None:
    old = floors([Requirement("h11"), Requirement("Starlette>=1.1,<2")])
    known = [one for one in advisories() if one.id in ("CVE-2025-43859", "CVE-2026-54283")]
    assert list(unsafe(old, known)) == [
        "h11 0 accepts a chunked body with wrong line ends, which smuggles requests past a proxy"
        " (CVE-2025-43859, fixed in 0.16.0)",
        "starlette 1.1 ignores the limits of a form that is urlencoded"
        " (CVE-2026-54283, fixed in 1.3.1)",
    ]
    assert list(unsafe({"h11": Version("0.16"), "starlette": Version("1.10")}, known)) == []


def test_what_is_installed_is_safe() -> None:
    command = [sys.executable, "-m", "tests.repository.dependencies"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
