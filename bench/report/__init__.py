"""What a session of runs has come to, as tables and plots."""

from bench.report.plots import draw
from bench.report.tables import Figure, line, write

__all__ = ["Figure", "draw", "line", "write"]
