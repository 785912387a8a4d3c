"""What a server needs beside its application, over a store and desktops of the test's."""

from __future__ import annotations

from typing import cast

import trio

from api.agents.model import Model
from api.agents.runs import Agents
from api.live import LiveSessions
from api.services import Services
from api.settings import ModelSettings, Settings
from api.store import Store
from relay.desktops import Desktops
from relay.limits import Limits
from tests.labs.language_model.scripted import Talker


def services_over(
    nursery: trio.Nursery,
    store: Store,
    desktops: Desktops,
    live: LiveSessions,
    *,
    settings: Settings | None = None,
    limits: Limits | None = None,
    model: Talker | None = None,
) -> Services:
    """`nursery` is that of the agents' runs. Without a model nobody can be talked to."""
    settings = settings or Settings.model_construct()
    limits = limits or Limits()
    return Services(
        settings=settings,
        store=store,
        desktops=desktops,
        limits=limits,
        live=live,
        agents=Agents(nursery, store, desktops, limits, settings.model, cast(Model | None, model)),
    )


def agents_over(
    nursery: trio.Nursery,
    store: Store,
    desktops: Desktops,
    model: Talker,
    settings: ModelSettings | None = None,
) -> Agents:
    """Agents alone, of no server."""
    return Agents(
        nursery, store, desktops, Limits(), settings or ModelSettings(), cast(Model, model)
    )
