"""``capdeploy profiles``: the hardware profiles that are shipped, and what they say."""

from __future__ import annotations

import json

import click

from capdeploy.cli._output import format_option, tell


@click.group()
def command() -> None:
    """List, show and validate hardware profiles."""


@command.command("list")
@format_option
def list_(style: str) -> None:
    """List the shipped profiles."""
    from capdeploy import profiles
    from capdeploy.report.tables import Table

    loaded = [profiles.load(name) for name in profiles.names()]
    columns = ("id", "description", "arch", "cores", "align", "threads")
    rows = tuple(
        (
            entry.id,
            entry.device.description,
            entry.device.arch,
            str(entry.device.cores or "-"),
            str(entry.device.align),
            str(entry.runtime.threads),
        )
        for entry in loaded
    )
    document = {
        "schema_version": 1,
        "profiles": [entry.model_dump(mode="json", by_alias=True) for entry in loaded],
    }
    tell(style, json.dumps(document), [Table("Profiles", columns, rows)])


@command.command()
@click.argument("name")
def show(name: str) -> None:
    """Print profile NAME (or a .toml file) with all that it inherits, as JSON."""
    from capdeploy import profiles

    click.echo(profiles.load(name).to_json().rstrip())


@command.command()
@click.argument("name")
def validate(name: str) -> None:
    """Check profile NAME (or a .toml file)."""
    from capdeploy import profiles

    click.echo(f"{profiles.load(name).id}: valid")
