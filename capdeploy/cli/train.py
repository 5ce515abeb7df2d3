"""``capdeploy train``: trains a network to a checkpoint that ``compress`` takes as it is."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import click

from capdeploy.cli import _options
from capdeploy.cli._output import Progress, format_option, tell


@click.command(context_settings={"max_content_width": 100})
@_options.training_options
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Its folder.")
@partial(_options.layer_options, flagless=_options.FLAGLESS_IN_TRAINING)
@click.option("--resume", is_flag=True, help="Go on where an interrupted run stood.")
@click.option("--force", is_flag=True, help="Begin anew in a folder that has such a run.")
@format_option
def command(
    output: Path,
    config: Path | None,
    settings: tuple[str, ...],
    resume: bool,
    force: bool,
    style: str,
    **flags: Any,
) -> None:
    """Train or fine-tune an architecture on a data set: best and last state, curve, accuracy."""
    from capdeploy import recipes
    from capdeploy.errors import OutputExistsError

    if resume and force:
        raise click.UsageError("--resume goes on, --force begins anew: leave one of them out")

    recipe = recipes.resolve_training(config, os.environ, settings, _options.plain(flags))
    from capdeploy import stages, workplace
    from capdeploy.report import training
    from capdeploy.tracking import tracked

    ours = (output / stages.TRAINING_RECIPE).is_file()
    if output.exists() and not workplace.is_empty(output) and not (ours and (resume or force)):
        hint = "--resume or --force" if ours else "another --output"
        raise OutputExistsError(f"{output} exists; use {hint}")
    if ours and force:
        workplace.refuse_standing(output, mounted=False)
    with tracked(recipe, output.resolve().name, Progress()) as say:
        report = stages.train(recipe, output, say, anew=force)
    tell(style, report.to_json(), training.tables(report, output))
