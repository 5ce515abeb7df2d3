"""The street itself: the steps of ``capdeploy compress`` in order."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from capdeploy import __version__, bundle, gpu, heap, recipes, stages, textfile, workplace
from capdeploy.errors import OutputExistsError
from capdeploy.model import require_classes
from capdeploy.progress import Say
from capdeploy.prune import plan as planning
from capdeploy.stages import Planned, journal
from capdeploy.tracking import tracked
from capdeploy.train import head, reject
from capdeploy.values.journal import Begun
from capdeploy.values.recipe import Recipe
from capdeploy.values.report import RunReport, Skipped

REPORT = "report.json"


@heap.kept()
@gpu.exact()
def plan(recipe: Recipe, say: Say, begun: Begun | None = None) -> Planned:
    """Open, cut the head, score, and draw one plan for each ratio; ratio 0 comes first.

    Plans of a run that was begun already are taken as they are.
    """
    stages.require_latency(recipe)
    stages.wanted_precisions(recipe)
    say.step("open checkpoint and data")
    inputs = stages.open_inputs(recipe, say)
    full, narrow, images = inputs.full, inputs.narrow, inputs.samples
    if recipe.reject_class:
        reject.require(full, images)
    if begun is not None:
        journal.require_same(begun, full)
        return Planned(
            full, narrow, images, begun.plans, begun.scored_images, begun.sensitivity,
            out_of_reach=begun.out_of_reach,
        )  # fmt: skip
    say.step(f"score filters ({recipe.strategy})")
    head_cut = None if recipe.keep_head else head.cut_of(full, require_classes(full))
    ground = stages.ground(recipe, narrow, images, say, head=head_cut, full=full.geometry.cost())
    say.step("plan")
    budgets = recipe.budgets()
    whole = not budgets[0].cuts  # the head-cut network is asked for
    if not whole:
        budgets = (
            budgets[0].model_copy(update={"ratio": 0.0, "limit": None, "also": ()}),
            *budgets,
        )
    start = planning.draw(ground, budgets[0])
    draw = partial(stages.draw, recipe, full, ground, start, say=say)
    others, beyond = stages.within_reach(budgets[1:], draw, say, enough=whole)
    if recipe.steps > 1:
        say.note(f"the plan is that of a single step; each of the {recipe.steps} is scored anew")
    curves = stages.as_nouns(ground.curves, estimated=recipe.allocation != "sensitivity")
    plans = (start, *others)
    return Planned(full, narrow, images, plans, ground.scores.images, curves, ground, beyond)


def compress(
    recipe: Recipe, output: Path, say: Say, *, force: bool = False, resume: bool = False
) -> RunReport:
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
    resume : bool
        Go on where an earlier run for `output` ended before its time, if there is one.

    Returns
    -------
    RunReport
        Costs, accuracies, proofs and latencies; also written to ``report.json``.
    """
    if resume and not force and (output / REPORT).is_file():
        raise OutputExistsError(f"{output} is whole; to measure it again: capdeploy bench {output}")
    workplace.refuse_existing(output, force=force)
    workplace.refuse_losing(output, Path(recipe.checkpoint))
    workplace.require_place(output)
    if recipe.runtime and not any(each.of_latency or each.measured for each in recipe.budgets()):
        say.note(
            f"--runtime {recipe.runtime} decides nothing, as no budget is a latency or a memory; "
            "--runtimes says what is benchmarked"
        )
    with tracked(recipe, output.resolve().name, say) as say:
        left, begun = journal.find(recipe, output, say, resume=resume)
        planned = plan(recipe, say, begun)
        salvage = partial(journal.salvage, say=say)
        with workplace.open_workplace(
            output, force=force, adopt=left, salvage=salvage, scrap=journal.JOURNAL
        ) as work:
            report = _fill(recipe, planned, work, say)
        if recipe.bench:
            say.step("measure")
            report = measure(recipe, output, say)
    return report


def measure(recipe: Recipe, output: Path, say: Say) -> RunReport:
    """Measure a finished run and write what was found into its report."""
    file = output / REPORT
    report = RunReport.from_json(file.read_bytes(), source=str(file))
    report = report.model_copy(update={"benchmark": stages.bench(recipe, output, say)})
    textfile.replace(file, report.to_json())
    return report


@heap.kept()
@gpu.exact()
def _fill(recipe: Recipe, planned: Planned, work: Path, say: Say) -> RunReport:
    """Make, judge and seal every network into the run's folder."""
    made, beyond = stages.make_all(recipe, planned, work, say)
    say.step("judge on the test split")
    models = stages.seal_all(recipe, planned, made, work, say)
    report = RunReport(
        tool_version=__version__, checkpoint=planned.full.checkpoint,
        classes=require_classes(planned.full), strategy=recipe.strategy,
        scored_images=planned.scored_images, bad_images=tuple(planned.samples.bad),
        models=models, out_of_reach=beyond, sensitivity=planned.sensitivity,
        benchmark=Skipped(reason="not measured; run: capdeploy bench"),
    )  # fmt: skip
    (work / bundle.RECIPE).write_text(recipes.to_toml(recipe), encoding="utf-8")
    (work / REPORT).write_text(report.to_json(), encoding="utf-8")
    return report
