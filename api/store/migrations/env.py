"""Alembic's entry: runs what `migrate` asks for, on the connection it hands over."""

from __future__ import annotations

from alembic import context

from api.store.schema import metadata

# Batch mode rebuilds tables where SQLite's ALTER TABLE can't do what a migration asks.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
