"""Tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from capdeploy.report.tables import Table

WIDEST_PIPE = 200


def render(table: Table, console: Console) -> None:
    """Print a table; where the console is not a terminal it may be as wide as it needs.

    Parameters
    ----------
    table : Table
        What to print.
    console : Console
        Where to.
    """
    laid = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(table.columns):
        laid.add_column(column, justify="left" if position == 0 else "right", overflow="fold")
    for row in table.rows:
        laid.add_row(*map(Text, row))
    console.print(laid)
    for note in table.notes:
        console.print(Text(note, style="dim"))
    console.print()
