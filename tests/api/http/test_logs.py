"""The log's lines, whoever writes them."""

from __future__ import annotations

import json
import os
import pty
import re
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


STEERING = r"""
said = "1.2.3.4\x1b[2J\x9b\x7f\u202e\u2028\nfake line"
ours.info("request", client=said)
theirs.warning("of %s", said, extra={"client": said})
for log in (ours, theirs):
    try:
        raise LookupError(said)
    except LookupError:
        log.exception("failed")
"""


def test_what_others_say_steers_no_terminal_and_ends_no_line() -> None:
    _, written = lines(STEERING)
    shown = r"1.2.3.4\x1b[2J\x9b\x7f\u202e\u2028\nfake line"
    assert [line.get("client") for line in written] == [shown, shown, None, None]
    assert written[1]["event"] == f"of {shown}"
    ours, terminal = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        with os.fdopen(terminal, "wb", buffering=0) as stderr:
            lines(STEERING, stderr)
        text = b""
        try:
            while part := screen.read(65_536):
                text += part
        except OSError:
            pass  # As a terminal's other end ends.
    # Colours are the renderer's own.
    read = re.sub(r"\x1b\[[0-9;]*m", "", text.decode())
    assert read.replace("\r\n", "").isprintable()
    # Values with a space are shown as Python writes them.
    assert read.replace(r"\\", "\\").count(r"\x1b[2J\x9b\x7f\u202e\u2028") == 5
