"""The house: which package lies on which floor, and that imports only go down.

`RELAY` and `API` are the plan. An import goes to a lower floor or stays in its own package, whether
it stands at the top of a file, in a function or under TYPE_CHECKING; modules import each other in
no circle; and every file belongs to a package that the plan names. All of api/ is above relay/, and
what relay/ may use of other people's libraries is here too.

docs/design.md begins with the same plan, as a map: `python -m tests.repository.test_layers`
prints it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.labs.places import ROOT


class Room(NamedTuple):
    floor: int
    holds: str


RELAY = {
    "relay": Room(8, "the public names (`relay.__all__`)"),
    "relay.computer": Room(7, "a language model's computer tool, on any desktop"),
    "relay.client": Room(6, "the RFB client: sees a desktop and acts on it"),
    "relay.session": Room(5, "one viewer on one desktop"),
    "relay.desktops": Room(5, "what starts, finds, watches and stops desktops: the providers"),
    "relay.pumps": Room(4, "what moves a session's bytes: legs, pumps, splice, switchboard"),
    "relay.dialling": Room(4, "reaching a desktop and logging in: addresses, passwords"),
    "relay.bridge": Room(4, "a workspace agent's bytes, from a WebSocket to its desktop"),
    "relay.net": Room(3, "bytes on sockets: WebSocket framing, TLS, streams, the kernel"),
    "relay.recordings": Room(2, "recorded sessions: the file, and what is in it"),
    "relay.errors": Room(2, "what is raised"),
    "relay.ended": Room(2, "how a session ended, as a value"),
    "relay.rfb.pixels": Room(2, "decoders, for the client alone: NumPy and Pillow"),
    "relay.rfb": Room(1, "RFB without I/O: messages, encodings, rules, handshakes"),
    "relay.keysyms": Room(1, "names and keysyms of keys"),
    "relay.controls": Room(1, "characters that steer terminals and turn text around"),
    "relay.limits": Room(1, "a session's bounds and deadlines, with their reasons"),
}
API = {
    "api": Room(12, "nothing but its packages"),
    "api.__main__": Room(11, "the command's entry point"),
    "api.cli": Room(10, "the command line: `deskrelay` and its subcommands"),
    "api.mcp": Room(9, "`deskrelay mcp`: the computer tool for MCP clients"),
    "api.workspace": Room(9, "`deskrelay agent`: the workspace agent, beside a desktop"),
    "api.run": Room(8, "one server from its start to its end"),
    "api.app": Room(7, "every route, and what stands in front of them"),
    "api.routes": Room(6, "one file for each group of routes"),
    "api.http": Room(5, "what is HTTP whatever the route: serving, take-over, auth, errors"),
    "api.services": Room(4, "what routes are given to work with"),
    "api.agents": Room(3, "chats that a language model works in"),
    "api.computer": Room(2, "the computer tool on a connection of its own"),
    "api.live": Room(2, "the sessions that are live, and how many there may be"),
    "api.store": Room(1, "what is kept in the database"),
    "api.privacy": Room(1, "the process's own memory and environment, kept from others"),
    "api.settings": Room(1, "the settings, from file and environment"),
    "api.metrics": Room(1, "what /metrics tells"),
    "api.budgets": Room(0, "what one user, desktop or address may have at once"),
}
PLAN = RELAY | API

# Of the extra `client`, and only in what `import relay` leaves alone.
PICTURES = {"numpy", "PIL"}
SEES_PIXELS = {"relay.computer", "relay.client", "relay.rfb.pixels"}
LIBRARIES = {"trio", "trio_websocket", "wsproto", "h11", "cryptography"}


def modules(root: Path) -> dict[str, Path]:
    """The modules of relay/ and api/ in a tree, by name."""
    paths = sorted(path for top in ("relay", "api") for path in (root / top).rglob("*.py"))
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def imported(path: Path) -> Iterator[str]:
    """What a file imports, wherever it does; `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(known: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which of the `known` modules each imports: b of `from a import b` may be one, or a name."""
    return {
        module: {
            found
            for name in imported(path)
            for found in [name if name in known else name.rpartition(".")[0]]
            if found in known
        }
        for module, path in known.items()
    }


def room(module: str) -> str | None:
    """The plan's name for the package that a module belongs to; `relay` and `api` hold but their
    own public names."""
    while module not in PLAN:
        module = module.rpartition(".")[0]
        if module in ("", "relay", "api"):
            return None
    return module


def problems(root: Path) -> list[str]:
    """What is wrong in a tree, a line each."""
    imports = graph(modules(root))
    found = [f"{module} is in no package of the plan" for module in imports if room(module) is None]
    for module, others in imports.items():
        for other in sorted(others):
            here, there = room(module), room(other)
            if here is None or there is None or here == there:
                continue
            if here in API and there in RELAY:
                continue
            upward = (here in RELAY and there in API) or PLAN[there].floor >= PLAN[here].floor
            if upward:
                found.append(f"{module} imports {other}, which is not below it")
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        found.append("a circle: " + " <- ".join(error.args[1]))
    return found


def test_imports_only_go_down_and_every_file_has_a_place() -> None:
    assert problems(ROOT) == []


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"relay/net/tls.py": "def f():\n    from relay.pumps.leg import UpLeg\n"},
            "relay.net.tls imports relay.pumps.leg, which is not below it",
        ),
        (
            {"relay/pumps/raw.py": "from relay.dialling import login"},
            "relay.pumps.raw imports relay.dialling.login, which is not below it",
        ),
        (
            {"relay/session.py": "import api.metrics"},
            "relay.session imports api.metrics, which is not below it",
        ),
        (
            {"relay/ended.py": "from relay import Direction"},
            "relay.ended imports relay, which is not below it",
        ),
        (
            {
                "api/store/engine.py": "from typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING:\n    from api.store.cache import Cache\n",
                "api/store/cache.py": "from api.store import engine",
            },
            "a circle: api.store.cache <- api.store.engine <- api.store.cache",
        ),
        ({"relay/rooms/new.py": ""}, "relay.rooms.new is in no package of the plan"),
        ({"api/new.py": ""}, "api.new is in no package of the plan"),
    ],
    ids=["in a function", "same floor", "relay to api", "public names", "circle", "room", "file"],
)
def test_what_the_plan_refuses(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name in ("relay/pumps/leg.py", "relay/dialling/login.py", "relay/__init__.py"):
        files.setdefault(name, "")
    files.setdefault("api/metrics.py", "")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert problems(tmp_path) == [says]


def test_every_room_of_the_plan_is_there() -> None:
    assert {room(module) for module in modules(ROOT)} == set(PLAN)


@pytest.mark.parametrize(("module", "path"), modules(ROOT).items(), ids=modules(ROOT))
def test_what_else_is_imported(module: str, path: Path) -> None:
    names = set(imported(path))
    tops = {name.partition(".")[0] for name in names}
    assert not tops & {"tests", "bench", "fuzz"}
    if room(module) in RELAY:
        allowed = set(sys.stdlib_module_names) | {"relay"}
        if not module.startswith("relay.rfb"):
            allowed |= LIBRARIES
        if room(module) in SEES_PIXELS:
            allowed |= PICTURES
        assert tops <= allowed
    if module.startswith("relay.rfb"):
        ours = {name for name in names if name.startswith("relay.")}
        assert all(name.startswith("relay.rfb.") for name in ours)


def test_the_library_brings_no_extras() -> None:
    extras = ("fastapi", "hypercorn", "sqlalchemy", "pydantic", "structlog", "numpy", "PIL", "api")
    code = f"import sys, relay; print([m for m in {extras} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def the_map() -> str:
    """The plan as two tables, one below the other."""
    lines = []
    for plan in (API, RELAY):
        lines += ["| floor | package | what it holds |", "|---|---|---|"]
        for name, (floor, holds) in plan.items():
            path = name.replace(".", "/")
            if name in ("relay", "api"):
                path += "/__init__.py"
            else:
                path += "/" if (ROOT / path).is_dir() else ".py"
            lines.append(f"| {floor} | `{path}` | {holds} |")
        lines.append("")
    return "\n".join(lines)


def test_the_design_has_the_map() -> None:
    assert the_map() in (ROOT / "docs/design.md").read_text(), "print it anew, and put it there"


if __name__ == "__main__":
    print(the_map())
