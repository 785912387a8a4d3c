"""What a running server has; `app.state.services` holds the one instance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast
from uuid import UUID

from starlette.requests import HTTPConnection

from api.agents.runs import Runs
from api.agents.watch import Followers
from api.budgets import Budgets
from api.live import LiveSessions
from api.metrics import Metrics
from api.settings import Settings
from api.store import Conversations, Store
from relay.desktops import Desktops
from relay.limits import Limits

__all__ = ["Services", "services_of"]


@dataclass(frozen=True, slots=True)
class Services:
    """Made once by the command line (or a test), closed by whoever made it."""

    settings: Settings
    store: Store
    conversations: Conversations
    desktops: Desktops
    limits: Limits
    live: LiveSessions
    followers: Followers
    runs: Runs
    metrics: Metrics
    budgets: Budgets
    # By workspace: why its desktop could not be opened when it was last tried.
    desktop_problems: dict[UUID, str] = field(default_factory=dict)


def services_of(connection: HTTPConnection) -> Services:
    """The services of the server that took `connection`."""
    return cast(Services, connection.app.state.services)
