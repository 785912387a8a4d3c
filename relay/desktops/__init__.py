"""What starts, finds, watches and stops desktops.

`provider_for` makes a provider of a spec; `Desktops` runs one desktop per key.
"""

from __future__ import annotations

from relay.desktops.manager import Desktops
from relay.desktops.provider import Provider, RunningDesktop
from relay.desktops.runtime import reap_leftovers
from relay.desktops.separation import (
    ONE_USER,
    Separation,
    Several,
    parse_run_as,
    separation_for,
)
from relay.desktops.specs import AutoChoice, choose_automatically, provider_for

__all__ = [
    "ONE_USER",
    "AutoChoice",
    "Desktops",
    "Provider",
    "RunningDesktop",
    "Separation",
    "Several",
    "choose_automatically",
    "parse_run_as",
    "provider_for",
    "reap_leftovers",
    "separation_for",
]
