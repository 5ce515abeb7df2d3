"""Choosing: scores + budget -> plan. Pure; the only place that decides what goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from capdeploy.catalog import nearest
from capdeploy.errors import ConfigError, PlanError
from capdeploy.prune import translate, widths
from capdeploy.prune.ground import Ground
from capdeploy.prune.votes import group_scores, is_scored, ranked
from capdeploy.values.budget import Budget, Limit
from capdeploy.values.group import Group
from capdeploy.values.plan import GroupCut, PruningPlan
from capdeploy.values.scores import FilterScores

WHOLE = 1e-9
"""A share of a limit that is rounding."""
FINE = 1e-3
"""How finely what to aim for is searched, a share."""


def draw(ground: Ground, budget: Budget) -> PruningPlan:
    """Draw the plan that answers a budget.

    Parameters
    ----------
    ground : Ground
        Scores, groups and costs.
    budget : Budget
        How much to remove and what to leave alone.

    Returns
    -------
    PruningPlan
        What remains of every layer, as indices into the original network.

    Raises
    ------
    ConfigError
        If a layer is to be protected and there is none of that name.
    PlanError
        If the budget asks for less but no group can give anything, or a limit cannot be met
        within its tolerance.
    """
    _require_protected(ground, budget)
    reasons = _reasons(ground, budget)

    def aimed(share: float, *, strict: bool = False) -> PruningPlan:
        keep = widths.kept(ground, _aim(budget, share), reasons, strict=strict)
        return _at(ground, budget, reasons, keep)

    found = aimed(1.0, strict=True)
    counted = [limit for limit in budget.limits if not limit.measured]
    if not counted or _meets(found, ground, budget):
        return found
    # Behind a concatenation channels are not worth the same; on the way all were counted so.
    found = _searched(found, aimed, ground, budget)
    if not _meets(found, ground, budget):
        left = {limit: _left(found, ground, limit) for limit in counted}
        binding = max(counted, key=lambda limit: left[limit] / _most(ground, limit))
        raise PlanError(
            widths.missed(budget, reasons, binding.quantity, _most(ground, binding), left[binding])
        )
    return found


def _aim(budget: Budget, share: float) -> Budget:
    """Ask for a share of what a budget's limits allow."""
    if share == 1:
        return budget
    limits = [each.model_copy(update={"most": each.most * share}) for each in budget.limits]
    return budget.model_copy(update={"limit": limits[0], "also": tuple(limits[1:])})


def _meets(plan: PruningPlan, ground: Ground, budget: Budget) -> bool:
    """Tell whether a plan is within its limits of counts, and not further below than need be.

    A network that is small enough as it is stays whole; how near a measured limit is, measuring
    tells.
    """
    over = _over(plan, ground, budget)
    loose = not plan.realised_ratio and not plan.removed
    measured = any(limit.measured for limit in budget.limits)
    near = over >= 1 - budget.tolerance - WHOLE or loose or measured
    return over <= 1 + WHOLE and near


def _searched(
    found: PruningPlan, aimed: Callable[[float], PruningPlan], ground: Ground, budget: Budget
) -> PruningPlan:
    """Find what to aim for, so that what is left comes as near below the limits as it can.

    The order of steps is the same for every aim, so the largest aim that keeps the limits is
    sought, and a tighter limit never gives a channel back.
    """
    low, high, aim, best = 0.0, math.inf, 1.0, found
    while not low or high == math.inf:
        over = _over(found, ground, budget)
        if over <= 1 + WHOLE:
            low, best = aim, found
        else:
            high = aim
        if low and high < math.inf:
            break
        least = 1 + budget.tolerance / 20
        aim /= max(over, least) if over > 1 else min(over, 1 / least)
        found = aimed(aim)
    while high / low > 1 + FINE:
        middle = math.sqrt(low * high)
        found = aimed(middle)
        if _over(found, ground, budget) <= 1 + WHOLE:
            low, best = middle, found
        else:
            high = middle
    return best


def at(ground: Ground, budget: Budget, keep: Mapping[str, int]) -> PruningPlan | None:
    """Draw the plan of some widths.

    Parameters
    ----------
    ground : Ground
        Scores, groups and costs.
    budget : Budget
        What it is drawn for.
    keep : Mapping[str, int]
        Channels that each group keeps; a group that is not named stays whole.

    Returns
    -------
    PruningPlan | None
        None if it leaves more of anything that is counted than the budget allows; what is measured
        is not looked at.
    """
    whole = {group.name: group.width for group in ground.groups}
    plan = _at(ground, budget, _reasons(ground, budget), whole | dict(keep))
    return plan if _over(plan, ground, budget) <= 1 + WHOLE else None


def _reasons(ground: Ground, budget: Budget) -> dict[str, str | None]:
    first = widths.first_convolutions(ground.geometry, budget.skip_first)
    return {group.name: _why_whole(group, ground, budget, first) for group in ground.groups}


