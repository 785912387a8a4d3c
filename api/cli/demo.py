"""The demo: one command, one user, one chat, one desktop; everything is gone at its end."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Final

from api.cli.options import is_loopback
from api.run import run_server
from api.services import Services
from api.settings import Settings
from api.store import Store, User, Workspace
from api.store.database import MEMORY_URL
from api.store.store import LINK_LIFETIME_S
from relay.desktops import choose_automatically
from relay.errors import DesktopError

__all__ = ["run_demo"]

_log = logging.getLogger(__name__)

LOOPBACK_LINK_LIFETIME_S: Final = 30 * 86_400
"""On loopback the link waits for as long as the demo runs: whoever can read it off this terminal
can start a demo too."""


async def run_demo(settings: Settings, desktop: str, *, as_json: bool) -> None:
    """Runs the demo until a signal. `desktop` is `auto` or names one (`check_desktop`)."""
    if desktop == "auto":
        choice = choose_automatically()
        desktop = choice.spec
        _say(choice.reason)
    store = await Store.open(
        MEMORY_URL,
        token_lifetime_s=settings.token_lifetime_s,
        token_max_age_s=settings.token_max_age_s,
    )
    try:
        user = await store.ensure_user("demo")
        workspace = await store.add_workspace(user.id, "demo", desktop)

        async def started(services: Services, url: str) -> None:
            await _announce(services, user, workspace, url, as_json=as_json)
            await _start_desktop(services, workspace)

        await run_server(settings, store, started, for_one_user=True)
    finally:
        await store.aclose()


async def _announce(
    services: Services, user: User, workspace: Workspace, url: str, *, as_json: bool
) -> None:
    store = services.store
    chat = await store.create_chat(user.id, title="Demo", workspace_id=workspace.id)
    local = all(is_loopback(bind) for bind in services.settings.bind)
    code = await store.create_link(
        user.id,
        f"/chats/{chat.id}",
        lifetime_s=LOOPBACK_LINK_LIFETIME_S if local else LINK_LIFETIME_S,
    )
    link = f"{url}/open/{code}"
    if as_json:
        line = {
            "url": url,
            "viewer_url": link,
            "ws_url": f"ws{url.removeprefix('http')}/api/v2/chats/{chat.id}/desktop",
            "token": await store.create_token(user.id),
            "chat": str(chat.id),
            "pid": os.getpid(),
        }
        sys.stdout.write(json.dumps(line) + "\n")
    elif local:
        sys.stdout.write(
            f"\n  The desktop is at  {link}\n"
            "  The link signs one browser in, once. Ctrl-C ends the demo.\n\n"
        )
    else:
        _say("Anyone who can reach this address can try to use it, and nothing is encrypted.")
        minutes = LINK_LIFETIME_S // 60
        sys.stdout.write(
            f"\n  The desktop is at  {link}\n"
            f"  The link works once, within {minutes} minutes. Start the demo again for another.\n"
            "  Ctrl-C ends it.\n\n"
        )
    sys.stdout.flush()


async def _start_desktop(services: Services, workspace: Workspace) -> None:
    """Ahead of the first viewer, who would otherwise wait for it."""
    try:
        desktop = await services.desktops.open(workspace.id, workspace.desktop, services.limits)
        await desktop.aclose()
    except DesktopError as error:
        # Viewers are told the same, and each of them makes the start be tried again.
        _log.error("the desktop did not start: %s", error)
    else:
        _log.info("the desktop runs")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
