"""The log's lines, whoever writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

SETUP = """
import logging, structlog
from api.http.logs import configure_logging
configure_logging()
ours = structlog.stdlib.get_logger("api.desktop").bind(session="x")
theirs = logging.getLogger("hypercorn.error")
"""


def lines(code: str, stderr: int | IO[bytes] = subprocess.PIPE) -> tuple[str, list[dict[str, Any]]]:
    """What the code prints, and what it logs. In a process, for logging is the process's."""
    command = [sys.executable, "-c", SETUP + code]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, check=False)
    return done.stdout.decode(), [json.loads(line) for line in (done.stderr or b"").splitlines()]


def test_ours_and_the_libraries_have_one_form() -> None:
    _, (mine, other) = lines(
        'ours.warning("hello", size="1x1")\n'
        'theirs.warning("hello %s", "you", extra={"size": "1x1"})'
    )
    assert mine.pop("session") == "x"
    assert mine.keys() == other.keys() == {"event", "logger", "level", "timestamp", "size"}
    assert (mine["logger"], mine["level"], mine["event"]) == (
        "api.desktop",
        "warning",
        "hello",
    )
    assert (other["logger"], other["level"]) == ("hypercorn.error", "warning")
    assert other["event"] == "hello you"


def test_a_bug_has_its_traceback_without_values() -> None:
    _, written = lines(
        "def broken(secret):\n"
        "    raise LookupError('a bug')\n"
        "for log in (ours, theirs):\n"
        "    try:\n"
        "        broken('hun' + 'ter2')\n"
        "    except LookupError:\n"
        "        log.exception('failed')"
    )
    assert [line["level"] for line in written] == ["error", "error"]
    for line in written:
        assert line["exception"].endswith("LookupError: a bug")
        assert "hunter2" not in str(line)


def test_a_full_disk_ends_no_session() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        printed, _ = lines('ours.info("session begins")\nprint("and goes on")', full)
    assert printed == "and goes on\n"
