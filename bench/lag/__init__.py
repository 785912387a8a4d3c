"""Measures lag behind a slow link: `python -m bench.lag`."""
