"""Choosing: scores + budget -> plan. Pure; the only place that decides what goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from capdeploy.errors import PlanError
from capdeploy.prune.groups import Group, Member
from capdeploy.values.cost import Cost, NetworkGeometry
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


def draw(
    scores: FilterScores,
    groups: Sequence[Group],
    budget: Budget,
    geometry: NetworkGeometry,
    *,
    head: LayerCut | None,
    full: Cost,
) -> PruningPlan:
    """Draw the plan that answers a budget.

    Parameters
    ----------
    scores : FilterScores
        Every filter's score.
    groups : Sequence[Group]
        Coupled groups of the head-cut network.
    budget : Budget
        How much to remove and what to leave alone.
    geometry : NetworkGeometry
        Of the head-cut network.
    head : LayerCut | None
        The head's own cut, with class ids in output order; None if the head stays.
    full : Cost
        Cost of the network before the head was cut.

    Returns
    -------
    PruningPlan
        What remains of every layer, as indices into the original network.

    Raises
    ------
    PlanError
        If the budget asks for less but no group can give anything.
    """
    first = _first_convolutions(geometry, budget.skip_first)
    cuts = tuple(_cut(group, scores, budget, first) for group in groups)
    prunable = sum(cut.width for cut in cuts)
    removed = prunable - sum(len(cut.kept) for cut in cuts)
    if budget.ratio > 0 and removed == 0:
        reasons = sorted({cut.whole_because or "" for cut in cuts}) or ["it has no groups"]
        raise PlanError(
            f"nothing can be cut at ratio {budget.ratio:g} with align {budget.align}: "
            f"{'; '.join(reasons[:3])}"
        )
    layers = _layer_cuts(groups, cuts, geometry, head)
    return PruningPlan(
        strategy=scores.strategy,
        budget=budget,
        groups=cuts,
        layers=layers,
        realised_ratio=removed / prunable if prunable else 0.0,
        full=full,
        before=geometry.cost(),
        after=geometry.cost(_widths(layers, geometry, head)),
    )


def _first_convolutions(geometry: NetworkGeometry, count: int) -> frozenset[str]:
    kinds = ("conv", "depthwise")
    return frozenset([layer.layer for layer in geometry.layers if layer.kind in kinds][:count])


def _cut(group: Group, scores: FilterScores, budget: Budget, first: frozenset[str]) -> GroupCut:
    kept = width_kept(group.width, budget.ratio, budget.align)
    reason = _why_whole(group, budget, first)
    if reason is None and budget.ratio > 0 and kept == group.width:
        reason = f"align {budget.align} leaves nothing to remove of {group.width}"
    if reason is not None:
        kept = group.width
    value = group_scores(group, scores)
    # Equal scores are settled by position, so a larger drop removes a superset.
    best = sorted(range(group.width), key=lambda channel: (-value[channel], channel))[:kept]
    return GroupCut(
        group=group.name,
        members=tuple(map(str, group.members)),
        width=group.width,
        kept=tuple(sorted(best)),
        whole_because=reason if budget.ratio > 0 else None,
    )


def _why_whole(group: Group, budget: Budget, first: frozenset[str]) -> str | None:
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
    return None


def group_scores(group: Group, scores: FilterScores) -> list[float]:
    """Combine the scores of a group's coupled layers into one score per channel.

    For ``mean``, each layer is brought to a mean magnitude of 1 first, so that no layer outvotes
    the others by its scale. For ``max``, the scores must be comparable as they are, as ranks are.

    Parameters
    ----------
    group : Group
        The coupled layers.
    scores : FilterScores
        Every filter's score.

    Returns
    -------
    list[float]
        One score per channel of the group; higher = keep.

    Raises
    ------
    PlanError
        If no layer of the group is scored.
    """
    votes = []
    for member in group.members:
        values = scores.of(member.layer) if member.side == "out" else None
        if values is not None:
            votes.append(_votes(member, values, scores.across))
    if not votes:
        raise PlanError(f"no layer of group {group.name} is scored")
    if scores.across == "max":
        return [max(channel) for channel in zip(*votes, strict=True)]
    return [sum(channel) / len(votes) for channel in zip(*votes, strict=True)]


def _votes(member: Member, values: tuple[float, ...], across: str) -> list[float]:
    size = sum(map(abs, values)) / len(values) or 1.0
    scale = 1.0 if across == "max" else size
    return [
        sum(values[position] for position in positions) / (scale * max(1, len(positions)))
        for positions in member.positions
    ]


def _layer_cuts(
    groups: Sequence[Group],
    cuts: Sequence[GroupCut],
    geometry: NetworkGeometry,
    head: LayerCut | None,
) -> tuple[LayerCut, ...]:
    removed: dict[str, dict[str, set[int]]] = {}
    for group, cut in zip(groups, cuts, strict=True):
        gone = set(range(cut.width)) - set(cut.kept)
        for member in group.members if gone else ():
            sides = removed.setdefault(member.layer, {"out": set(), "in": set()})
            sides[member.side].update(
                position for channel in gone for position in member.positions[channel]
            )
    result = []
    for layer in geometry.layers:
        sides = removed.get(layer.layer, {"out": set(), "in": set()})
        kept_out = _kept(layer.out_channels, sides["out"])
        kept_in = _kept(layer.in_channels, sides["in"])
        if head is not None and layer.layer == head.layer:
            kept_out = head.kept_out
        if kept_out is not None or kept_in is not None:
            result.append(LayerCut(layer=layer.layer, kept_out=kept_out, kept_in=kept_in))
    return tuple(result)


def _kept(width: int, gone: set[int]) -> tuple[int, ...] | None:
    return tuple(index for index in range(width) if index not in gone) if gone else None


def _widths(
    layers: Sequence[LayerCut], geometry: NetworkGeometry, head: LayerCut | None
) -> dict[str, tuple[int, int]]:
    shapes = {layer.layer: layer for layer in geometry.layers}
    widths = {}
    for cut in layers:
        shape = shapes[cut.layer]
        out = shape.out_channels if cut.kept_out is None else len(cut.kept_out)
        into = shape.in_channels if cut.kept_in is None else len(cut.kept_in)
        widths[cut.layer] = (out, out if shape.kind == "depthwise" else into)
    return widths
