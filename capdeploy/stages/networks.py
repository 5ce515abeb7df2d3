"""All networks of a run: made one after the other, then judged and sealed together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from capdeploy import __version__, recipes
from capdeploy.bundle import BASELINE
from capdeploy.export import pack
from capdeploy.model import require_classes
from capdeploy.progress import Say
from capdeploy.prune import apply
from capdeploy.stages import making, steps
from capdeploy.stages.finishing import before, trust
from capdeploy.stages.journal import Journal
from capdeploy.stages.making import Made
from capdeploy.stages.planned import Planned
from capdeploy.stages.precision import in_fewer_bits
from capdeploy.stages.reach import within_reach
from capdeploy.values.journal import Begun
from capdeploy.values.plan import PruningPlan
from capdeploy.values.recipe import Recipe
from capdeploy.values.report import Metrics


def make_all(
    recipe: Recipe, planned: Planned, work: Path, say: Say
) -> tuple[list[Made], tuple[str, ...]]:
    """Make every network, or read back what an earlier run has made; none is judged yet.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    planned : Planned
        Networks, images and plans; the plan of the head alone comes first.
    work : Path
        The run's folder.
    say : Say
        Hears of every step.

    Returns
    -------
    tuple[list[Made], tuple[str, ...]]
        One for each plan, and a line for each limit that no network meets.

    Raises
    ------
    BudgetError
        If no network meets any of the limits.
    """
    journal = Journal(work, planned.full)
    journal.begin(
        Begun(
            tool_version=__version__, checkpoint_sha256=planned.full.checkpoint.sha256,
            classes=require_classes(planned.full), recipe=recipe, plans=planned.plans,
            scored_images=planned.scored_images, sensitivity=planned.sensitivity,
            out_of_reach=planned.out_of_reach,
        )
    )  # fmt: skip

    def one(drawn: PruningPlan) -> Made:
        name = drawn.budget.name if drawn.budget.cuts else BASELINE
        kept = journal.recall(name)
        if kept is not None:
            say.note(f"{name} was finished by an earlier run")
            return kept
        made = _make(name, recipe, planned, drawn, work, say)
        if drawn.budget.cuts:  # the baseline is quickly made again
            journal.keep(made)
        return made

    baseline, *others = planned.plans
    first = one(baseline)
    made, beyond = within_reach(others, one, say, enough=not recipe.budgets()[0].cuts)
    return [first, *made], (*planned.out_of_reach, *beyond)


def _make(
    name: str, recipe: Recipe, planned: Planned, drawn: PruningPlan, work: Path, say: Say
) -> Made:
    """Cut, recover and export one network into a folder of its own."""
    cuts = drawn.budget.cuts
    if cuts and recipe.steps > 1:
        made = steps.approach(name, recipe, planned, drawn.budget, say)
    else:
        making.tell(drawn, say)
        made = Made(name, drawn, apply.cut(planned.full, drawn))
        if cuts:
            made = making.recover(made, planned.narrow, planned.samples, recipe, recipe.epochs, say)
    if recipe.reject_class:
        made = making.with_reject_output(made, planned.samples, recipe, say)
    say.step(f"export {name}")
    made = making.export(made, planned.samples.validation, work / name, recipe)
    simplified = made.exported.artifact.simplification if made.exported else None
    if simplified is not None and not simplified.applied:
        say.note(f"the graph is not simplified: {simplified.reason}")
    return made


def seal_all(
    recipe: Recipe, planned: Planned, made: Sequence[Made], work: Path, say: Say
) -> tuple[Metrics, ...]:
    """Open the test split, judge every network on it, and seal one bundle for each.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    planned : Planned
        Networks and images.
    made : Sequence[Made]
        What to judge.
    work : Path
        The run's folder, which holds a folder with a graph for each.
    say : Say
        Hears of every step.

    Returns
    -------
    tuple[Metrics, ...]
        One for each network.
    """
    samples, test = planned.samples, planned.samples.open_test()
    shared = before(planned.full, planned.narrow, test, recipe.batch_size)
    models = []
    for result in made:
        folder = work / result.name
        bits = in_fewer_bits(recipe, result.final, samples, test, folder, say)
        fitted, bits = trust(result.final, bits, samples, test, folder, recipe, say)
        metrics = result.metrics(shared, test, recipe, bits)
        metrics = metrics.model_copy(
            update={"trust": fitted, "max_bytes": _most_bytes(result, made[0])}
        )
        pack.seal(
            result.final, result.shipped, metrics, test, folder,
            recipe=recipes.to_toml(recipe), baseline=result.baseline,
            check_images=recipe.bundle_images,
        )  # fmt: skip
        models.append(metrics)
        say.measured(_numbers(metrics))
    return tuple(models)


def _most_bytes(made: Made, baseline: Made) -> int | None:
    """Say how large a graph may be; a share is of the baseline's, if it were made for this budget.

    Planning knows sizes to some bytes only.
    """
    for limit in made.plan.budget.limits:
        if limit.quantity == "size" and limit.share and baseline.exported is not None:
            told = len(str(made.plan.budget)) - len(str(baseline.plan.budget))
            return math.floor(limit.most * (baseline.exported.artifact.size_bytes + told))
        if limit.quantity == "size":
            return math.floor(limit.most)
    return None


def _numbers(metrics: Metrics) -> dict[str, float]:
    """Pick what is worth comparing between runs."""
    last = metrics.accuracy[-1]
    values = {
        "top1": last.top1, "worst_class_top1": last.worst.top1, "macs": metrics.after.macs,
        "parameters": metrics.after.parameters, "size_bytes": metrics.artifact.size_bytes,
    }  # fmt: skip
    return {f"{metrics.name}/{name}": float(value) for name, value in values.items()}
