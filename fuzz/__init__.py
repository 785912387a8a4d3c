"""Fuzz targets; each opens with its invariant."""
