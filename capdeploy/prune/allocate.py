"""Where to remove: every group's widths in the order in which they are given up.

The order is drawn up once, from the whole network down to every group's floor, one aligned step of
one group at a time. A budget takes as many steps as it needs, so a larger drop removes a superset
(but for whole blocks, see `meet`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from capdeploy.prune.ledger import Ledger, Meter, Site
from capdeploy.values.cost import NetworkGeometry
from capdeploy.values.group import Group


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

    Yields
    ------
    Step
        One after another.
    """
    groups = [room.group for room in rooms]
    ledger = Ledger(geometry, groups, meter, sites)
    prices = ledger if meter == price else Ledger(geometry, groups, price, sites)
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
                found = _price(prices, by_name[name], even=even)
            # What saves nothing of the very thing that is limited would harm for nothing.
            idle = not even and prices is ledger and found is not None and found[0] >= 0
            if found is not None and not (idle and not ledger.saves(name, found[1])):
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


def _price(ledger: Ledger, room: Room, *, even: bool) -> tuple[float, int] | None:
    """Price a group's next step: harm per unit saved, or the share that would be gone."""
    name, width, now = room.group.name, room.group.width, ledger.keep[room.group.name]
    if room.most is not None and room.too_wide(now):
        return -1.0, max(room.most, room.least)
    keep = (now - 1) // room.align * room.align
    if keep < max(room.least, 1):
        return None
    if even:
        return 1 - keep / width, keep
    # Time falls in stairs: the next width may save nothing, and the one behind it a lot.
    last = max(room.least, 1, now - ledger.grain)
    stops = [keep, *range(keep - room.align, last - 1, -room.align)]
    # One that saves nothing is no bargain, not even where its channels are dead and harm nothing.
    price = {
        stop: (room.harm[width - stop] - room.harm[width - now]) / ledger.saving(name, stop)
        for stop in stops if ledger.saves(name, stop)
    }  # fmt: skip
    if not price:
        return (room.harm[width - keep] - room.harm[width - now]) / 1e-12, keep
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
) -> tuple[dict[str, int], list[float]]:
    """Follow the order of steps until every cap holds.

    Where the step that crosses the last cap goes further below it than the tolerance, that one
    group stops in between, at half of its alignment, or a quarter, as far as it takes. The order
    stays one order, so a tighter cap still never gives a channel back. A block cannot stop in
    between: where its removal would go too far, it stays, if the caps hold without that; then a
    tighter cap, for which it goes, may give channels back. So it may with `passes`: a step that
    goes too far is passed over for smaller ones of other groups, all of them aligned.

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

    Returns
    -------
    tuple[dict[str, int], list[float]]
        Channels that each of the groups keeps, 0 if it goes with a block, and what is left then
        for each cap; more than its most if every group is at its floor.
    """
    ledgers = [Ledger(geometry, [room.group for room in rooms], cap.meter, sites) for cap in caps]
    meter = caps[0].meter
    for step in [] if _hold(caps, [ledger.left for ledger in ledgers]) else steps(
        geometry, rooms, sites, meter, price or meter, even=even
    ):  # fmt: skip
        after = [ledger.left - ledger.saving(step.name, step.keep) for ledger in ledgers]
        last = _hold(caps, after)
        keep = step.keep
        room = next((room for room in rooms if room.group.name == step.name), None)
        # What may not be wider has to go, however far below the caps that leads.
        held = room is not None and room.too_wide(ledgers[0].keep[step.name])
        if last and not held and not _near(caps, after):
            if room is not None and passes is None:
                keep = _between(ledgers, caps, room, step.keep)
            elif room is None or passes:
                # Blocks may be passed over freely; each can be only once.
                found = meet(
                    geometry, _without(step, rooms, ledgers[0]), caps, even=even, price=price,
                    sites=[site for site in sites if site.name != step.name],
                    passes=passes - 1 if room is not None and passes else passes,
                )  # fmt: skip
                if _hold(caps, found[1]) and (room is None or found[1][0] > after[0]):
                    return found
        for ledger in ledgers:
            ledger.take(step.name, keep)
        if last:
            break
    return ledgers[0].keep, [ledger.left for ledger in ledgers]


def _without(step: Step, rooms: Sequence[Room], ledger: Ledger) -> list[Room]:
    """Let the group of a step stop where it is now."""
    return [
        replace(room, least=ledger.keep[step.name]) if room.group.name == step.name else room
        for room in rooms
    ]


def _hold(caps: Sequence[Cap], left: Sequence[float]) -> bool:
    return all(cap.holds(value) for cap, value in zip(caps, left, strict=True))


def _near(caps: Sequence[Cap], left: Sequence[float]) -> bool:
    return any(cap.near(value) for cap, value in zip(caps, left, strict=True))


def _between(ledgers: Sequence[Ledger], caps: Sequence[Cap], room: Room, keep: int) -> int:
    """Find the width between two aligned ones that meets the caps, as well aligned as can be."""
    name = room.group.name
    align = room.align // 2
    while align >= 1:
        for width in range(keep + align, ledgers[0].keep[name], align):
            left = [ledger.left - ledger.saving(name, width) for ledger in ledgers]
            if _hold(caps, left) and _near(caps, left):
                return width
        align //= 2
    return keep
