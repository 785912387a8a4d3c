"""What somebody on one user's desktop has of the server and of other users: nothing.

The attack (tests/labs/attack.py) is typed into the terminal on a real Xvnc, which the real server
has started in each of the ways that it has of keeping desktops apart.
"""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from api.store import Store
from tests.labs.desktop_processes import until
from tests.labs.missing import missing
from tests.labs.separate_server import (
    ATTACK,
    NOBODYS_UID,
    SECRET,
    Separate,
    attacked,
    separate_server,
)

# Above those that a machine gives its accounts by itself (login.defs(5), SUB_UID_MAX).
UIDS = "1900000000-1900000099"

WAYS: dict[str, dict[str, Any]] = {
    "a uid for each owner, in bubblewrap": {"run_as": UIDS},
    "a uid for each owner": {"run_as": UIDS, "bubblewrap": False},
    "one other user, in bubblewrap": {"run_as": "games"},
    "bubblewrap alone": {"uid": NOBODYS_UID},
}


@pytest.fixture(autouse=True)
def _able() -> None:
    if os.geteuid() != 0:
        missing("only root can start a server as one user and desktops as others")
    lacking = [name for name in ("bwrap", "Xvnc", "xterm", "openbox") if not shutil.which(name)]
    if lacking:
        missing(f"not installed: {', '.join(lacking)} (see .ci/run for the packages)")


@pytest.fixture
def without_bubblewrap() -> Iterator[str]:
    """A PATH with Xvnc and its helpers, and no bubblewrap, for every user."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        for program in Path("/usr/bin").iterdir():
            if program.name != "bwrap":
                Path(path, program.name).symlink_to(program)
        yield path


async def attack(server: Separate, attacker: str, victim: str) -> list[str]:
    """What `attacker` has from the terminal of a desktop while `victim` has one."""
    before = server.directories()
    # Of another name each time: in /tmp nobody opens what another user has left there.
    note = Path(f"/tmp/note-of-{victim}-{server.place.name}")
    try:
        written = await server.run(victim, f"echo {shlex.quote(SECRET)} > {note}; id -u")
        assert written.strip().isdigit()
        return await _attacked(server, attacker, victim, server.directories() - before)
    finally:
        with trio.CancelScope(shield=True):
            await trio.Path(note).unlink(missing_ok=True)


async def _attacked(server: Separate, attacker: str, victim: str, victims: set[Path]) -> list[str]:
    assert len(victims) == 1
    home = server.home(attacker)
    async with server.desktop(attacker):
        targets = server.targets(victim, victims)
        # Nothing is had that was not looked for.
        assert all(targets.values()), targets
        for name, text in (("attack.py", ATTACK.read_text()), ("targets", json.dumps(targets))):
            (home / name).write_text(text)
            os.chown(home / name, home.stat().st_uid, home.stat().st_gid)
        return attacked(await server.run(attacker, "/usr/bin/python3 attack.py targets"))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
async def test_nothing_is_had_from_a_desktop(way: dict[str, Any], without_bubblewrap: str) -> None:
    options = dict(way)
    path = None if options.pop("bubblewrap", True) else without_bubblewrap
    async with separate_server(**options, path=path) as server:
        assert await attack(server, "alice", "bob") == []
        owners = {server.home(name).stat().st_uid for name in ("alice", "bob")}
        ids = {int(await server.run(name, "id -u")) for name in ("alice", "bob")}
        assert ids == owners
        if options.get("run_as") == UIDS:
            assert len(ids) == 2
            assert ids <= set(range(1_900_000_000, 1_900_000_100))
        elif "run_as" in options:
            assert ids == {pwd.getpwnam("games").pw_uid}
        # The machine still is one: programs of the system run, the network is there, home is
        # writable and stays.
        assert await server.run("alice", "cd; touch kept; ls kept") == "kept\n"


async def test_the_attack_finds_what_is_not_kept_apart() -> None:
    async with separate_server(run_as=UIDS) as server, server.desktop("bob"):
        targets = server.targets("bob", server.directories())
        (server.place / "targets").write_text(json.dumps(targets))
        # As root, whom nothing is kept from.
        done = await trio.run_process(
            [sys.executable, ATTACK, server.place / "targets"],
            capture_stdout=True,
            env={"PATH": os.environ["PATH"], "XAUTHORITY": targets["authorities"][0]},
        )
    had = set(attacked(done.stdout.decode()))
    assert had >= {
        *("memory", "ptrace", "signals", "descriptors", "view", "database", "database_written"),
        *("settings", "authority", "homes", "vnc"),
    }
    # The secret was taken out of the environment, from root as well.
    assert "environment" not in had


async def test_the_servers_memory_is_kept_from_its_own_user(without_bubblewrap: str) -> None:
    names = ["alice"]
    async with separate_server(uid=NOBODYS_UID, path=without_bubblewrap, names=names) as server:
        before = server.directories()
        async with server.desktop("alice"):
            targets = server.targets("alice", server.directories() - before)
            (server.place / "targets").write_text(json.dumps(targets))
            (server.place / "attack.py").write_text(ATTACK.read_text())
            # As what runs on the desktop of a server's only user does.
            done = await trio.run_process(
                ["/usr/bin/python3", server.place / "attack.py", server.place / "targets"],
                capture_stdout=True,
                user=NOBODYS_UID,
                group=NOBODYS_UID,
                extra_groups=[],
            )
    had = set(attacked(done.stdout.decode()))
    assert had & {"environment", "memory", "ptrace", "descriptors", "view", "ports"} == set()
    assert had >= {"signals", "database"}


async def refused(server: Separate, name: str) -> str:
    """Why a member gets no desktop, as the server's log has it."""
    member = server.members[name]
    head = {"Coder-Session-Token": member.token, "Upgrade": "websocket", "Connection": "Upgrade"}
    head |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.get(f"{server.url}/api/v2/chats/{member.chat}/desktop", headers=head)
    assert answer.status_code == 500, answer.text
    log = (server.place / "log").read_text()
    assert answer.json()["detail"] in log
    return log


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"uid": NOBODYS_UID}, "install bubblewrap (Debian: apt install bubblewrap)"),
        ({}, "set desktop.run_as to a range of uids, as in 1900000000-1900065535"),
        (
            {"run_as": "games"},
            "set desktop.run_as to a range of uids, as in 1900000000-1900065535, or install",
        ),
    ],
    ids=["not root, without bubblewrap", "root", "one other user, without bubblewrap"],
)
async def test_several_users_without_a_way_are_refused_and_told_what_lacks(
    options: dict[str, Any], says: str, without_bubblewrap: str
) -> None:
    async with separate_server(**options, path=without_bubblewrap) as server:
        log = await refused(server, "alice")
        assert "this server has several users, whose desktops it cannot keep apart: " in log
        assert says in log
        assert server.directories() == set()


async def test_one_user_goes_on_without_a_way_until_there_is_a_second(
    without_bubblewrap: str,
) -> None:
    async with separate_server(path=without_bubblewrap, names=["alice"]) as server:
        async with server.desktop("alice"):
            (found,) = server.directories()
            store = await Store.open(f"sqlite:///{server.place}/state/relay.db")
            await store.ensure_user("bob")
            await store.aclose()
            await until(lambda: not found.exists())
        log = await refused(server, "alice")
        assert "a desktop that is not apart ends" in log
