#!/usr/bin/env python3
"""A STAND-IN for the portabledesktop program, over the Xvnc of this machine.

The real one is not packaged where tests run. This behaves like it where the relay looks: `up`
prints one JSON line and leaves its processes running in sessions of their own, its Xvnc listens
with -ac, without a password and on all interfaces unless told otherwise; the state file is
overwritten without a look; `down` stops by the process ids of the state file.
"""

import argparse
import contextlib
import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def default_state_file() -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return os.environ.get("PORTABLEDESKTOP_STATE_FILE") or str(
        Path(cache, "portabledesktop", "session.json")
    )


def pick_display_and_port(display: int | None, port: int | None) -> tuple[int, int]:
    if display is not None:
        return display, 5900 + display if port is None else port
    if port is not None:
        return port - 5900 if 5900 <= port <= 5999 else 1, port
    for display in range(1, 100):
        if Path(f"/tmp/.X11-unix/X{display}").exists():
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", 5900 + display))
            except OSError:
                continue
        return display, 5900 + display
    sys.exit("Error: pick display/port: no free display")


def wait_for_port(port: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    pause_s = 0.05
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 2).close()
            return True
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.5)
    return False


def detach(command: list[str], log: Path, environment: dict[str, str]) -> int:
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        ).pid


def up(options: argparse.Namespace) -> None:
    display, port = pick_display_and_port(options.display, options.port)
    session = Path(options.session_dir or tempfile.mkdtemp(prefix="portabledesktop-"))
    session.mkdir(parents=True, exist_ok=True)
    accept = int(options.desktop_size_mode == "dynamic")
    command = [
        *("Xvnc", f":{display}", "-geometry", options.geometry, "-depth", str(options.depth)),
        *("-dpi", str(options.dpi), "-rfbport", str(port), "-SecurityTypes", "None", "-ac"),
        *("-nolisten", "tcp", "-localhost", "no", f"-AcceptSetDesktopSize={accept}"),
        *("-SendPrimary=0", *options.xvnc_arg),
    ]
    xvnc = detach(command, session / "xvnc.log", dict(os.environ))
    if not wait_for_port(port, 15):
        os.kill(xvnc, signal.SIGTERM)
        sys.exit(f"Error: timed out waiting for TCP 127.0.0.1:{port} after 15s")
    openbox = None
    if shutil.which("openbox") and not options.no_openbox:
        environment = os.environ | {"DISPLAY": f":{display}"}
        openbox = detach(["openbox"], session / "openbox.log", environment)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    state = {
        "runtimeDir": str(Path(__file__).parent),
        "display": display,
        "vncPort": port,
        "geometry": options.geometry,
        "depth": options.depth,
        "dpi": options.dpi,
        "desktopSizeMode": options.desktop_size_mode,
        "sessionDir": str(session),
        "cleanupSessionDirOnStop": not options.session_dir,
        "xvncPid": xvnc,
        "openboxPid": openbox,
        "detached": True,
        "stateFile": options.state_file,
        "startedAt": now,
    }
    state_file = Path(options.state_file)
    state_file.parent.mkdir(parents=True, exist_ok=True)
    state_file.write_text(json.dumps(state, indent=2))
    state_file.chmod(0o644)
    print(json.dumps(state) if options.json else f"vnc: 127.0.0.1:{port}")


def kill(pid: int) -> None:
    deadline = time.monotonic() + 5
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)


def down(options: argparse.Namespace) -> None:
    state_file = Path(options.state_file)
    try:
        state = json.loads(state_file.read_text())
    except FileNotFoundError:
        sys.exit(f"Error: no session: {state_file}")
    for pid in (state["openboxPid"], state["xvncPid"]):
        if pid:
            kill(pid)
    if state["cleanupSessionDirOnStop"]:
        shutil.rmtree(state["sessionDir"], ignore_errors=True)
    state_file.unlink()
    print("stopped")


def main() -> None:
    parser = argparse.ArgumentParser(prog="portabledesktop", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, act in (("up", up), ("down", down)):
        command = commands.add_parser(name)
        command.set_defaults(act=act)
        command.add_argument("--state-file", default=default_state_file())
    start = commands.choices["up"]
    start.add_argument("--json", action="store_true")
    start.add_argument("--no-openbox", action="store_true")
    start.add_argument("--xvnc-arg", action="append", default=[])
    start.add_argument("--session-dir")
    start.add_argument("--display", type=int)
    start.add_argument("--port", type=int)
    start.add_argument("--geometry", default="1280x800")
    start.add_argument("--depth", type=int, default=24)
    start.add_argument("--dpi", type=int, default=96)
    start.add_argument("--desktop-size-mode", choices=("fixed", "dynamic"), default="fixed")
    options = parser.parse_args()
    options.act(options)


if __name__ == "__main__":
    main()
