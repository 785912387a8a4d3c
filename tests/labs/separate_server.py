"""`deskrelay serve` for several users whose desktops are kept apart in one way or another, and what
one of them can try against the others."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from api.store import Store
from relay.client import Desktop, connect
from relay.dialling.addresses import parse_address
from relay.dialling.passwords import Password
from relay.dialling.workspace_agent import WorkspaceAgentCredentials
from tests.labs.places import ROOT
from tests.labs.waiting import until

NOBODYS_UID = 61_234
"""Of a server that is not root; no account has it."""

SECRET = "hunter2-of-the-server"
"""In the server's environment, its settings, and a token's place."""

ATTACK = ROOT / "tests/labs/attack.py"


@dataclass(frozen=True)
class Member:
    """A user with a workspace, and a chat that shows its desktop."""

    id: UUID
    token: str
    chat: UUID


@dataclass
class Separate:
    """A running server, and its users by name."""

    place: Path
    url: str
    pid: int
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def homes(self) -> Path:
        return self.place / "homes"

    def home(self, name: str) -> Path:
        return self.homes / str(self.members[name].id)

    @asynccontextmanager
    async def desktop(self, name: str) -> AsyncIterator[Desktop]:
        """A member's desktop, through the server."""
        member = self.members[name]
        address = f"ws{self.url.removeprefix('http')}/api/v2/chats/{member.chat}/desktop"
        credentials = WorkspaceAgentCredentials(Password(member.token))
        async with connect(parse_address(address, credentials)) as desktop:
            yield desktop

    async def run(self, name: str, script: str) -> str:
        """What a shell script prints that is typed into the terminal on a member's desktop."""
        home = self.home(name)
        result = home / "result"
        async with self.desktop(name) as desktop:
            status = home.stat()
            (home / "script").write_text(script)
            os.chown(home / "script", status.st_uid, status.st_gid)
            result.unlink(missing_ok=True)
            # The window manager gives the terminal its focus when both are there.
            with trio.fail_after(60):
                while not result.exists():
                    await desktop.type("sh script > output 2>&1; mv output result\n")
                    with trio.move_on_after(2):
                        while not result.exists():
                            await trio.sleep(0.1)
        return result.read_text()

    def directories(self) -> set[Path]:
        """Those of the desktops that run now."""
        return set(self.place.glob("run/deskrelay-*/*-*"))

    def targets(self, others: str, found: set[Path]) -> dict[str, Any]:
        """For `ATTACK`: what is the server's, and the desktop's of `others`, whose directories are
        `found`; every desktop's VNC socket."""
        return {
            "secrets": [SECRET, self.members[others].token],
            "command": str(self.place / "relay.toml"),
            "database": [str(path) for path in self.place.glob("state/relay.db*")],
            "settings": [str(self.place / "relay.toml")],
            "authorities": [str(path) for d in found for path in d.glob("**/authority")],
            "homes": [str(self.home(others))],
            "vnc": [str(path) for d in self.directories() for path in d.glob("**/rfb")],
            "displays": [number for d in found for number in _displays(d)],
            "port": int(self.url.rpartition(":")[2]),
            "core": str(self.place / "state"),
        }


def _displays(directory: Path) -> list[int]:
    """Of the Xvnc that has a desktop's directory in its environment."""
    found = set()
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes()
            if b"Xvnc" in command and str(directory).encode() in command:
                found |= {int(n) for n in re.findall(rb"\0:([0-9]+)\0", command)}
                inodes = {str(fd.readlink()) for fd in (process / "fd").iterdir()}
                for line in Path("/proc/net/unix").read_text().splitlines():
                    if match := re.fullmatch(r"(?:\S+ +){6}(\d+) @?/tmp/\.X11-unix/X(\d+)", line):
                        found |= {int(match[2])} if f"socket:[{match[1]}]" in inodes else set()
        except OSError:
            continue
    return sorted(found)


