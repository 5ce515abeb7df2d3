"""Where to remove: every group's widths, as far down the order of steps as a budget needs.

A tighter budget takes more steps of one order, so it removes a superset (but for whole blocks, see
`meet`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from capdeploy.prune.ledger import Ledger, Meter, Site
from capdeploy.prune.order import Room, Step, steps
from capdeploy.values.cost import NetworkGeometry

Way = tuple[dict[str, int], list[float]]
"""What `meet` tells: channels that each group keeps, and what is left for each cap."""


@dataclass(frozen=True)
class Cap:
    """What may remain of one quantity.

    Parameters
    ----------
    meter : Meter
        Counts it.
    most : float
        No more than this.
    tolerance : float
        How far below is near enough, a share of `most`.
    """

    meter: Meter
    most: float
    tolerance: float

    def holds(self, left: float) -> bool:
        """Tell whether no more than the most is left."""
        return left <= self.most

    def near(self, left: float) -> bool:
        """Tell whether it holds, and hardly anything more had to go for it."""
        return self.most * (1 - self.tolerance) <= left <= self.most


def meet(
    geometry: NetworkGeometry,
    rooms: Sequence[Room],
    caps: Sequence[Cap],
    *,
    even: bool,
    sites: Sequence[Site] = (),
    price: Meter | None = None,
    passes: int | None = None,
    gone: Sequence[Site] = (),
) -> tuple[dict[str, int], list[float]]:
    """Follow the order of steps until every cap holds.

    Where the step that crosses the last cap goes further below it than the tolerance, that one
    group stops in between, at half of its alignment, or a quarter, as far as it takes. The order
    stays one order, so a tighter cap still never gives a channel back. A block cannot stop in
    between: where its removal would go too far, it stays, if that leads nearer; or it goes first,
    and channels after it, if that does. Then a tighter cap may give channels back. So it may with
    `passes`: a step that goes too far is passed over for smaller ones of other groups, all of them
    aligned.

    Parameters
    ----------
    geometry : NetworkGeometry
        The whole network.
    rooms : Sequence[Room]
        Groups that may shrink.
    caps : Sequence[Cap]
        What has to hold, at least one; the order of steps is made for the first.
    even : bool
        See `steps`.
    sites : Sequence[Site]
        See `steps`.
    price : Meter | None
        See `steps`; None: the first cap's.
    passes : int | None
        How many steps may be passed over; None: one stops in between instead.
    gone : Sequence[Site]
        Blocks that are not there from the beginning.

    Returns
    -------
    tuple[dict[str, int], list[float]]
        Channels that each of the groups keeps, 0 if it goes with a block, and what is left then
        for each cap; more than its most if every group is at its floor.
    """
    groups = [room.group for room in rooms]
    ledgers = [Ledger(geometry, groups, cap.meter, sites, gone) for cap in caps]
    meter, price = caps[0].meter, price or caps[0].meter
    # What saves nothing of the very thing that is limited, and alone is, would harm for nothing.
    idle = meter != price or len(caps) > 1
    taken = list(gone)
    again = partial(meet, geometry, caps=caps, even=even, price=price)
    for step in [] if all_hold(caps, [ledger.left for ledger in ledgers]) else steps(
        geometry, rooms, sites, meter, price, even=even, idle=idle, gone=gone
    ):  # fmt: skip
        after = [ledger.left - ledger.saving(step.name, step.keep) for ledger in ledgers]
        last = all_hold(caps, after)
        keep = step.keep
        room = next((room for room in rooms if room.group.name == step.name), None)
        taken += [site for site in sites if site.name == step.name]
        # What may not be wider has to go, however far below the caps that leads.
        held = room is not None and room.too_wide(ledgers[0].keep[step.name])
        if last and not held and room is not None and passes is None:
            keep = _stop(ledgers, caps, room, step.keep)
        elif last and not held and not _near(caps, after) and (room is None or passes):
            others = _without(step, rooms, ledgers[0])
            staying = [site for site in sites if site.name != step.name]
            fewer = passes and passes - (room is not None)
            ways = [partial(again, others, sites=staying, gone=gone, passes=fewer)]
            if room is None:
                ways.append(partial(again, rooms, sites=(), gone=taken, passes=passes))
            found = _nearest(caps, ways)
            if all_hold(caps, found[1]) and found[1][0] > after[0]:
                return found
        for ledger in ledgers:
            ledger.take(step.name, keep)
        if last:
            break
    return ledgers[0].keep, [ledger.left for ledger in ledgers]


def _nearest(caps: Sequence[Cap], ways: Sequence[Callable[[], Way]]) -> Way:
    """Go the ways until one ends near the caps; else take what holds and ends the nearest."""
    found: list[Way] = []
    for way in ways:
        found.append(way())
        if all_hold(caps, found[-1][1]) and _near(caps, found[-1][1]):
            return found[-1]
    return max(found, key=lambda way: (all_hold(caps, way[1]), way[1][0]))


def _without(step: Step, rooms: Sequence[Room], ledger: Ledger) -> list[Room]:
    """Let the group of a step, if it is one's, stop where it is now."""
    return [
        replace(room, least=ledger.keep[step.name]) if room.group.name == step.name else room
        for room in rooms
    ]


def all_hold(caps: Sequence[Cap], left: Sequence[float]) -> bool:
    """Tell whether no more is left of anything than its cap allows."""
    return all(cap.holds(value) for cap, value in zip(caps, left, strict=True))


def _near(caps: Sequence[Cap], left: Sequence[float]) -> bool:
    return any(cap.near(value) for cap, value in zip(caps, left, strict=True))


def _stop(ledgers: Sequence[Ledger], caps: Sequence[Cap], room: Room, keep: int) -> int:
    """Say where the last step ends: at the widest aligned width that holds, or near the caps.

    Where even that goes too far, it is a width between two aligned ones, as well aligned as can be.
    """
    name, now = room.group.name, ledgers[0].keep[room.group.name]

    def left(width: int) -> list[float]:
        return [ledger.left - ledger.saving(name, width) for ledger in ledgers]

    # A step to the next stair may span several aligned widths.
    holding = [keep, *range(keep + room.align, now, room.align)]
    keep = max(width for width in holding if width == keep or all_hold(caps, left(width)))
    if _near(caps, left(keep)):
        return keep
    align = room.align // 2
    while align >= 1:
        for width in range(keep + align, now, align):
            if all_hold(caps, left(width)) and _near(caps, left(width)):
                return width
        align //= 2
    return keep
