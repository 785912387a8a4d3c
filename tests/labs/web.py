"""The server on a loopback socket, in front of a store in memory, and a client of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast
from uuid import UUID

import httpx
import trio
from fastapi import FastAPI

from api.app import create_app
from api.http.serve import serve
from api.live import LiveSessions
from api.settings import Settings
from api.store import Store, User, Workspace
from relay.desktops import Desktops
from relay.rfb.errors import CloseCode
from tests.labs.clock import ManualClock
from tests.labs.language_model.scripted import Talker
from tests.labs.services import services_over

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
"""Headers of a request that asks for a WebSocket."""


class NoDesktops:
    """Fails the test that starts a desktop."""

    async def get(self, key: object, spec: str, owner: str = "") -> None:
        raise AssertionError("a desktop was started")


@dataclass
class RecordedLive(LiveSessions):
    """The live sessions, and which ends were asked for."""

    ended: list[tuple[UUID, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def end_chat(self, chat_id: UUID, code: CloseCode, reason: str) -> None:
        self.ended.append((chat_id, code, reason))
        super().end_chat(chat_id, code, reason)


@dataclass
class Web:
    """Two users; `client` is signed in as the first, by the header."""

    url: str
    app: FastAPI
    client: httpx.AsyncClient
    store: Store
    clock: ManualClock
    live: RecordedLive
    alice: User
    bob: User
    token: str
    workspace: Workspace

    def without_token(self, **headers: str) -> httpx.AsyncClient:
        """Another client of the same server, signed in by `headers` or not at all."""
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False)

    async def break_table(self, name: str) -> None:
        """Makes the store fail at `name` from now on."""
        await self.store.database.run(
            lambda connection: connection.exec_driver_sql(f'ALTER TABLE "{name}" RENAME TO gone'),
            write=True,
        )

    async def aclose(self) -> None:
        await self.client.aclose()
        await self.store.aclose()


async def start_web(
    nursery: trio.Nursery,
    *,
    desktops: Desktops | None = None,
    answers: Talker | None = None,
    **settings: Any,
) -> Web:
    """A server in `nursery`, which ends it; the caller closes the rest."""
    clock, live = ManualClock(), RecordedLive()
    store = await Store.open("sqlite://", clock=clock)
    alice, bob = await store.ensure_user("alice"), await store.ensure_user("bob")
    token = await store.create_token(alice.id)
    workspace = await store.add_workspace(alice.id, "dev", "pattern")
    services = services_over(
        nursery,
        store,
        desktops or cast(Desktops, NoDesktops()),
        live,
        settings=Settings.model_construct(**settings),
        model=answers,
    )
    app = create_app(services)
    (url,) = await nursery.start(partial(serve, app, bind=["127.0.0.1:0"]))
    client = httpx.AsyncClient(
        base_url=url, headers={"Coder-Session-Token": token}, trust_env=False
    )
    return Web(url, app, client, store, clock, live, alice, bob, token, workspace)
