"""What somebody can try who has a terminal on a desktop: run there, with a file that names the
targets. Prints a line of JSON with what was had; nothing, where desktops are apart.

Standard library only, for the system's Python.
"""

import ctypes
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

TARGETS: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
SECRETS = [secret.encode() for secret in TARGETS["secrets"]]

PTRACE_ATTACH, PTRACE_DETACH = 16, 17


def has_secret(data: bytes) -> bool:
    return any(secret in data for secret in SECRETS)


def servers() -> Iterator[Path]:
    """The processes that are the server's, as far as they can be seen."""
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and TARGETS["command"] in (process / "cmdline").read_text():
                yield process
        except (OSError, UnicodeDecodeError):
            continue


def environment() -> bool:
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and has_secret((process / "environ").read_bytes()):
                return True
        except OSError:
            continue
    return False


def memory() -> bool:
    for process in servers():
        maps = (process / "maps").read_text().splitlines()
        with (process / "mem").open("rb") as mem:
            for line in maps:
                start, _, end = line.split()[0].partition("-")
                if line.split()[1].startswith("r"):
                    mem.seek(int(start, 16))
                    return bool(mem.read(int(end, 16) - int(start, 16)))
    return False


def ptrace() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    for process in servers():
        pid = int(process.name)
        if libc.ptrace(PTRACE_ATTACH, pid, None, None) == 0:
            os.waitpid(pid, 0x40000000)
            libc.ptrace(PTRACE_DETACH, pid, None, None)
            return True
    return False


def signals() -> bool:
    pids = [int(process.name) for process in servers()]
    for pid in pids:
        os.kill(pid, 0)
    return bool(pids)


def descriptors() -> bool:
    return any(list((process / "fd").iterdir()) for process in servers())


def view() -> bool:
    """The file system and the directory of the server, by way of its process."""
    return any(
        list((process / "cwd").readlink().iterdir()) and list((process / "root").iterdir())
        for process in servers()
    )


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def holds_secret(path: Path) -> bool:
    return path.is_file() and has_secret(path.read_bytes())


def reads(name: str) -> bool:
    return any(any_of(partial(read, path)) for path in TARGETS[name])


def any_of(action: Callable[[], object]) -> bool:
    try:
        return bool(action())
    except OSError:
        return False


def database() -> bool:
    return reads("database")


def database_written() -> bool:
    with Path(TARGETS["database"][0]).open("r+b"):
        return True


def settings() -> bool:
    return reads("settings")


def authority() -> bool:
    return reads("authorities")


def homes() -> bool:
    return any(any_of(partial(os.listdir, path)) for path in TARGETS["homes"])


def vnc() -> bool:
    def hello(path: str) -> bool:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(path)
            return stream.recv(12).startswith(b"RFB")

    return any(any_of(partial(hello, path)) for path in TARGETS["vnc"])


def displays() -> bool:
    """The others' screens, without a cookie and with one's own."""
    own = Path(os.environ["XAUTHORITY"]).read_bytes()[-16:] if "XAUTHORITY" in os.environ else b""
    name = b"MIT-MAGIC-COOKIE-1"
    bare = struct.pack("<BxHHHHxx", ord("l"), 11, 0, 0, 0)
    with_own = struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(own)) + name + b"\0\0" + own

    def opened(path: str, request: bytes) -> bool:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(5)
            stream.connect(path)
            stream.sendall(request)
            return stream.recv(1) == b"\1"

    return any(
        any_of(partial(opened, path, request))
        for number in TARGETS["displays"]
        for path in (f"/tmp/.X11-unix/X{number}", f"\0/tmp/.X11-unix/X{number}")
        for request in (bare, with_own)
    )


def others_display() -> bool:
    """Listens where the others' programs look for their screen."""
    for number in TARGETS["displays"]:
        with socket.socket(socket.AF_UNIX) as squat:
            squat.bind(f"\0/tmp/.X11-unix/X{number}")
            return True
    return False


def ports() -> bool:
    def asked(path: str) -> bool:
        with socket.create_connection(("127.0.0.1", TARGETS["port"]), 5) as stream:
            stream.sendall(
                f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
            )
            return stream.recv(12).split()[1:] != [b"401"]

    return any(any_of(partial(asked, path)) for path in ("/metrics", "/api/v2/chats"))


def shared() -> bool:
    """What the others have put where everybody can: files of theirs, and of the server's."""
    for place in ("/tmp", "/dev/shm", "/var/tmp", TARGETS["core"]):
        for path in Path(place).glob("*"):
            if any_of(partial(holds_secret, path)):
                return True
    return False


ATTACKS = (
    environment, memory, ptrace, signals, descriptors, view, database, database_written, settings,
    authority, homes, vnc, displays, others_display, ports, shared,
)  # fmt: skip

print(json.dumps([attack.__name__ for attack in ATTACKS if any_of(attack)]))
