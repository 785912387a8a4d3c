"""Brings a database to this version."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

__all__ = ["migrate"]


def migrate(connection: Connection) -> None:
    """Brings the database behind `connection` to this version, in its open transaction.

    Raises alembic's CommandError where the database is of a version not known here.
    """
    config = Config()
    # Config interpolates "%", which a path may hold.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
