"""``capdeploy profiles``: the hardware profiles that are shipped, and what they say."""

from __future__ import annotations

import json

import click

from capdeploy.cli import _profiles
from capdeploy.cli._output import format_option, line, tell


@click.group()
def command() -> None:
    """List, show, write, check and tune hardware profiles."""


for _verb in (_profiles.new, _profiles.detect, _profiles.tune):
    command.add_command(_verb)


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

    line(profiles.load(name).to_json().rstrip())


@command.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def validate(files: tuple[str, ...]) -> None:
    """Check each FILE (or name of a shipped profile); one line for every fault."""
    from capdeploy.bench import drafts
    from capdeploy.errors import ConfigError

    found = {name: drafts.check(name) for name in files}
    for name, faults in found.items():
        for fault in faults or ("valid",):
            line(f"{name}: {fault}")
    wrong = sum(map(bool, found.values()))
    if wrong:
        raise ConfigError(f"{wrong} of {len(found)} profile(s) not valid; see the lines above")
