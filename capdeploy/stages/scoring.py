"""Scores, groups and curves of a network, as the recipe asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from capdeploy import __version__, gpu, heap, workplace
from capdeploy import score as room
from capdeploy.errors import StepFailedError
from capdeploy.export import filesize, pack
from capdeploy.model import Model, require_classes
from capdeploy.progress import Say
from capdeploy.prune import blocks, groups, sensitivity, votes
from capdeploy.prune.ground import Ground
from capdeploy.prune.ledger import Meter
from capdeploy.samples import Samples
from capdeploy.score import repair
from capdeploy.stages import latency
from capdeploy.stages.inputs import open_inputs
from capdeploy.stages.place import place_of
from capdeploy.strategies import STRATEGIES, Watch
from capdeploy.values.cost import Cost
from capdeploy.values.group import Group
from capdeploy.values.manifest import REJECTED
from capdeploy.values.plan import LayerCut
from capdeploy.values.recipe import Recipe
from capdeploy.values.scores import FilterScores
from capdeploy.values.sensitivity import Curve, SensitivityReport


def ground(
    recipe: Recipe,
    model: Model,
    images: Samples,
    say: Say,
    *,
    head: LayerCut | None,
    full: Cost,
    earlier: Ground | None = None,
) -> Ground:
    """Score a network and find its groups: all that plans are drawn on.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    model : Model
        The head-cut network, or what earlier steps have left of it.
    images : Samples
        Where to take images from; of dropped classes too, where a strategy contrasts.
    say : Say
        Hears what it costs.
    head : LayerCut | None
        The head's own cut.
    full : Cost
        Of the network before the head was cut.
    earlier : Ground | None
        Of an earlier step. The layers' times and what their nodes take in a file hold for the
        network that steps have left, too.

    Returns
    -------
    Ground
        Scores, groups, costs, and curves or layer latencies if a budget needs them.
    """
    coupled = groups.find(model)
    scores = judged(recipe, model, images, coupled, say)
    curves: sensitivity.Curves = {}
    if recipe.allocation == "sensitivity":
        say.step("measure sensitivity")
        curves = curves_of(recipe, model, images, coupled, scores, say)
    elif not scores.cumulative and any(budget.by_repair for budget in recipe.budgets()):
        say.step("weigh groups by what the layers behind can make up for")
        curves = repair_of(recipe, model, images, coupled, scores)
    found = Ground(
        scores, coupled, model.geometry, head, full, curves,
        blocks=blocks.find(model) if recipe.depth == "prune" else (),
    )  # fmt: skip
    if earlier is not None:
        return replace(found, latency=earlier.latency, besides=earlier.besides)
    if any(budget.of_latency for budget in recipe.budgets()):
        place, cache = place_of(recipe), workplace.cache()
        times = latency.table(model, coupled, place, align=recipe.align, cache=cache, say=say)
        found = replace(found, latency=times)
    if any(limit.quantity == "size" for budget in recipe.budgets() for limit in budget.limits):
        say.step("measure what a graph has besides its weights")
        found = replace(found, besides=_besides(recipe, model))
    return found


def _besides(recipe: Recipe, model: Model) -> float:
    """Measure what a graph has besides its weights and its layers' nodes, in bytes."""
    longest = max((str(budget) for budget in recipe.budgets()), key=len)
    facts = pack.facts_of(model, recipe.strategy, longest)
    size = filesize.file_size(model, facts, seconds=recipe.simplify_seconds)
    if recipe.reject_class:  # a row of the head that is not there yet, and its label
        row = model.module.get_submodule(model.head).get_parameter("weight")[0].numel() + 1
        size += 4 * row + 2 * len(REJECTED)
    return size - Meter("size").whole(model.geometry)


def judged(
    recipe: Recipe, model: Model, images: Samples, coupled: Sequence[Group], say: Say
) -> FilterScores:
    """Score every filter; dropped classes are shown too where a strategy contrasts."""
    contrasts = STRATEGIES.load(recipe.strategy).watch is Watch.CONSUMERS
    pool = _pool(recipe, model, images, coupled, contrasts=contrasts)
    return room.run(recipe.strategy, pool, recipe.strategy_args, say)


def curves_of(
    recipe: Recipe, model: Model, images: Samples, coupled: Sequence[Group],
    scores: FilterScores, say: Say,
) -> sensitivity.Curves:  # fmt: skip
    """Measure how the answers change as each group shrinks."""
    few = images.train.take(recipe.sensitivity_images, seed=recipe.seed)
    return sensitivity.curves(
        model, coupled, scores, few, batch_size=recipe.batch_size, cache=workplace.cache(), say=say
    )


def repair_of(
    recipe: Recipe, model: Model, images: Samples, coupled: Sequence[Group], scores: FilterScores
) -> dict[str, tuple[float, ...]]:
    """Say what the layers behind each group cannot make up for as it shrinks."""
    leaving = {
        group.name: votes.ranked(group, votes.group_scores(group, scores))[::-1]
        for group in coupled if votes.is_scored(group, scores)
    }  # fmt: skip
    return repair.curves(_pool(recipe, model, images, coupled, contrasts=True), leaving)


def _pool(
    recipe: Recipe, model: Model, images: Samples, coupled: Sequence[Group], *, contrasts: bool
) -> room.Judged:
    shown = images.train.take(recipe.score_images, seed=recipe.seed)
    others = images.dropped(len(shown), seed=recipe.seed) if contrasts else None
    return room.Judged(
        model, coupled, shown, others, recipe.batch_size, recipe.seed, recipe.reject_class
    )


def as_nouns(
    curves: Mapping[str, tuple[float, ...]], *, estimated: bool = False
) -> tuple[Curve, ...]:
    """Turn curves into what a report holds."""
    return tuple(
        Curve(group=name, width=len(harms) - 1, harms=harms, estimated=estimated)
        for name, harms in curves.items()
    )


@heap.kept()
@gpu.exact()
def sensitivity_report(recipe: Recipe, say: Say) -> SensitivityReport:
    """Shrink one group after another and measure how the answers change; nothing is trained.

    Parameters
    ----------
    recipe : Recipe
        Checkpoint, data, strategy and images.
    say : Say
        Hears of every step.

    Returns
    -------
    SensitivityReport
        Every group's curve.

    Raises
    ------
    StepFailedError
        If the network has no group that can be cut.
    """
    say.step("open checkpoint and data")
    inputs = open_inputs(recipe, say)
    model, images = inputs.narrow, inputs.samples
    say.step(f"score filters ({recipe.strategy})")
    coupled = groups.find(model)
    scores = judged(recipe, model, images, coupled, say)
    say.step("measure sensitivity")
    found = as_nouns(curves_of(recipe, model, images, coupled, scores, say))
    if not found:
        raise StepFailedError(f"{model.checkpoint.file} has no group of filters that can be cut")
    return SensitivityReport(
        tool_version=__version__, checkpoint=model.checkpoint, classes=require_classes(model),
        strategy=recipe.strategy, curves=found,
        images=len(images.train.take(recipe.sensitivity_images, seed=recipe.seed)),
    )  # fmt: skip
