"""``capdeploy compress``: a checkpoint and a few classes in, verified and measured bundles out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capdeploy.cli import _options
from capdeploy.cli._output import Progress, format_option, tell

if TYPE_CHECKING:
    from capdeploy.values.recipe import Recipe


@click.command(context_settings={"max_content_width": 100})
@click.argument("checkpoint", required=False)
@_options.recipe_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to make.")
@_options.layer_options
@click.option("--demo", is_flag=True, help="Train ResNet-18 on embedded digits, keep four of them.")
@click.option(
    "--dry-run", is_flag=True, help="Print the plan and stop; only the cache is written to."
)
@click.option("--force", is_flag=True, help="Replace the output folder if it exists.")
@click.option("--resume", is_flag=True, help="Go on where a run for this output broke off.")
@format_option
def command(
    checkpoint: str | None,
    output: Path | None,
    config: Path | None,
    settings: tuple[str, ...],
    demo: bool,
    dry_run: bool,
    force: bool,
    resume: bool,
    style: str,
    **flags: Any,
) -> None:
    """Compress CHECKPOINT for a few classes and seal one bundle for each ratio."""
    from capdeploy import bundle, recipes, workplace

    say = Progress()
    given = _options.plain(flags) | {"checkpoint": checkpoint}
    base = None
    if demo:
        from capdeploy import demo as demonstration

        output = output or Path("capdeploy-demo")
        workplace.refuse_existing(output, force=force or dry_run)
        base = demonstration.recipe(say)
    recipe = recipes.resolve(config, os.environ, settings, given, base=base)
    if not dry_run and output is None:
        raise click.UsageError("--output is missing: name the folder to make, or use --dry-run")
    if dry_run or output is None:
        _show_plans(recipe, style, say)
        return
    from capdeploy import pipeline
    from capdeploy.bench import budgets, matrix
    from capdeploy.report import run
    from capdeploy.values.report import BenchmarkReport

    report = pipeline.compress(recipe, output, say, force=force, resume=resume)
    tell(style, report.to_json(), run.shown(report, brief=demo))
    for entry in bundle.find(output):
        bundle.require_parity(entry)
    report.require_budgets()
    if isinstance(report.benchmark, BenchmarkReport):
        matrix.conclude(report.benchmark)
        budgets.require_any(report.benchmark)


def _show_plans(recipe: Recipe, style: str, say: Progress) -> None:
    from capdeploy import pipeline
    from capdeploy.errors import BudgetError
    from capdeploy.report import plans

    asked = {budget.name for budget in recipe.budgets()}
    planned = pipeline.plan(recipe, say)
    drawn = [plan for plan in planned.plans if plan.budget.name in asked]
    document = "[" + ",".join(plan.to_json() for plan in drawn) + "]"
    tell(style, document, [plans.plan(plan) for plan in drawn])
    if planned.out_of_reach:
        raise BudgetError("; ".join(planned.out_of_reach))
