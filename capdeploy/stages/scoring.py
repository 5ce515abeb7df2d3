"""Scores, groups and curves of a network, as the recipe asks for them."""

from __future__ import annotations

from capdeploy import score as room
from capdeploy import workplace
from capdeploy.model import Model
from capdeploy.progress import Say
from capdeploy.prune import groups, sensitivity
from capdeploy.prune.ground import Ground
from capdeploy.samples import Samples
from capdeploy.stages import latency
from capdeploy.stages.place import place_of
from capdeploy.strategies import STRATEGIES, Watch
from capdeploy.values.cost import Cost
from capdeploy.values.plan import LayerCut
from capdeploy.values.recipe import Recipe


def ground(
    recipe: Recipe, model: Model, images: Samples, say: Say, *, head: LayerCut | None, full: Cost
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

    Returns
    -------
    Ground
        Scores, groups, costs, and measured curves or layer latencies if a budget needs them.
    """
    coupled = groups.find(model)
    shown = images.train.take(recipe.score_images, seed=recipe.seed)
    contrasts = STRATEGIES.load(recipe.strategy).watch is Watch.CONSUMERS
    others = images.dropped(len(shown), seed=recipe.seed) if contrasts else None
    judged = room.Judged(model, coupled, shown, others, recipe.batch_size, recipe.seed)
    scores = room.run(recipe.strategy, judged, recipe.strategy_args, say)
    curves: sensitivity.Curves = {}
    if recipe.allocation == "sensitivity":
        few = images.train.take(recipe.sensitivity_images, seed=recipe.seed)
        curves = sensitivity.curves(
            model,
            coupled,
            scores,
            few,
            batch_size=recipe.batch_size,
            cache=workplace.cache(),
            say=say,
        )
    times = None
    if any(budget.of_latency for budget in recipe.budgets()):
        times = latency.table(
            model, coupled, place_of(recipe), align=recipe.align, cache=workplace.cache(), say=say
        )
    return Ground(scores, coupled, model.geometry, head, full, curves, latency=times)