def python_of_others() -> tuple[str, str]:
    """A Python that another user can run too, and the PYTHONPATH with which it is like this one."""
    packages = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    if not all(_enterable(path) for path in (ROOT, packages)):
        copied = Path(tempfile.gettempdir(), "deskrelay-for-others")
        for source in (ROOT / "relay", ROOT / "api", packages):
            shutil.copytree(source, copied / source.name, dirs_exist_ok=True)
        copied.chmod(0o755)
        path = f"{copied}:{copied / packages.name}"
    else:
        path = f"{ROOT}:{packages}"
    if _enterable(Path(sys.executable)) and _enterable(Path(sys.executable).resolve()):
        return sys.executable, path
    return f"/usr/bin/python3.{sys.version_info.minor}", path


def _enterable(path: Path) -> bool:
    return all(step.stat().st_mode & 0o001 for step in (path, *path.parents))


@contextmanager
def separate_place(uid: int) -> Iterator[Path]:
    """A short path, for sockets lie below, with what a server of `uid` needs."""
    place = Path(tempfile.mkdtemp(prefix="ds-"))
    try:
        place.chmod(0o755)
        for name, mode in (("state", 0o700), ("run", 0o755), ("homes", 0o711)):
            (place / name).mkdir()
            (place / name).chmod(mode)
            os.chown(place / name, uid, uid)
        yield place
    finally:
        shutil.rmtree(place)


@asynccontextmanager
async def separate_server(
    *,
    uid: int = 0,
    run_as: str | None = None,
    path: str | None = None,
    desktop: str = "xvnc",
    names: Sequence[str] = ("alice", "bob"),
) -> AsyncIterator[Separate]:
    """A server that runs as `uid`, with the setting `run_as`, and `path` for its PATH."""
    with separate_place(uid) as place:
        members = await _members(place, desktop, names)
        for file in (place / "state").iterdir():
            os.chown(file, uid, uid)
        settings = place / "relay.toml"
        settings.touch(0o600)
        os.chown(settings, uid, uid)
        run_as_line = "" if run_as is None else f'run_as = "{run_as}"'
        settings.write_text(
            'bind = ["127.0.0.1:0"]\n'
            f'database_url = "sqlite:///{place}/state/relay.db"\n'
            f'[desktop]\nhomes_dir = "{place}/homes"\n{run_as_line}\n'
            f'password = "{SECRET}"\n'
        )
        log = place / "log"
        process = _started(place, uid, path)
        try:
            url = await trio.to_thread.run_sync(_url, process, log)
            yield Separate(place, url, process.pid, members)
            process.send_signal(signal.SIGTERM)
            assert await trio.to_thread.run_sync(process.wait, 20) == 0, log.read_text()
            assert "Traceback" not in log.read_text(), log.read_text()
        finally:
            process.kill()
            process.wait()


def _started(place: Path, uid: int, path: str | None) -> subprocess.Popen[bytes]:
    python, packages = python_of_others()
    with (place / "log").open("wb") as errors:
        return subprocess.Popen(
            [python, "-m", "api", "serve", "--config", str(place / "relay.toml")],
            env={
                "PATH": path or "/usr/local/bin:/usr/bin:/bin",
                "HOME": str(place / "state"),
                "LANG": "C.UTF-8",
                "XDG_RUNTIME_DIR": str(place / "run"),
                "PYTHONPATH": packages,
                # Settings are taken from names in any case.
                "Deskrelay_desktop__WORKSPACE_AGENT_SECRET": SECRET,
            },
            user=uid,
            group=uid,
            extra_groups=[],
            cwd=place / "state",
            stderr=errors,
        )


async def _members(place: Path, desktop: str, names: Sequence[str]) -> dict[str, Member]:
    store = await Store.open(f"sqlite:///{place}/state/relay.db")
    members = {}
    try:
        for name in names:
            user = await store.ensure_user(name)
            workspace = await store.add_workspace(user.id, "box", desktop)
            chat = await store.create_chat(user.id, workspace_id=workspace.id)
            members[name] = Member(user.id, await store.create_token(user.id), chat.id)
    finally:
        await store.aclose()
    return members


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    def found() -> str | None:
        assert process.poll() is None, log.read_text()
        match = re.search(r"serving at (\S+)", log.read_text())
        return match[1] if match else None

    return until(found, "the server serves", within_s=60)


def attacked(result: str) -> list[str]:
    """What `ATTACK` has printed."""
    (line,) = result.splitlines()
    found: list[str] = json.loads(line)
    return found
