"""Answers to SQL as tables for people."""

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from stepfold_projections.asking import Result
from stepfold_projections.output import cell_text, rows_of


def print_table(console: Console, result: Result) -> None:
    """Print an answer as a table."""
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    rows = rows_of(result.arrow)
    for i, name in enumerate(result.arrow.column_names):
        numeric = any(isinstance(row[i], (int, float)) for row in rows[:50])
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell_text(value)) for value in row))
    console.print(grid)
