"""Choosing: scores + budget -> plan. Pure; the only place that decides what goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from capdeploy.errors import PlanError
from capdeploy.prune import allocate, translate
from capdeploy.prune.votes import group_scores
from capdeploy.values.cost import Cost, NetworkGeometry
from capdeploy.values.group import Group
from capdeploy.values.plan import Budget, GroupCut, LayerCut, PruningPlan
from capdeploy.values.scores import FilterScores


def width_kept(width: int, ratio: float, align: int) -> int:
    """Say how many of a group's channels remain.

    Parameters
    ----------
    width : int
        Channels of the group.
    ratio : float
        Share to drop, [0, 1).
    align : int
        The kept width is the nearest multiple of this, at least one multiple, at most `width`.

    Returns
    -------
    int
        1..width; never rises when `ratio` rises.

    Examples
    --------
    >>> width_kept(64, 0.75, 8), width_kept(64, 0.90, 8), width_kept(64, 0.0, 8)
    (16, 8, 64)
    """
    if ratio == 0:
        return width
    multiple = math.floor(width * (1 - ratio) / align + 0.5) * align
    return min(width, max(align, multiple))


@dataclass(frozen=True)
class Ground:
    """All that a plan is drawn on.

    Parameters
    ----------
    scores : FilterScores
        Every filter's score.
    groups : Sequence[Group]
        Coupled groups of the head-cut network.
    geometry : NetworkGeometry
        Of the head-cut network.
    head : LayerCut | None
        The head's own cut, with class ids in output order; None if the head stays.
    full : Cost
        Cost of the network before the head was cut.
    curves : Mapping[str, tuple[float, ...]]
        Measured harm of losing n channels, n = 0..width, by group; for the allocation
        ``sensitivity``.
    whole : Mapping[str, int]
        Width of each group before any step, if this is a later one; ratios and floors count from
        there.
    """

    scores: FilterScores
    groups: Sequence[Group]
    geometry: NetworkGeometry
    head: LayerCut | None
    full: Cost
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    whole: Mapping[str, int] = field(default_factory=dict)

    def width_of(self, group: Group) -> int:
        """Return what a group had before any step."""
        return self.whole.get(group.name, group.width)


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
    PlanError
        If the budget asks for less but no group can give anything, or a limit cannot be met
        within its tolerance.
    """
    groups, geometry = ground.groups, ground.geometry
    first = _first_convolutions(geometry, budget.skip_first)
    reasons = {group.name: _why_whole(group, ground.scores, budget, first) for group in groups}
    keep = _widths_kept(ground, budget, reasons)
    cuts = tuple(_cut(group, ground.scores, keep[group.name], reasons, budget) for group in groups)
    prunable = sum(cut.unit * cut.width for cut in cuts)
    removed = prunable - sum(cut.unit * len(cut.kept) for cut in cuts)
    if budget.cuts and removed == 0 and budget.limit is None and not ground.whole:
        why = sorted({cut.whole_because or "" for cut in cuts} - {""}) or ["it has no groups"]
        raise PlanError(
            f"nothing can be cut at ratio {budget.ratio:g} with align {budget.align}: "
            f"{'; '.join(why[:3])}"
        )
    layers = translate.layer_cuts(groups, cuts, geometry, ground.head)
    widths = translate.widths(layers, geometry, ground.head)
    cuts = tuple(
        translate.costed(group, cut, geometry, widths)
        for group, cut in zip(groups, cuts, strict=True)
    )
    return PruningPlan(
        strategy=ground.scores.strategy,
        budget=budget,
        groups=cuts,
        layers=layers,
        realised_ratio=removed / prunable if prunable else 0.0,
        full=ground.full,
        before=geometry.cost(),
        after=geometry.cost(widths),
    )


