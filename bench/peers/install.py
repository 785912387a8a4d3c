"""The peers that no package manager of the system has, in bench/.peers."""

from __future__ import annotations

import shutil
import subprocess
import sys

from bench.places import BENCH

FOLDER = BENCH / ".peers"
WEBSOCKIFY = FOLDER / "venv" / "bin" / "websockify"
WS = FOLDER / "node" / "node_modules" / "ws"


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
