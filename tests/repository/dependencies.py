"""What the project depends on: floors, locks, and the advisories that they are held to.

`python -m tests.repository.dependencies` says which installed package an advisory names; .ci/floors
asks so where the oldest versions are.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import distributions
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.labs.places import ROOT

DEV = ROOT / "requirements/dev.txt"
SERVER = ROOT / "requirements/server.txt"
ADVISORIES = Path(__file__).with_name("advisories.toml")


class Advisory(NamedTuple):
    package: str
    id: str
    fixed: Version
    does: str
    source: str


def advisories() -> list[Advisory]:
    return [
        Advisory(package, entry["id"], Version(entry["fixed"]), entry["does"], entry["source"])
        for package, entries in tomllib.loads(ADVISORIES.read_text()).items()
        for entry in entries
    ]


class Requirements:
    """The lists of a pyproject.toml, each without what it includes of the others."""

    def __init__(self, text: str) -> None:
        tables = tomllib.loads(text)
        project = tables["project"]
        self.library = [Requirement(one) for one in project["dependencies"]]
        self.extras = {
            extra: [found for one in listed if (found := Requirement(one)).name != project["name"]]
            for extra, listed in project["optional-dependencies"].items()
        }
        self.groups = {
            group: [Requirement(one) for one in listed if isinstance(one, str)]
            for group, listed in tables["dependency-groups"].items()
        }
        self.build = [Requirement(one) for one in tables["build-system"]["requires"]]

    def users(self) -> list[Requirement]:
        """What users install: the library with all its extras."""
        return [*self.library, *chain(*self.extras.values())]

    def all(self) -> list[Requirement]:
        return [*self.users(), *chain(*self.groups.values()), *self.build]


def ours() -> Requirements:
    return Requirements((ROOT / "pyproject.toml").read_text())


def floors(requirements: Iterable[Requirement]) -> dict[str, Version]:
    """The oldest version of each that is allowed; 0 where any is."""
    return {canonicalize_name(one.name): _floor(one) for one in requirements}


def _floor(requirement: Requirement) -> Version:
    least = [one.version for one in requirement.specifier if one.operator in (">=", "==", "~=")]
    return max(map(Version, least), default=Version("0"))


def locked(path: Path) -> dict[str, Version]:
    pins = re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text(), re.MULTILINE)
    return {name: Version(version) for name, version in pins}


def page() -> dict[str, Version]:
    """What the page has from npm."""
    found = re.search(r"^NOVNC_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return {"@novnc/novnc": Version(found[1])}


def unsafe(versions: Mapping[str, Version], known: Iterable[Advisory]) -> Iterator[str]:
    """A line for each advisory that one of the versions is too old for."""
    for one in known:
        version = versions.get(one.package)
        if version is not None and version < one.fixed:
            yield f"{one.package} {version} {one.does} ({one.id}, fixed in {one.fixed})"


def _installed() -> dict[str, Version]:
    return {
        canonicalize_name(found.metadata["Name"]): Version(found.version)
        for found in distributions()
    }


if __name__ == "__main__":
    found = list(unsafe(_installed(), advisories()))
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
