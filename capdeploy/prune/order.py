"""The order in which groups give up their channels, from the whole network to every floor.

One step of one group at a time, an aligned one, or where time falls in stairs one to the next
stair. It does not depend on the budget, so a larger drop removes a superset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from capdeploy.prune.ledger import Ledger, Meter, Site
from capdeploy.values.cost import NetworkGeometry
from capdeploy.values.group import Group

NOTHING = 1e-9
"""A share of what is left that is the rounding of sums, and no saving."""


@dataclass(frozen=True)
class Room:
    """How far one group may shrink, and what that harms.

    Parameters
    ----------
    group : Group
        The group.
    least : int
        Channels it keeps in any case.
    align : int
        Kept widths are multiples of this.
    harm : tuple[float, ...]
        ``harm[n]`` is the harm done when n channels are gone, n = 0..width; it never falls.
    most : int | None
        Channels it keeps at most: the others go before anything else does. None: all.
    """

    group: Group
    least: int
    align: int
    harm: tuple[float, ...]
    most: int | None = None

    def too_wide(self, now: int) -> bool:
        """Tell whether channels have to go before anything else does."""
        return self.most is not None and now > max(self.most, self.least)


@dataclass(frozen=True)
class Step:
    """One group becomes narrower, or a block goes whole.

    Parameters
    ----------
    name : str
        Which.
    keep : int
        Channels that remain; 0 of a block.
    left : float
        What then remains of the quantity that the order was made for.
    """

    name: str
    keep: int
    left: float


def steps(
    geometry: NetworkGeometry,
    rooms: Sequence[Room],
    sites: Sequence[Site],
    meter: Meter,
    price: Meter,
    *,
    even: bool,
    idle: bool,
    gone: Sequence[Site] = (),
) -> Iterator[Step]:
    """Order the steps of all groups.

    Parameters
    ----------
    geometry : NetworkGeometry
        The whole network.
    rooms : Sequence[Room]
        Groups that may shrink.
    sites : Sequence[Site]
        Blocks that may be removed whole, which does the harm of losing all channels within.
    meter : Meter
        Counts what the budget limits.
    price : Meter
        Counts what a step has to save for the harm it does.
    even : bool
        Give up the same share of every group, instead of what harms least for what it saves.
    idle : bool
        Take steps that save nothing, last, too: something else may be limited besides.
    gone : Sequence[Site]
        Blocks that are not there from the beginning.

    Yields
    ------
    Step
        One after another.
    """
    groups = [room.group for room in rooms]
    ledger = Ledger(geometry, groups, meter, sites, gone)
    prices = ledger if meter == price else Ledger(geometry, groups, price, sites, gone)
    by_name = {room.group.name: room for room in rooms}
    going = {site.name: site for site in sites}
    touched = {name: set(ledger.touched(name)) for name in (*by_name, *going)}
    sharing = {
        name: [other for other in touched if touched[name] & touched[other]] for name in touched
    }
    offers: dict[str, tuple[float, int]] = {}
    position = {name: place for place, name in enumerate(touched)}
    changed = list(touched)
    while True:
        for name in changed:
            offers.pop(name, None)
            if name in going:
                found = _price_of_block(prices, going[name], by_name)
            else:
                found = _price(prices, by_name[name], even=even, idle=idle)
            if found is not None:
                offers[name] = found
        if not offers:
            return
        # Equal prices are settled by the order of execution.
        name = min(offers, key=lambda name: (offers[name][0], position[name]))
        keep = offers[name][1]
        for book in {id(ledger): ledger, id(prices): prices}.values():
            book.take(name, keep)
        yield Step(name, keep, ledger.left)
        changed = sharing[name]


def _price(ledger: Ledger, room: Room, *, even: bool, idle: bool) -> tuple[float, int] | None:
    """Price a group's next step: harm per unit saved, or the share that would be gone.

    Unless `idle`, a step that saves nothing is none.
    """
    name, width, now = room.group.name, room.group.width, ledger.keep[room.group.name]
    if room.most is not None and room.too_wide(now):
        return -1.0, max(room.most, room.least)
    keep = (now - 1) // room.align * room.align
    if keep < max(room.least, 1):
        return None
    if even:
        return 1 - keep / width, keep
    # Time falls in stairs: the next width may save nothing, and the one behind it a lot. The first
    # is no bargain then, not even where its channels are dead and harm nothing.
    last = max(room.least, 1, now - math.ceil(ledger.grain / room.group.unit))
    stops = [keep, *range(keep - room.align, last - 1, -room.align)]
    saved = {stop: ledger.saving(name, stop) for stop in stops}
    pays = [stop for stop in saved if saved[stop] > NOTHING * ledger.left]
    if not pays and not idle:
        return None
    price = {
        stop: (room.harm[width - stop] - room.harm[width - now]) / max(saved[stop], 1e-12)
        for stop in pays or [keep]
    }  # fmt: skip
    best = min(price, key=price.__getitem__)
    return price[best], best


def _price_of_block(
    ledger: Ledger, site: Site, rooms: Mapping[str, Room]
) -> tuple[float, int] | None:
    """Price the removal of a block: the harm of what is left in it, per unit saved."""
    left = [(rooms[name], ledger.keep[name]) for name in site.inner]
    if not any(keep for _, keep in left):
        return None
    harm = sum(room.harm[-1] - room.harm[room.group.width - keep] for room, keep in left)
    return harm / max(ledger.saving(site.name, 0), 1e-12), 0
