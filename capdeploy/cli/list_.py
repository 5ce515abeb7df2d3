"""``capdeploy list``: shows what can be chosen."""

from __future__ import annotations

import json

import click

from capdeploy.cli._output import format_option, tell


@click.command()
@click.argument("shelf", type=click.Choice(["strategies", "runtimes", "data", "architectures"]))
@format_option
def command(shelf: str, style: str) -> None:
    """List the members of a SHELF."""
    from capdeploy.report.tables import Table

    columns, rows = _rows(shelf)
    document = {
        "schema_version": 1,
        shelf: [dict(zip(columns, row, strict=True)) for row in rows],
    }
    tell(style, json.dumps(document), [Table(shelf.capitalize(), columns, rows)])


def _rows(shelf: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    from capdeploy.data import KINDS
    from capdeploy.runtimes import RUNTIMES
    from capdeploy.strategies import STRATEGIES
    from capdeploy.zoo import SOURCES

    if shelf == "strategies":
        judged = [(name, STRATEGIES.load(name)) for name in STRATEGIES.names()]
        return ("name", "class-aware", "what it keeps", "options", "source"), tuple(
            (
                name,
                "yes" if entry.class_aware else "no",
                entry.summary,
                ", ".join(f"{key}={option.default}" for key, option in entry.options.items()),
                entry.paper,
            )
            for name, entry in judged
        )
    if shelf == "runtimes":
        return ("name", "title", "devices"), tuple(
            (name, RUNTIMES.load(name).title, ", ".join(RUNTIMES.load(name).supports))
            for name in RUNTIMES.names()
        )
    if shelf == "data":
        return ("name", "layout"), tuple((name, KINDS.load(name).layout) for name in KINDS.names())
    return ("name", "source"), tuple(
        (name, source) for source in SOURCES.names() for name in SOURCES.load(source).names()
    )
