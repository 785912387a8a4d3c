"""Databases for the store: SQLite in memory and in a file, and a PostgreSQL of one's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.labs.missing import missing

__all__ = ["postgresql", "url"]

_names = count(1)


def _programs() -> Path | None:
    """Where PostgreSQL's programs are: Debian keeps them off the path."""
    found = shutil.which("postgres") or max(
        map(str, Path("/usr/lib/postgresql").glob("*/bin/postgres")), default=None
    )
    return None if found is None else Path(found).parent


@contextmanager
def _cluster(programs: Path) -> Iterator[Path]:
    """A cluster on a unix socket; its directory. PostgreSQL refuses to be root."""
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    directory = Path(tempfile.mkdtemp(prefix="deskrelay-postgresql-"))
    try:
        if as_user:
            shutil.chown(directory, "postgres", "postgres")

        def run(program: str, *arguments: str) -> None:
            command = [*as_user, str(programs / program), "-D", str(directory / "data")]
            subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL)

        run("initdb", "--auth=trust", "--username=postgres", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={directory} -c fsync=off"
        run("pg_ctl", "start", "-w", "-l", str(directory / "log"), "-o", options)
        try:
            yield directory
        finally:
            run("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Path]:
    """A cluster's directory."""
    programs = _programs()
    if programs is None:
        missing("PostgreSQL is not installed (see .ci/run for the packages)")
    with _cluster(programs) as directory:
        yield directory


@pytest.fixture(params=["memory", "file", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "memory":
        return "sqlite://"
    if request.param == "file":
        return f"sqlite:///{tmp_path}/store.db"
    directory = request.getfixturevalue("postgresql")
    name = f"test{next(_names)}"
    import psycopg

    with psycopg.connect(f"host={directory} user=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://postgres@/{name}?host={directory}"
