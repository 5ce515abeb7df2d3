"""The street itself: the steps of ``capdeploy compress`` in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from capdeploy import __version__, bundle, recipes, stages, workplace
from capdeploy.export import pack
from capdeploy.model import Model, require_classes
from capdeploy.progress import Say
from capdeploy.prune import plan as planning
from capdeploy.samples import Samples
from capdeploy.train import head
from capdeploy.values.plan import PruningPlan
from capdeploy.values.recipe import Recipe
from capdeploy.values.report import RunReport, Skipped

REPORT = "report.json"


@dataclass(frozen=True)
class Planned:
    """The street up to the knife: everything that a dry run shows."""

    full: Model
    narrow: Model
    samples: Samples
    plans: tuple[PruningPlan, ...]
    scored_images: int


def plan(recipe: Recipe, say: Say) -> Planned:
    """Open, cut the head, score, and draw one plan for each ratio; ratio 0 comes first."""
    stages.require_latency(recipe)
    stages.wanted_precisions(recipe)
    say.step("open checkpoint and data")
    inputs = stages.open_inputs(recipe, say)
    full, narrow, images = inputs.full, inputs.narrow, inputs.samples
    say.step(f"score filters ({recipe.strategy})")
    head_cut = None if recipe.keep_head else head.cut_of(full, require_classes(full))
    ground = stages.ground(recipe, narrow, images, say, head=head_cut, full=full.geometry.cost())
    say.step("plan")
    budgets = recipe.budgets()
    if budgets[0].cuts:
        budgets = (budgets[0].model_copy(update={"ratio": 0.0, "limit": None}), *budgets)
    start = planning.draw(ground, budgets[0])
    others = [stages.draw(recipe, full, ground, start, budget, say) for budget in budgets[1:]]
    if recipe.steps > 1:
        say.note(f"the plan is that of a single step; each of the {recipe.steps} is scored anew")
    return Planned(full, narrow, images, (start, *others), ground.scores.images)


def compress(recipe: Recipe, output: Path, say: Say, *, force: bool = False) -> RunReport:
    """Walk the whole street and leave one bundle for each ratio, the baseline among them.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    output : Path
        The run's folder; it appears when all bundles are whole.
    say : Say
        Hears of every step.
    force : bool
        Replace `output` if it exists.

    Returns
    -------
    RunReport
        Costs, accuracies, proofs and latencies; also written to ``report.json``.
    """
    workplace.refuse_existing(output, force=force)
    planned = plan(recipe, say)
    models = []
    with workplace.open_workplace(output, force=force) as work:
        networks = (planned.full, planned.narrow, planned.samples)
        start = planned.plans[0]
        made = [stages.make(recipe, *networks, start, drawn, work, say) for drawn in planned.plans]
        say.step("judge on the test split")
        test = planned.samples.open_test()
        shared = stages.before(planned.full, planned.narrow, test, recipe.batch_size)
        for result in made:
            folder, samples = work / result.name, planned.samples
            bits = stages.in_fewer_bits(recipe, result.final, samples, test, folder, say)
            trust = stages.trust(result.final, samples, test, recipe.batch_size, recipe.seed, say)
            metrics = result.metrics(shared, test, recipe.batch_size, bits)
            metrics = metrics.model_copy(update={"trust": trust})
            pack.seal(
                result.final, result.plan, metrics, test, folder,
                recipe=recipes.to_toml(recipe), baseline=result.baseline,
                check_images=recipe.bundle_images,
            )  # fmt: skip
            models.append(metrics)
        report = RunReport(
            tool_version=__version__, checkpoint=planned.full.checkpoint,
            classes=require_classes(planned.full), strategy=recipe.strategy,
            scored_images=planned.scored_images, bad_images=tuple(planned.samples.bad),
            models=tuple(models), benchmark=Skipped(reason="not measured; run: capdeploy bench"),
        )  # fmt: skip
        (work / bundle.RECIPE).write_text(recipes.to_toml(recipe))
        (work / REPORT).write_text(report.to_json())
    if recipe.bench:
        say.step("measure")
        report = report.model_copy(update={"benchmark": stages.bench(recipe, output, say)})
        stages.rewrite(output / REPORT, report.to_json())
    return report
