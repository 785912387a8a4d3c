"""What a session of runs has come to, as tables, plots and a document."""

from bench.report.document import write
from bench.report.plots import draw
from bench.report.tables import Figure, line

__all__ = ["Figure", "draw", "line", "write"]
