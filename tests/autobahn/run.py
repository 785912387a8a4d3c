"""Runs Autobahn|Testsuite against the relay's WebSocket layer: `make autobahn`.

The suite is Python 2.7; its packages go into a folder of the user's cache. Exits with 1 for a case
that failed, and with EX_UNAVAILABLE where there is no Python 2.7.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import trio

from tests.autobahn.echo import serve_echo

_SUITE = "autobahntestsuite==25.10.1"
_VIRTUALENV = "virtualenv==20.4.7"
"""The last that makes environments for Python 2.7."""

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deskrelay-autobahn"

_GROUPS = ("1", "2", "3", "4", "5", "6", "7", "9", "10")
"""12 and 13 are compression, which the relay never negotiates; 8 and 11 are empty."""
_CASES = 301
"""In those groups, so that a run that broke off does not pass."""

_PASSED = ("OK", "INFORMATIONAL")
_MAY_BE_NON_STRICT = ("3.2", "4.2.3", "4.2.4", "5.15")
"""An echo that is not sent any more once the fault behind it was seen."""

_TIMEOUT_S = 900
"""For the whole suite, which takes about 20 s."""

_COLUMNS = ("OK", "INFORMATIONAL", "NON-STRICT", "other")


def find_python27() -> str | None:
    """A Python 2.7 that runs: on the path, or one of pyenv's."""
    candidates = ["python2.7"]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True)
        versions = Path(root.stdout.strip(), "versions")
        candidates += map(str, sorted(versions.glob("2.7.*/bin/python")))
    for python in candidates:
        # pyenv's shim is on the path even where it leads nowhere.
        if (
            shutil.which(python)
            and not subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode
        ):
            return python
    return None


def install(python: str) -> Path:
    """Makes the environment, unless a run before did; returns its `wstest`."""
    folder = _CACHE / _SUITE
    done = folder / ".done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        # Twice quiet: errors are printed, and no warning that Python 2.7 has had its day.
        pip = ("-m", "pip", "install", "-qq", "--disable-pip-version-check")
        tool = folder / "virtualenv"
        subprocess.run([python, *pip, "--target", tool, _VIRTUALENV], check=True)
        paths = os.environ | {"PYTHONPATH": str(tool)}
        venv = ("-m", "virtualenv", "--quiet", folder / "venv")
        subprocess.run([python, *venv], check=True, env=paths)
        subprocess.run([folder / "venv/bin/python", *pip, _SUITE], check=True)
        done.touch()
    return folder / "venv/bin/wstest"


async def fuzz(wstest: Path, reports: Path) -> None:
    """Lets the suite loose on an echo server; it writes into the folder `reports`."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, serve_echo, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port = listener.socket.getsockname()[1]
        specification = {
            "outdir": str(reports),
            "servers": [{"agent": "deskrelay", "url": f"ws://127.0.0.1:{port}"}],
            "cases": [f"{group}.*" for group in _GROUPS],
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        file = reports / "fuzzingclient.json"
        file.write_text(json.dumps(specification))
        command = [str(wstest), "-m", "fuzzingclient", "-s", str(file)]
        with (reports / "wstest.log").open("wb") as log:
            with trio.fail_after(_TIMEOUT_S):
                await trio.run_process(command, stdout=log, stderr=log)
        nursery.cancel_scope.cancel()


def judge(results: dict[str, dict[str, object]]) -> bool:
    """Prints a table and every case out of the ordinary; true where none is a failure."""
    table = {group: Counter[str]() for group in _GROUPS}
    failed = []
    for case, result in results.items():
        behavior, closing = str(result["behavior"]), str(result["behaviorClose"])
        table[case.partition(".")[0]][behavior if behavior in _COLUMNS else "other"] += 1
        allowed = behavior in _PASSED or (behavior == "NON-STRICT" and case in _MAY_BE_NON_STRICT)
        if not allowed or closing not in _PASSED:
            failed.append(case)
        if behavior != "OK" or closing != "OK":
            print(f"{case}: {behavior}, closing {closing}, code {result['remoteCloseCode']}")
    print(f"{'group':<6}" + "".join(f"{column:>15}" for column in _COLUMNS))
    for group, counts in table.items():
        print(f"{group:<6}" + "".join(f"{counts[column]:>15}" for column in _COLUMNS))
    if len(results) != _CASES:
        print(f"{len(results)} cases were run where there are {_CASES}")
    if failed:
        print("failed:", *failed)
    return not failed and len(results) == _CASES


def main() -> int:
    python = find_python27()
    if python is None:
        print("Autobahn|Testsuite needs a Python 2.7: pyenv install 2.7.18", file=sys.stderr)
        return os.EX_UNAVAILABLE
    reports = _CACHE / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    trio.run(fuzz, install(python), reports)
    passed = judge(json.loads((reports / "index.json").read_text())["deskrelay"])
    print(f"details: {reports}/index.html")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
