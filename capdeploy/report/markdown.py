"""Tables for a pull request or a README."""

from __future__ import annotations

from capdeploy.errors import printable
from capdeploy.report.tables import Table


def render(table: Table) -> str:
    r"""Write a table in GitHub's Markdown.

    Parameters
    ----------
    table : Table
        What to write.

    Returns
    -------
    str
        Heading, table and notes.

    Examples
    --------
    >>> print(render(Table("T", ("a", "b"), (("x|y", "1"),))))
    ### T
    <BLANKLINE>
    | a | b |
    | :-- | --: |
    | x\|y | 1 |
    <BLANKLINE>
    """
    rules = [":--"] + ["--:"] * (len(table.columns) - 1)
    lines = [f"### {printable(table.title)}", "", _line(table.columns), _line(tuple(rules))]
    lines += [_line(row) for row in table.rows]
    lines += ["", *(f"- {printable(note)}" for note in table.notes)]
    return "\n".join(lines)


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |"
