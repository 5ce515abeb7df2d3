"""Which channels come back where a plan leaves less than it may: what the order's steps skipped.

Steps are coarse, the more so where time falls in stairs. Behind the last one that fits lies no
other network of that order, but one of another group's steps, taken back, may still fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from capdeploy.prune import plan as planning
from capdeploy.prune import widths
from capdeploy.prune.allocate import all_hold
from capdeploy.prune.ground import Ground
from capdeploy.prune.ledger import Ledger
from capdeploy.prune.order import Room
from capdeploy.values.budget import Budget
from capdeploy.values.plan import PruningPlan


def wider(
    ground: Ground, budget: Budget, plan: PruningPlan, room: float, disliked: Collection[str] = ()
) -> PruningPlan | None:
    """Give back what harms most for its price, as long as any of it fits.

    Parameters
    ----------
    ground : Ground
        What the plan was drawn on.
    budget : Budget
        What it was drawn for: a limit that is measured, and perhaps others, which are kept.
    plan : PruningPlan
        Leaves less than that; no block has gone whole in it.
    room : float
        How much may come back of what the first limit counts, in its meter's unit.
    disliked : Collection[str]
        Groups that stay as they are.

    Returns
    -------
    PruningPlan | None
        A plan that keeps all channels of the given one and more; None if nothing fits.
    """
    were = {cut.group: len(cut.kept) for cut in plan.groups if cut.whole_because is None}
    rooms = widths.rooms(ground, budget, [each for each in ground.groups if each.name in were])
    groups = [each.group for each in rooms]
    caps = widths.caps(ground, budget, groups)
    price = widths.price(ground, budget) or caps[0].meter
    prices, *ledgers = (
        Ledger(ground.geometry, groups, meter) for meter in (price, *(cap.meter for cap in caps))
    )
    for ledger in (prices, *ledgers):
        for name, keep in were.items():
            ledger.take(name, keep)
    caps[0] = replace(caps[0], most=ledgers[0].left + room)
    even = budget.allocation == "uniform"
    while True:
        offers = [
            (_worth(prices, each, stop, even=even), -place, stop)
            for place, each in enumerate(rooms) if each.group.name not in disliked
            for stop in _stops(each, prices.keep[each.group.name], ledgers[0].grain)
            if all_hold(caps, [book.left - book.saving(each.group.name, stop) for book in ledgers])
        ]  # fmt: skip
        worth, place, stop = max(offers, default=(0.0, 0, 0))
        if worth <= 0:  # what harmed nothing need not come back
            break
        for ledger in (prices, *ledgers):
            ledger.take(groups[-place].name, stop)
    return None if prices.keep == were else planning.at(ground, budget, prices.keep)


def _stops(room: Room, now: int, grain: int) -> Iterator[int]:
    """List the next wider widths of a group, aligned ones or the whole, up to the next stair."""
    width, align = room.group.width, room.align
    most = width if room.most is None else min(width, room.most)
    last = min(most, now + max(align, -(-grain // room.group.unit)))
    yield from range((now // align + 1) * align, last + 1, align)
    if now < most <= last and most == width and width % align:
        yield width


def _worth(prices: Ledger, room: Room, stop: int, *, even: bool) -> float:
    """Say what a group's channels are worth: harm undone for a unit of cost, or the share gone."""
    width, now = room.group.width, prices.keep[room.group.name]
    if even:
        return 1 - now / width
    undone = room.harm[width - now] - room.harm[width - stop]
    return undone / max(-prices.saving(room.group.name, stop), 1e-12)
