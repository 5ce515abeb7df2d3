"""How many channels each group keeps to answer a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from capdeploy.catalog import listed
from capdeploy.errors import PlanError
from capdeploy.prune import allocate
from capdeploy.prune.ground import Ground
from capdeploy.prune.ledger import Meter, Site
from capdeploy.prune.order import Room
from capdeploy.prune.votes import group_scores, normalised
from capdeploy.values.budget import Budget
from capdeploy.values.cost import NetworkGeometry
from capdeploy.values.group import Group

MEASURED = frozenset({"latency", "rss"})
CLOSE = 0.005
"""How near an estimate comes to what it aims at, a share; measuring tells the rest."""
PASSES = 8
"""Steps that are passed over for that: unaligned widths would be slow, and no nearer in time."""


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


def kept(
    ground: Ground, budget: Budget, reasons: Mapping[str, str | None], *, strict: bool = True
) -> dict[str, int]:
    """Say how many channels each group keeps; 0 if all its layers go with a removed block.

    Unless `strict`, what ends further below a limit than its tolerance is taken too.
    """
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
    limited = caps(ground, budget, free)
    measured = any(cap.meter.quantity in MEASURED for cap in limited)
    keep, left = allocate.meet(
        ground.geometry, rooms(ground, budget, free), limited,
        even=budget.allocation == "uniform", sites=_sites(ground, budget, free),
        price=price(ground, budget),
        passes=PASSES if measured else None,
    )  # fmt: skip
    # A latency or a memory is only estimated here; whether it is met, measuring tells.
    judged = [
        (cap, value) for cap, value in zip(limited, left, strict=True)
        if cap.meter.quantity not in MEASURED
    ]  # fmt: skip
    for cap, value in judged:
        if not cap.holds(value):
            raise PlanError(missed(budget, reasons, cap.meter.quantity, cap.most, value))
    # A network that is small enough as it is stays whole, however far below the limit.
    small = keep == {group.name: group.width for group in free}
    exact = strict and len(judged) == len(limited) and not small
    if exact and not any(cap.near(value) for cap, value in judged):
        cap, value = max(judged, key=lambda pair: pair[1] / pair[0].most)
        raise PlanError(missed(budget, reasons, cap.meter.quantity, cap.most, value))
    return whole | keep


def _sites(ground: Ground, budget: Budget, free: Sequence[Group]) -> Sequence[Site]:
    """List the blocks that may go; a layer that is to stay whole, or in part, keeps its own."""
    if budget.depth == "keep" or budget.floor or budget.residual == "keep":
        return ()
    first = first_convolutions(ground.geometry, budget.skip_first)
    return [
        site for site in ground.sites(free)
        if not first & set(site.block.layers)
        and not any(fnmatchcase(layer, pattern)
                    for layer in site.block.layers for pattern in budget.protect)
    ]  # fmt: skip


def first_convolutions(geometry: NetworkGeometry, count: int) -> frozenset[str]:
    """Name the first convolutions of a network, in order of execution."""
    kinds = ("conv", "depthwise")
    return frozenset([layer.layer for layer in geometry.layers if layer.kind in kinds][:count])


def rooms(ground: Ground, budget: Budget, free: Sequence[Group]) -> list[Room]:
    """Say how far groups that may shrink can, and what that harms."""
    return [
        Room(
            group, _least(group, ground, budget), align_of(group, budget), _harm(group, ground),
            ground.held.get(group.name),
        )
        for group in free
    ]  # fmt: skip


def caps(ground: Ground, budget: Budget, free: Sequence[Group]) -> list[allocate.Cap]:
    """Say what has to hold: a share of the channels, or every limit."""
    if budget.limit is None:
        # Channels of groups that cannot shrink are not asked for either.
        channels = ground.gone + sum(group.unit * ground.width_of(group) for group in free)
        # Rounded: of 80 channels a ratio of 0.8 leaves 16, and not 15.999999999999996.
        most = round(channels * (1 - (budget.ratio or 0.0)), 6)
        return [allocate.Cap(ground.meter("channels"), most, 1.0)]
    found = []
    for limit in (budget.limit, *budget.also):
        meter = ground.meter(limit.quantity)
        most = limit.most * (meter.whole(ground.geometry) if limit.share else 1.0)
        tolerance = CLOSE if limit.measured else budget.tolerance
        found.append(allocate.Cap(meter, most, tolerance))
    return found


def price(ground: Ground, budget: Budget) -> Meter | None:
    """Say what a step has to save: latency if asked, else what is limited, or what stands for it.

    MACs stand for the latency under every other allocation.
    """
    if budget.allocation == "latency":
        return ground.meter("latency")
    if budget.limit is not None and budget.limit.quantity == "latency":
        return ground.meter("macs")
    return None


def missed(
    budget: Budget, reasons: Mapping[str, str | None], unit: str, most: float, left: float
) -> str:
    """Say why a limit of so many units is missed, and what held it up."""
    if left <= most:
        return (
            f"{unit} {left:,.0f} is the nearest below the limit of {most:,.0f}, further than "
            f"{budget.tolerance:.0%}: a single channel weighs more here; raise --tolerance or ask "
            "for another limit"
        )
    blocked = [f"{name} ({reason})" for name, reason in reasons.items() if reason is not None]
    held = f"; left whole: {listed(blocked, most=4)}" if blocked else ""
    return (
        f"the budget of {most:,.0f} {unit} cannot be met: {left:,.0f} remain with every group at "
        f"its floor (align {budget.align}, floor {budget.floor:g}){held}"
    )


def _least(group: Group, ground: Ground, budget: Budget) -> int:
    """Say how many channels a group keeps in any case: a multiple of align."""
    wanted = max(1, len(group.parts()), math.ceil(ground.width_of(group) * budget.floor))
    align = align_of(group, budget)
    return min(group.width, -(-wanted // align) * align)


def align_of(group: Group, budget: Budget) -> int:
    """Say how many channels of a group make an aligned step: fewer where each stands for many."""
    return max(1, math.ceil(budget.align / group.unit))


def _harm(group: Group, ground: Ground) -> tuple[float, ...]:
    curve = ground.curves.get(group.name)
    if curve is not None:
        return curve
    scores = group_scores(group, ground.scores)
    if ground.scores.cumulative:
        return (0.0, *sorted(scores))
    return normalised(scores)
