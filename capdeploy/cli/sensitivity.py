"""``capdeploy sensitivity``: how much each group's width matters, measured without training."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from capdeploy.cli import _options
from capdeploy.cli._output import Progress, format_option, tell


@click.command(context_settings={"max_content_width": 100})
@click.argument("checkpoint", required=False)
@_options.recipe_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="HTML page to write as well.")
@_options.layer_options
@click.option("--force", is_flag=True, help="Replace an existing file.")
@format_option
def command(
    checkpoint: str | None,
    output: Path | None,
    config: Path | None,
    settings: tuple[str, ...],
    force: bool,
    style: str,
    **flags: Any,
) -> None:
    """Shrink one group of CHECKPOINT after another and measure how the answers change.

    Takes the options of compress. Those about checkpoint, data, classes, strategy and seed count,
    and --set sensitivity_images=N: how many images are shown. Nothing is cut, trained or measured.
    """
    from capdeploy import recipes, textfile, workplace

    given = _options.plain(flags) | {"checkpoint": checkpoint}
    recipe = recipes.resolve(config, os.environ, settings, given)
    if output is not None and not force:
        workplace.refuse_existing(output, force=False)
    if output is not None:
        textfile.require_writable(output)
    from capdeploy import stages
    from capdeploy.report import html, sensitivity

    report = stages.sensitivity(recipe, Progress())
    tell(style, report.to_json(), [sensitivity.table(report)])
    if output is not None:
        words = shlex.join(["capdeploy", *sys.argv[1:]])
        page = html.render(sensitivity.page(report, words))
        textfile.write(output, page, force=force)
