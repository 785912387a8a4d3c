"""Schemathesis with every check, against a running server: what the schema says must be so.

`make schemathesis` makes an environment for it and runs this. The server has a user with tokens, a
workspace with the test pattern, and chats: one where something was said and shown, one to archive,
and one that is archived. The user has no budgets, and may fail to log in any number of times: what
gets a 429 is not tried. `schemathesis.toml`, beside this file, hands all that to the operations,
and says what is no failure, and why. Arguments go on to schemathesis.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from functools import partial
from unittest.mock import patch
from uuid import uuid4

import structlog
import trio

from api.budgets import BudgetSettings
from api.store import Conversations, File
from relay.desktops import Desktops, provider_for
from tests.labs.language_model.scripted import Talker
from tests.labs.places import ROOT
from tests.labs.web import start_web

PROGRAM = ROOT / ".venv-schemathesis/bin/schemathesis"
CONFIGURATION = ROOT / "tests/schemathesis/schemathesis.toml"

PARTS = (
    "--exclude-path-regex=/users/logout$",
    "--include-path=/api/v2/users/logout",
    "--include-path=/api/experimental/users/logout",
)
"""Each with a token of its own: who has signed out tries nothing more."""

PICTURE = b"\x89PNG\r\n\x1a\n"


# A line for each request would hide what is found.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


async def main(arguments: list[str]) -> int:
    """The worst exit status of schemathesis."""
    async with trio.open_nursery() as nursery:
        server = await start_web(
            nursery,
            desktops=Desktops(nursery, provider_for),
            answers=Talker(),
            budgets=BudgetSettings.of_one_user(),
        )
        create = partial(server.store.create_chat, server.alice.id)
        chat = await create(workspace_id=server.workspace.id)
        open_chat, archived = await create(), await create()
        await server.store.set_archived(archived.id, True)
        file = File(uuid4(), chat.id, "image/png", PICTURE)
        await Conversations(server.store).add(
            chat.id, "user", [{"type": "text", "text": "Hello"}], [file]
        )
        command = [str(PROGRAM), f"--config-file={CONFIGURATION}", "run", "--checks=all"]
        given = {
            "CHAT": str(chat.id),
            "OPEN_CHAT": str(open_chat.id),
            "ARCHIVED_CHAT": str(archived.id),
            "FILE": str(file.id),
            "WORKSPACE": str(server.workspace.id),
        }
        statuses = []
        for part in PARTS:
            given["TOKEN"] = await server.store.create_token(server.alice.id)
            # It leaves what it has found where it runs.
            with (
                tempfile.TemporaryDirectory() as folder,
                patch("api.budgets.guesses.FAILURES_LIMIT", sys.maxsize),
            ):
                done = await trio.run_process(
                    [*command, f"{server.url}/openapi.json", part, *arguments],
                    check=False,
                    stdin=subprocess.DEVNULL,
                    env=os.environ | given,
                    cwd=folder,
                )
            statuses.append(done.returncode)
        await server.aclose()
        nursery.cancel_scope.cancel()
    return max(statuses)


if __name__ == "__main__":
    sys.exit(trio.run(main, sys.argv[1:]))
