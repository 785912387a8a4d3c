"""One module a target: its docstring opens with the invariant, and `run(data)` raises unless it
holds. Targets are found by being here."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module

Run = Callable[[bytes], None]


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Run:
    """The `run` of a target."""
    run: Run = import_module(f"{__name__}.{name}").run
    return run