def _widths_kept(
    ground: Ground, budget: Budget, reasons: Mapping[str, str | None]
) -> dict[str, int]:
    """Say how many channels each group keeps."""
    whole = {group.name: group.width for group in ground.groups}
    if not budget.cuts:
        return whole
    free = [group for group in ground.groups if reasons[group.name] is None]
    if budget.limit is None and budget.allocation == "uniform" and budget.ratio is not None:
        wanted = {
            group.name: width_kept(ground.width_of(group), budget.ratio, align_of(group, budget))
            for group in free
        }
        return whole | {
            group.name: min(group.width, max(_least(group, ground, budget), wanted[group.name]))
            for group in free
        }
    rooms = [
        allocate.Room(
            group,
            _least(group, ground, budget),
            align_of(group, budget),
            _harm(group, ground, budget),
        )
        for group in free
    ]
    quantity = budget.limit.quantity if budget.limit is not None else "channels"
    if budget.limit is None:
        # Channels of groups that cannot shrink are not asked for either.
        channels = sum(group.unit * ground.width_of(group) for group in free)
        most, tolerance = channels * (1 - (budget.ratio or 0.0)), 1.0
    else:
        whole_cost = allocate.total(ground.geometry, budget)
        most = budget.limit.most * (whole_cost if budget.limit.share else 1.0)
        tolerance = budget.tolerance
    even = budget.allocation == "uniform"
    keep, left = allocate.meet(
        ground.geometry, rooms, quantity, most, tolerance=tolerance, even=even
    )
    if left > most or left < most * (1 - tolerance):
        raise PlanError(_missed(budget, ground, reasons, most, left))
    return whole | keep


def _missed(
    budget: Budget,
    ground: Ground,
    reasons: Mapping[str, str | None],
    most: float,
    left: float,
) -> str:
    """Say why a budget is missed, and what held it up."""
    unit = budget.limit.quantity if budget.limit is not None else "channels"
    if left <= most:
        return (
            f"{unit} {left:,.0f} is the nearest below the limit of {most:,.0f}, further than "
            f"{budget.tolerance:.0%}: a single channel weighs more here; raise --tolerance or ask "
            "for another limit"
        )
    blocked = [f"{name} ({reason})" for name, reason in reasons.items() if reason is not None]
    held = f"; left whole: {', '.join(blocked[:4])}" if blocked else ""
    more = f" and {len(blocked) - 4} more" if len(blocked) > 4 else ""
    return (
        f"the budget of {most:,.0f} {unit} cannot be met: {left:,.0f} remain with every group at "
        f"its floor (align {budget.align}, floor {budget.floor:g}){held}{more}"
    )


def _least(group: Group, ground: Ground, budget: Budget) -> int:
    """Say how many channels a group keeps in any case: a multiple of align."""
    wanted = max(1, len(group.parts()), math.ceil(ground.width_of(group) * budget.floor))
    align = align_of(group, budget)
    return min(group.width, -(-wanted // align) * align)


def align_of(group: Group, budget: Budget) -> int:
    """Say how many channels of a group make an aligned step: fewer where each stands for many."""
    return max(1, math.ceil(budget.align / group.unit))


def _harm(group: Group, ground: Ground, budget: Budget) -> tuple[float, ...]:
    measured = ground.curves.get(group.name)
    if budget.allocation == "sensitivity" and measured is not None:
        return measured
    scores = group_scores(group, ground.scores)
    if ground.scores.cumulative:
        return (0.0, *sorted(scores))
    return allocate.normalised(scores)


def _first_convolutions(geometry: NetworkGeometry, count: int) -> frozenset[str]:
    kinds = ("conv", "depthwise")
    return frozenset([layer.layer for layer in geometry.layers if layer.kind in kinds][:count])


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
        order = _ranked(group, value)
        best = order[:kept]
        if scores.percentile:
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


def _ranked(group: Group, value: Sequence[float]) -> list[int]:
    """Order the channels, the first to stay in front, so that a larger drop removes a superset.

    The best channel of each part comes first, for no layer can lose all of its own; equal scores
    are settled by position.
    """
    order = sorted(range(group.width), key=lambda channel: (-value[channel], channel))
    anchors = {next(channel for channel in order if channel in part) for part in group.parts()}
    return sorted(order, key=lambda channel: channel not in anchors)


def _nominal(highest_gone: float, width: int) -> float:
    """Say which share one image alone has to drop for a union that drops the given percentile.

    A rank percentile is (2 r + 1) / 2C for the channel that r others are below; dropping each
    image's r + 1 lowest is the least that drops it everywhere.
    """
    rank = math.floor(highest_gone * width)
    return min(1.0, (rank + 1) / width)


def _why_whole(
    group: Group, scores: FilterScores, budget: Budget, first: frozenset[str]
) -> str | None:
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
    if not any(scores.of(layer) is not None for layer in layers):
        return f"{scores.strategy} does not score it"
    return None