def _at(
    ground: Ground, budget: Budget, reasons: Mapping[str, str | None], keep: Mapping[str, int]
) -> PruningPlan:
    """Cut every group to a width."""
    groups, geometry = ground.groups, ground.geometry
    cuts = tuple(_cut(group, ground.scores, keep[group.name], reasons, budget) for group in groups)
    prunable = sum(cut.unit * cut.width for cut in cuts)
    removed = prunable - sum(cut.unit * len(cut.kept) for cut in cuts)
    if budget.cuts and removed == 0 and budget.limit is None and not ground.whole:
        why = sorted({cut.whole_because or "" for cut in cuts} - {""}) or ["it has no groups"]
        raise PlanError(
            f"nothing can be cut at ratio {budget.ratio:g} with align {budget.align}: "
            f"{'; '.join(why[:3])}"
        )
    blocks = ground.removed(keep)
    remaining = geometry.without(blocks)
    layers = translate.layer_cuts(groups, cuts, remaining, ground.head)
    left = translate.widths(layers, remaining)
    cuts = tuple(
        translate.costed(group, cut, geometry, remaining, left)
        for group, cut in zip(groups, cuts, strict=True)
    )
    return PruningPlan(
        strategy=ground.scores.strategy,
        budget=budget,
        groups=cuts,
        layers=layers,
        removed=blocks,
        realised_ratio=removed / prunable if prunable else 0.0,
        full=ground.full,
        before=geometry.cost(),
        after=remaining.cost(left),
    )


def _over(plan: PruningPlan, ground: Ground, budget: Budget) -> float:
    """Say what share of the most that its limits of counts allow a plan leaves."""
    counted = [limit for limit in budget.limits if not limit.measured]
    return max((_left(plan, ground, each) / _most(ground, each) for each in counted), default=0.0)


def _most(ground: Ground, limit: Limit) -> float:
    """Say how much a limit allows."""
    whole = ground.meter(limit.quantity).whole(ground.geometry) if limit.share else 1.0
    return limit.most * whole


def _left(plan: PruningPlan, ground: Ground, limit: Limit) -> float:
    """Count what a plan leaves of what is limited."""
    remaining = ground.geometry.without(plan.removed)
    left = translate.widths(plan.layers, remaining)
    return ground.meter(limit.quantity).whole(remaining, left)


def _require_protected(ground: Ground, budget: Budget) -> None:
    """Stop if a pattern protects nothing; in later steps a layer may have gone with its block."""
    names = tuple(layer.layer for layer in ground.geometry.layers)
    for pattern in budget.protect if not ground.whole else ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"--protect {pattern} is the name of no layer; {nearest(pattern, names)}, or a "
                f"pattern such as '{pattern}*'"
            )


def _cut(
    group: Group,
    scores: FilterScores,
    kept: int,
    reasons: Mapping[str, str | None],
    budget: Budget,
) -> GroupCut:
    reason = reasons[group.name]
    even = budget.limit is None and budget.allocation == "uniform"
    if reason is None and kept == group.width and even:
        reason = f"align {budget.align} leaves nothing to remove of {group.width}"
    best, nominal = list(range(group.width)), None
    if kept < group.width:
        value = group_scores(group, scores)
        order = ranked(group, value)
        best = order[:kept]
        if scores.percentile and kept:
            nominal = _nominal(value[order[kept]], group.width)
    return GroupCut(
        group=group.name,
        members=tuple(map(str, group.members)),
        width=group.width,
        unit=group.unit,
        kept=tuple(sorted(best)),
        whole_because=reason if budget.cuts else None,
        nominal_ratio=nominal,
    )


def _nominal(highest_gone: float, width: int) -> float:
    """Say which share one image alone has to drop for a union that drops the given percentile.

    A rank percentile is (2 r + 1) / 2C for the channel that r others are below; dropping each
    image's r + 1 lowest is the least that drops it everywhere.
    """
    rank = math.floor(highest_gone * width)
    return min(1.0, (rank + 1) / width)


def _why_whole(group: Group, ground: Ground, budget: Budget, first: frozenset[str]) -> str | None:
    scores = ground.scores
    layers = {member.layer for member in group.members if member.side == "out"}
    if group.obstacle is not None:
        return group.obstacle
    if layers & first:
        return f"--skip-first {budget.skip_first}"
    for pattern in budget.protect:
        if any(fnmatchcase(layer, pattern) for layer in layers):
            return f"--protect {pattern}"
    if budget.residual == "keep" and group.residual:
        return "--residual keep: it feeds a residual add"
    if not is_scored(group, scores):
        return f"{scores.strategy} does not score it"
    if ground.curves and group.name not in ground.curves and budget.allocation != "uniform":
        return f"the allocation {budget.allocation} cannot weigh it"
    return None
