"""A server's part that works in a chat, to be killed: `python -m tests.labs.killed DATABASE_URL`.

It says "working" when it begins, and goes on for ever: chats with agents that look at the desktop.
"""

from __future__ import annotations

import itertools
import sys
from functools import partial
from typing import Any

import trio

from api.agents.model import Reply
from api.agents.runs import Runs
from api.store import Chat, Store
from relay.desktops import Desktops, provider_for
from tests.labs.agents import to_spawned
from tests.labs.language_model.scripted import Talker, call, calls, on_screen, said
from tests.labs.services import runs_over


async def more(runs: Runs, chat: Chat, _asked: dict[str, Any]) -> Reply:
    await runs.say(chat.id, "And more.")
    return said("Done.")


async def main(url: str) -> None:
    store = await Store.open(url)
    user = await store.ensure_user("alice")
    workspace = await store.add_workspace(user.id, "dev", "pattern")
    talker = Talker()
    async with trio.open_nursery() as nursery:
        runs = runs_over(nursery, store, Desktops(nursery, provider_for), talker)
        sys.stdout.write("working\n")
        sys.stdout.flush()
        for _ in itertools.count():
            chat = await store.create_chat(user.id, workspace_id=workspace.id)
            talker.parent = [
                calls(call("spawn_computer_use_agent", {"prompt": "Look."})),
                to_spawned("wait_agent"),
                partial(more, runs, chat),
            ]
            talker.agent = [calls(on_screen("screenshot")), said("Seen.")]
            await runs.say(chat.id, "Do it.")
            await runs.wait_idle(chat.id)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
