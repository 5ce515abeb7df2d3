"""``capdeploy list``: shows what can be chosen."""

from __future__ import annotations

import contextlib
import json

import click

from capdeploy.cli._output import format_option, tell

LABEL = "label in the data"
KEYS = {LABEL: "number"}
"""Of columns whose heads say more than their keys."""
SHELVES = ("strategies", "runtimes", "data", "trackers", "architectures")


@click.command()
@click.argument("shelf", metavar="SHELF", type=click.Choice([*SHELVES, "classes"]))
@click.option("--data", help="Whose classes to list, as compress takes it.")
@click.option("--split", help="Of data that has no test part, for example 80/20.")
@format_option
def command(shelf: str, data: str | None, split: str | None, style: str) -> None:
    """List a SHELF: strategies, runtimes, data, trackers, architectures; or classes (of --data)."""
    from capdeploy.report.tables import Table

    if (shelf == "classes") != (data is not None):
        raise click.UsageError(
            "list classes needs --data KIND:PATH, whose classes to list" if data is None
            else f"--data is for list classes, not for list {shelf}"
        )  # fmt: skip
    columns, rows = _rows(shelf) if data is None else _classes(data, split)
    document = {
        "schema_version": 1,
        shelf: [
            dict(zip((KEYS.get(column, column) for column in columns), row, strict=True))
            for row in rows
        ],
    }
    tables = [Table(shelf.capitalize(), columns, rows)]
    if shelf == "strategies":
        columns, rows = _strategy_options()
        document["options"] = [dict(zip(columns, row, strict=True)) for row in rows]
        tables.append(Table("Options, by --strategy-arg name=value", columns, rows))
    tell(style, json.dumps(document), tables)


def _strategy_options() -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Say what the options of each strategy do, and which values they take."""
    from capdeploy.strategies import STRATEGIES

    return ("strategy", "option", "default", "values", "what it does"), tuple(
        (
            name,
            key,
            str(option.default),
            " ".join(option.choices) or f"{option.least:g} to {option.most:g}",
            option.doc,
        )
        for name in STRATEGIES.names()
        for key, option in STRATEGIES.load(name).options.items()
    )


def _layout(kind: str) -> str:
    """Say how a kind of data lies; what is not installed says what it needs."""
    from capdeploy.data import KINDS
    from capdeploy.errors import MissingExtraError

    try:
        return KINDS.load(kind).layout
    except MissingExtraError as error:
        return str(error)


def _classes(data: str, split: str | None) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    import numpy as np

    from capdeploy import samples
    from capdeploy.data import WHOLE

    opened = samples.open_dataset(data, split=split, whole=True)
    counts = {
        name: [int(np.sum(opened.labels(name) == number)) for number in range(len(opened.names))]
        for name in opened.splits
    }
    heads = tuple("images" if name == WHOLE else name for name in counts)
    return ("class", LABEL, "also called", *heads), tuple(
        (
            name,
            str(number),
            ", ".join(opened.aliases.get(name, ())),
            *(str(count[number]) for count in counts.values()),
        )
        for number, name in enumerate(opened.names)
    )


def _rows(shelf: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    from capdeploy.catalog import EXTRAS
    from capdeploy.data import KINDS
    from capdeploy.runtimes import RUNTIMES
    from capdeploy.strategies import STRATEGIES
    from capdeploy.trackers import TRACKERS
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
        return ("name", "layout"), tuple((name, _layout(name)) for name in KINDS.names())
    if shelf == "trackers":
        return ("name", "extra"), tuple(
            (name, f"capdeploy[{EXTRAS[name]}]") for name in TRACKERS.names()
        )
    from capdeploy.errors import MissingExtraError

    known = []
    for source in SOURCES.names():
        with contextlib.suppress(MissingExtraError):  # what is not installed builds nothing
            known += [(name, source) for name in SOURCES.load(source).names()]
    if not known:
        raise MissingExtraError("torchvision", "compress")
    return ("name", "source"), tuple(known)
