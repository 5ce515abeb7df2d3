"""Which channels come back where a plan leaves less than it may: what the order's steps skipped.

Steps are coarse, the more so where time falls in stairs. Behind the last one that fits lies no
other network of that order, but one of another group's steps, taken back, may still fit.
"""

from __future__ import annotations

from collections.abc import Iterator

from capdeploy.prune import widths
from capdeploy.prune.allocate import hold
from capdeploy.prune.ground import Ground
from capdeploy.prune.ledger import Ledger
from capdeploy.prune.order import NOTHING, Room
from capdeploy.values.budget import Budget
from capdeploy.values.plan import PruningPlan


def wider(ground: Ground, budget: Budget, plan: PruningPlan) -> tuple[dict[str, int], float]:
    """Give back what harms most for what it costs, as long as anything fits.

    Parameters
    ----------
    ground : Ground
        What the plan was drawn on.
    budget : Budget
        Limits that have to hold, the first one's as an absolute number.
    plan : PruningPlan
        Leaves less than that; no block has gone whole in it.

    Returns
    -------
    tuple[dict[str, int], float]
        Channels that each group keeps, nowhere fewer than in the plan, and what is left then of
        what the first limit counts.
    """
    names = {cut.group: len(cut.kept) for cut in plan.groups if cut.whole_because is None}
    rooms = widths.rooms(ground, budget, [each for each in ground.groups if each.name in names])
    caps = widths.caps(ground, budget, [room.group for room in rooms])
    even, price = budget.allocation == "uniform", widths.price(ground, budget) or caps[0].meter
    groups = [room.group for room in rooms]
    ledgers = [Ledger(ground.geometry, groups, each) for each in (price, *(c.meter for c in caps))]
    for ledger in ledgers:
        for name, keep in names.items():
            ledger.take(name, keep)
    prices, *limited = ledgers
    while True:
        offers: list[tuple[float, str, int]] = []
        for room in rooms:
            name = room.group.name
            for stop in _stops(room, prices.keep[name], limited[0].grain):
                after = [ledger.left - ledger.saving(name, stop) for ledger in limited]
                # What is said to cost nothing was not taken for that either.
                if hold(caps, after) and after[0] > limited[0].left * (1 + NOTHING):
                    offers.append((_worth(prices, room, stop, even=even), name, stop))
        if not offers:
            return prices.keep, limited[0].left
        _, name, stop = max(offers)
        for ledger in ledgers:
            ledger.take(name, stop)


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
