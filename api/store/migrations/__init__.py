"""Alembic migrations, run at start rather than by hand: nobody has to remember them."""
