"""What there is of the peers on this machine, which versions, and how the rest is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1]
FOLDER = BENCH / ".peers"
WEBSOCKIFY = FOLDER / "venv" / "bin" / "websockify"
WS = FOLDER / "node" / "node_modules" / "ws"


class Unavailable(Exception):
    """A peer, or a desktop, that cannot be had here; says why."""


def install() -> None:
    """Gets websockify and npm's ws, where they are missing and can be had."""
    FOLDER.mkdir(exist_ok=True)
    if not WEBSOCKIFY.exists():
        venv = str(FOLDER / "venv")
        pip = [f"{venv}/bin/python", "-m", "pip", "install", "--quiet"]
        if _attempt([sys.executable, "-m", "venv", venv]):
            _attempt([*pip, "websockify==0.13.0"])
    if not WS.exists() and shutil.which("npm"):
        _attempt(["npm", "install", "--silent", "--prefix", str(FOLDER / "node"), "ws@8"])


def _attempt(command: list[str]) -> bool:
    status = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    if status:
        print(f"bench: {' '.join(command)} failed with {status}", file=sys.stderr)
    return not status


def program(name: str) -> str:
    """Where a program is; empty if nowhere."""
    # Debian keeps servers where only root's PATH leads.
    return shutil.which(name) or shutil.which(name, path="/usr/sbin") or ""


def _said(*command: str) -> str:
    """What a program says when it is asked for its version, its first line."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return (run.stdout + run.stderr).strip().partition("\n")[0]


def ours_version() -> str:
    """Which checkout this is, for the report."""
    describe = ("git", "-C", str(BENCH), "describe", "--always", "--dirty")
    return f"this checkout, {_said(*describe)}" if shutil.which("git") else "this checkout"


def program_version(name: str, option: str) -> str:
    """What a program says of itself. Raises Unavailable where it is not installed."""
    if not (found := program(name)):
        raise Unavailable(f"{name} is not installed")
    return _said(found, option)


def node_version() -> str:
    """Of node, and of npm's ws. Raises Unavailable."""
    version = program_version("node", "--version")
    if not WS.exists():
        raise Unavailable("npm's ws is not installed (python -m bench.peers)")
    return f"{version}, ws {json.loads((WS / 'package.json').read_text())['version']}"


def websockify_version() -> str:
    """Of websockify, and of what it computes with. Raises Unavailable."""
    if not WEBSOCKIFY.exists():
        raise Unavailable("websockify is not installed (python -m bench.peers)")
    ask = "from importlib.metadata import version as v; print(v('websockify'), 'numpy', v('numpy'))"
    return _said(str(WEBSOCKIFY.with_name("python")), "-c", ask)
