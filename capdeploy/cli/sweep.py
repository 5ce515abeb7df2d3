"""``capdeploy sweep``: many runs of compress beside each other."""

from __future__ import annotations

import os
from pathlib import Path

import click

from capdeploy.cli._output import Progress, format_option, tell


@click.command(context_settings={"max_content_width": 100})
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the sweep.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a recipe key.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True,
    help="Runs made at a time; measuring is always alone.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with the sweep in the output folder.")
@click.option("--dry-run", is_flag=True, help="Print the runs and stop; nothing is written.")
@format_option
def command(
    recipe: Path,
    output: Path | None,
    settings: tuple[str, ...],
    jobs: int,
    resume: bool,
    dry_run: bool,
    style: str,
) -> None:
    """Make every run of RECIPE, a recipe of compress with a table [sweep] of what varies.

    One run for each combination; all budgets of a run come from one scoring pass. What broke off
    goes on with --resume. Results: results.jsonl, sweep.json, and a folder for each run.
    """
    from capdeploy.sweep import grid

    found = grid.read(recipe, os.environ, settings)
    if not dry_run and output is None:
        raise click.UsageError("--output is missing: name the folder to make, or use --dry-run")
    from capdeploy.report import sweep as report

    if dry_run or output is None:
        import json

        runs = [{"run": cell.name, "point": dict(cell.point),
                 "budgets": [str(budget) for budget in cell.recipe.budgets()]}
                for cell in found.cells]  # fmt: skip
        tell(style, json.dumps(runs, indent=2), [report.planned(runs, found.networks)])
        return
    from capdeploy.sweep import drive

    made = drive.run(found, output, Progress(), jobs=jobs, resume=resume)
    tell(style, made.to_json(), report.tables(made))
    drive.require(made)
