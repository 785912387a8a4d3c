"""Fuzz targets for every parser (fuzz/targets); each opens with its invariant.

`make fuzz SECONDS=60` runs them all; docs in fuzz/driver.py and fuzz/with_atheris.py.
"""
