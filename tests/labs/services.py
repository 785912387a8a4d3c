"""What a server needs beside its application, over a store and desktops of the test's."""

from __future__ import annotations

from functools import partial
from typing import cast

import trio

from api.agents.model import Model
from api.agents.runs import Runs
from api.agents.turns import converse
from api.agents.watch import Followers
from api.budgets import Budgets, BudgetSettings
from api.live import LiveSessions
from api.metrics import Metrics
from api.services import Services
from api.settings import ModelSettings, Settings
from api.store import Conversations, Store
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
    """`nursery` is that of the chats' runs. Without a model nobody can be talked to."""
    settings = settings or Settings.model_construct()
    metrics = Metrics()
    budgets = Budgets(settings.budgets, metrics.over_budget)
    runs = runs_over(nursery, store, desktops, model, settings.model, budgets)
    return Services(
        settings=settings,
        store=store,
        conversations=runs.conversations,
        desktops=desktops,
        limits=limits or Limits(),
        live=live,
        followers=runs.followers,
        runs=runs,
        metrics=metrics,
        budgets=budgets,
    )


def runs_over(
    nursery: trio.Nursery,
    store: Store,
    desktops: Desktops,
    model: Model | Talker | None,
    settings: ModelSettings | None = None,
    budgets: Budgets | None = None,
) -> Runs:
    """The chats at work in a process, with no server around them."""
    work = None
    if model is not None:
        settings = settings or ModelSettings()
        work = partial(converse, store, desktops, Limits(), settings, cast(Model, model))
    budgets = budgets or Budgets(BudgetSettings())
    conversations = Conversations(store, budgets.settings)
    return Runs(nursery, store, conversations, Followers(), work, budgets)
