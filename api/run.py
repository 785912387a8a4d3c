"""One server from start to end.

`run_server` owns two nurseries: the inner one has the HTTP server, the chats at work and what
watches for signals, the outer one the desktops. So the viewers are told goodbye while their
desktops still run, and the desktops end last.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from api.agents.model import Model
from api.agents.runs import Runs
from api.agents.turns import converse
from api.agents.watch import Followers
from api.app import create_app
from api.budgets import Budgets
from api.http.serve import serve
from api.live import LiveSessions, reserve_capacity
from api.metrics import Metrics
from api.routes.page import NOVNC
from api.services import Services
from api.settings import ModelSettings, Settings, SettingsProblem
from api.store import Conversations, Store, StoreError
from relay.desktops import ONE_USER, Desktops, provider_for, reap_leftovers
from relay.errors import DesktopError

__all__ = ["Started", "end_on_signal", "run_server"]

STOP_S: Final = 4.5
"""From the first signal to the end, whatever hangs; the promise to users is 5 s."""

COLLECT_AFTER: Final = 1_000
"""Objects until the next look for cycles, which Hypercorn leaves behind: with 10,000 200 sessions
held 12.5 KiB each, with this 11.9, and starts cost the same."""

_log = logging.getLogger(__name__)

Started = Callable[[Services, str], Awaitable[None]]
"""Called with the services and the server's URL when it serves; may go on as long as that."""


async def run_server(
    settings: Settings, store: Store, started: Started, *, for_one_user: bool = False
) -> None:
    """Serves until SIGINT or SIGTERM; a second signal ends the process at once. Desktops that it
    starts are kept apart, or are all `for_one_user`, and run as the server does.

    Raises SettingsProblem where an address can't be listened on, certificates can't be used,
    desktops can't run as they are to, or the model's key is not there.
    """
    if not NOVNC.is_file():
        _log.warning("no page can show a desktop: run make novnc in the checkout, install it again")
    model = model_of(settings.model)
    credentials = settings.desktop.workspace_agent_credentials()
    separation = ONE_USER
    if not for_one_user:
        has_several = partial(_has_several_users, store)
        separation = await trio.to_thread.run_sync(settings.desktop.separation, has_several)
    await reap_leftovers(entered=separation.for_others)
    problem: OSError | None = None
    async with trio.open_nursery() as desktops_nursery:
        make = partial(
            provider_for,
            geometry=settings.desktop.geometry,
            password=settings.desktop.password_source,
            workspace_agent=credentials,
            limits=settings.limits,
            separation=separation,
        )
        desktops = Desktops(desktops_nursery, make)
        async with trio.open_nursery() as nursery:
            work = None
            if model is not None:
                work = partial(converse, store, desktops, settings.limits, settings.model, model)
            metrics = Metrics()
            budgets = Budgets(settings.budgets, metrics.over_budget)
            conversations, followers = Conversations(store, settings.budgets), Followers()
            runs = Runs(nursery, store, conversations, followers, work, budgets)
            services = Services(
                settings=settings,
                store=store,
                conversations=conversations,
                desktops=desktops,
                limits=settings.limits,
                live=LiveSessions(reserve_capacity()),
                followers=followers,
                runs=runs,
                metrics=metrics,
                budgets=budgets,
            )
            app = create_app(services)
            await nursery.start(end_on_signal, nursery.cancel_scope)
            try:
                urls = await nursery.start(partial(serve, app, bind=settings.bind))
            except OSError as error:
                problem = error
                nursery.cancel_scope.cancel()
            else:
                nursery.start_soon(runs.watch_abandoned)
                _settle_memory()
                await started(services, urls[0])
        desktops_nursery.cancel_scope.cancel()
    if model is not None:
        await model.aclose()
    if problem is not None:
        text = problem.strerror or str(problem)
        raise SettingsProblem(f"cannot listen on {', '.join(settings.bind)}: {text}")


async def _has_several_users(store: Store) -> bool:
    try:
        return await store.has_several_users()
    except StoreError as error:
        raise DesktopError("the store does not say whether a desktop may be started") from error


def model_of(settings: ModelSettings) -> Model | None:
    """The model that chats talk to; None where no key is set. Raises SettingsProblem."""
    key = settings.read_api_key()
    if key is None:
        return None
    try:
        # For its agents' desktops: imported at the first one, NumPy and Pillow would hold all
        # sessions up.
        import relay.client
        import relay.computer.tool  # noqa: F401

        return Model(
            api_key=key,
            base_url=settings.base_url,
            name=settings.name,
            max_tokens=settings.max_tokens,
        )
    except ValueError as error:
        where = "api_key" if settings.api_key_file is None else "api_key_file"
        raise SettingsProblem(f"model.{where}: {error}") from None
    except ImportError:
        text = 'chats with a model need more packages: pip install "deskrelay[server,agent]"'
        raise SettingsProblem(text) from None


def _settle_memory() -> None:
    """Has what the start made, 125,000 objects, left out of collections: one of everything takes
    90 ms, in which no session moves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


async def end_on_signal(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Cancels `scope` at SIGINT or SIGTERM; the process ends within `STOP_S`, whatever hangs."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            _log.info("ending: %s", signal.Signals(number).name)
            break
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    # A thread, because what hangs may be the event loop. Desktops' processes notice our death.
    timer = threading.Timer(STOP_S, _give_up)
    timer.daemon = True
    timer.start()
    scope.cancel()


def _give_up() -> None:
    _log.error("did not end within %g s; leaving anyway", STOP_S)
    os._exit(1)
