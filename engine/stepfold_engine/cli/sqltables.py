"""Answers to SQL as tables for people."""

from decimal import Decimal

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from stepfold_projections.asking import Result
from stepfold_projections.output import cell_text, rows_of

WIDE = 10_000


def wide_console() -> Console:
    """Return a console that does not fold lines, unless a person looks at it."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


def print_table(console: Console, result: Result) -> None:
    """Print an answer as a table; what is wider than the console has its columns below another."""
    names: list[str] = result.arrow.column_names
    rows = rows_of(result.arrow)
    cells = [[cell_text(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    if rows and sum(widths) + 2 * len(widths) > console.width:
        _print_upright(console, names, cells)
        return
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(names):
        numeric = any(isinstance(row[i], (int, float, Decimal)) for row in rows[:50])
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        grid.add_row(*map(Text, row))
    console.print(grid)


def _print_upright(console: Console, names: list[str], cells: list[list[str]]) -> None:
    """Print a row below the other, and of each one column below the other."""
    width = max(map(len, names))
    for number, row in enumerate(cells, 1):
        console.print(f"row {number}", style="bold")
        grid = Grid(box=None, pad_edge=False, show_header=False)
        grid.add_column(width=width, style="dim")
        grid.add_column(overflow="fold")
        for name, cell in zip(names, row, strict=True):
            grid.add_row(name, Text(cell))
        console.print(grid)
