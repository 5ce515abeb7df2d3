"""``capdeploy compare``: puts plans side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capdeploy.cli._output import format_option, tell

if TYPE_CHECKING:
    from capdeploy.values.plan import PruningPlan


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("others", nargs=-1, required=True, type=click.Path(path_type=Path))
@format_option
def command(first: Path, others: tuple[Path, ...], style: str) -> None:
    """Compare the plans FIRST and OTHERS: plan.json files, or bundles."""
    from capdeploy.errors import ConfigError
    from capdeploy.report import plans

    found = [_open(path) for path in (first, *others)]
    widths = {cut.group: cut.width for cut in found[0].groups}
    for path, drawn in zip((first, *others), found, strict=True):
        if {cut.group: cut.width for cut in drawn.groups} != widths:
            raise ConfigError(
                f"{path} plans another network than {first}: their groups differ; compare plans "
                "for one architecture"
            )
    named = list(zip(_names((first, *others)), found, strict=True))
    document = {
        "schema_version": 1,
        "plans": [{"name": name, "plan": json.loads(drawn.to_json())} for name, drawn in named],
    }
    tell(style, json.dumps(document), [plans.compare(named)])


def _open(path: Path) -> PruningPlan:
    from capdeploy import bundle
    from capdeploy.errors import ConfigError
    from capdeploy.values.plan import PruningPlan

    file = bundle.read(path).path(bundle.PLAN) if path.is_dir() else path
    try:
        return PruningPlan.from_json(file.read_bytes(), source=str(file))
    except OSError as error:
        raise ConfigError(f"plan {file} cannot be read: {error.strerror}") from error


def _names(paths: tuple[Path, ...]) -> list[str]:
    """Take the last part of each path that tells them apart."""
    for depth in (1, 2, 3):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{place + 1}: {path.name}" for place, path in enumerate(paths)]
