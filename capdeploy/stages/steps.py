"""Approaches a budget in steps, each scored on what the last one left."""

from __future__ import annotations

from dataclasses import replace

from capdeploy import workplace
from capdeploy.errors import BudgetError, PlanError
from capdeploy.progress import Say
from capdeploy.prune import apply
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.stages import making, scoring, search
from capdeploy.stages.making import Made
from capdeploy.stages.place import to_measure
from capdeploy.stages.planned import Planned
from capdeploy.values.budget import Budget
from capdeploy.values.plan import PruningPlan
from capdeploy.values.recipe import Recipe

ENOUGH = 256
"""Images that re-solve a network which is only looked at on the way."""


def approach(name: str, recipe: Recipe, planned: Planned, budget: Budget, say: Say) -> Made:
    """Cut to a budget in steps, with scoring and recovery in between.

    Yeom et al., Pattern Recognition 115, 2021, prune 5 % of the filters a step; here each step
    keeps the same share of what is left. Training epochs are dealt out evenly, the rest last.
    Without any, what lies in between serves the choice alone: the intact network is cut at the
    end. A latency is measured in the last step; earlier ones go by the layers' times.

    Parameters
    ----------
    name : str
        Of the bundle.
    recipe : Recipe
        What to do, and in how many steps.
    planned : Planned
        Networks, images, and the ground of the first step.
    budget : Budget
        What is to be met at the end.
    say : Say
        Hears of every step.

    Returns
    -------
    Made
        The recovered network, with a plan into the original one.

    Raises
    ------
    PlanError
        If a step cannot be planned.
    BudgetError
        If a latency is out of reach.
    """
    teacher, images, steps = planned.narrow, planned.samples, recipe.steps
    plan, model, full = planned.plans[0], teacher, planned.full.geometry.cost()
    made = Made(name, plan, model)
    few = min(ENOUGH, recipe.reconstruct_images)
    glance = recipe.model_copy(update={"reconstruct_images": few})
    ground = planned.ground or scoring.ground(recipe, teacher, images, say, head=None, full=full)
    has = ground.meter(budget.limit.quantity).whole(teacher.geometry) if budget.limit else 0.0
    aim = search.as_share(recipe, teacher, ground, budget, say)
    for step in range(1, steps + 1):
        last, trained = step == steps, recipe.epochs > 0
        say.step(f"step {step} of {steps} of {name}")
        if step > 1:
            ground = scoring.ground(
                recipe, model, images, say, head=None, full=full, earlier=ground
            )
        ground = _counted(ground, plan)
        if last and budget.measured:
            cache, place = workplace.cache(), to_measure(recipe, budget, say)
            further = search.meet(model, ground, teacher, budget, place, cache=cache, say=say)
        else:
            further = _drawn(ground, aim.part(step, steps, has), name)
        plan = plan.then(further).model_copy(update={"budget": budget})
        if last:
            making.tell(plan, say)
        fresh = last and not trained
        cut = apply.cut(planned.full, plan) if fresh else apply.cut(model, further)
        epochs = recipe.epochs // steps + (recipe.epochs % steps if last else 0)
        asked = recipe if last or trained else glance
        stage = Made.cut_stage if fresh or not trained else f"cut in step {step} of {steps}"
        earlier = (*made.earlier, *([made.training] if made.training else []))
        made = making.recover(
            Made(name, plan, cut, cut_stage=stage, earlier=earlier),
            teacher, images, asked, epochs, say,
        )  # fmt: skip
        model = made.final
    return made


def _counted(ground: Ground, plan: PruningPlan) -> Ground:
    """Let ratios and floors count from what the groups had before any step."""
    whole = {cut.group: cut.width for cut in plan.groups}
    left = {cut.group: len(cut.kept) for cut in plan.groups}
    # A depthwise layer of one channel is a group of its own now, with nothing to give; and the
    # last group of a grouped convolution has become one of single channels.
    there = [group for group in ground.groups if left.get(group.name) == group.width]
    names = {group.name for group in there}
    gone = sum(cut.unit * cut.width for cut in plan.groups if cut.group not in names)
    # The head is cut already.
    return replace(ground, groups=there, whole=whole, gone=gone, head=None)


def _drawn(ground: Ground, budget: Budget, name: str) -> PruningPlan:
    """Draw a step's plan; one that cannot be does not cost what the other budgets have."""
    try:
        return planning.draw(ground, budget)
    except PlanError as error:
        raise BudgetError(f"{name}: {error}") from error
