"""Tables for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from capdeploy.errors import printable
from capdeploy.report.tables import Table

WIDEST_PIPE = 200


class _Pipe(Console):
    """A console that says it when its reader has gone, instead of ending the process."""

    def on_broken_pipe(self) -> None:
        """Let the `BrokenPipeError` through."""
        raise


def show(tables: Sequence[Table]) -> None:
    """Print tables to stdout.

    Parameters
    ----------
    tables : Sequence[Table]
        What to print.

    Raises
    ------
    BrokenPipeError
        If nobody reads any more.
    """
    console = _Pipe(width=None if sys.stdout.isatty() else WIDEST_PIPE, soft_wrap=False)
    for table in tables:
        render(table, console)


def render(table: Table, console: Console) -> None:
    """Print a table; where the console is not a terminal it may be as wide as it needs.

    Parameters
    ----------
    table : Table
        What to print.
    console : Console
        Where to.
    """
    # As plain text: names of files may look like markup.
    title = _plain(table.title, "table.title")
    laid = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(table.columns):
        justify: Literal["left", "right"] = "left" if position == 0 else "right"
        laid.add_column(_plain(column), justify=justify, overflow="fold")
    for row in table.rows:
        laid.add_row(*map(_plain, row))
    console.print(laid)
    for note in table.notes:
        console.print(_plain(note, "dim"))
    console.print()


def _plain(words: str, style: str = "") -> Text:
    """Take words as they are, but for what would steer a terminal."""
    return Text(printable(words), style=style)
