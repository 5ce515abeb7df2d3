"""Where to remove: every group's widths in the order in which they are given up.

The order is drawn up once, from the whole network down to every group's floor, one aligned step of
one group at a time. A budget takes as many steps as it needs, so a larger drop removes a superset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from capdeploy.prune.ledger import Ledger, Meter
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
    """

    group: Group
    least: int
    align: int
    harm: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """One group becomes narrower.

    Parameters
    ----------
    group : str
        Which.
    keep : int
        Channels that remain.
    left : float
        What then remains of the quantity that the order was made for.
    """

    group: str
    keep: int
    left: float


def normalised(scores: Sequence[float]) -> tuple[float, ...]:
    """Turn one group's scores into a harm curve that can be compared with other groups'.

    The scores are brought to a mean magnitude of 1 within the group (*mean normalisation*), so
    that neither a layer's scale nor its width decides: were they brought to a sum of 1, as
    relevance is, each filter of a wide layer would look worthless and wide layers would go first.

    Parameters
    ----------
    scores : Sequence[float]
        One per channel.

    Returns
    -------
    tuple[float, ...]
        Harm of losing the n lowest, n = 0..len(scores).

    Examples
    --------
    >>> normalised([1.0, 3.0])
    (0.0, 0.5, 2.0)
    """
    ordered = sorted(scores)
    lowest = min(0.0, ordered[0])
    size = sum(score - lowest for score in ordered) / len(ordered) or 1.0
    harm = [0.0]
    for score in ordered:
        harm.append(harm[-1] + (score - lowest) / size)
    return tuple(harm)


def steps(
    geometry: NetworkGeometry, rooms: Sequence[Room], meter: Meter, price: Meter, *, even: bool
) -> Iterator[Step]:
    """Order the steps of all groups.

    Parameters
    ----------
    geometry : NetworkGeometry
        The whole network.
    rooms : Sequence[Room]
        Groups that may shrink.
    meter : Meter
        Counts what the budget limits.
    price : Meter
        Counts what a step has to save for the harm it does.
    even : bool
        Give up the same share of every group, instead of what harms least for what it saves.

    Yields
    ------
    Step
        From the whole network down to all floors.
    """
    groups = [room.group for room in rooms]
    ledger = Ledger(geometry, groups, meter)
    prices = ledger if meter == price else Ledger(geometry, groups, price)
    by_name = {room.group.name: room for room in rooms}
    sharing = {
        name: [
            other for other in by_name
            if set(ledger.touched(name)) & set(ledger.touched(other))
        ]
        for name in by_name
    }  # fmt: skip
    offers: dict[str, tuple[float, int]] = {}
    position = {name: place for place, name in enumerate(by_name)}
    changed = list(by_name)
    while True:
        for name in changed:
            offers.pop(name, None)
            found = _price(prices, by_name[name], even=even)
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


def _price(ledger: Ledger, room: Room, *, even: bool) -> tuple[float, int] | None:
    """Price a group's next step: harm per unit saved, or the share that would be gone."""
    name, width, now = room.group.name, room.group.width, ledger.keep[room.group.name]
    keep = (now - 1) // room.align * room.align
    if keep < max(room.least, 1):
        return None
    if even:
        return 1 - keep / width, keep
    saved = ledger.saving(name, keep)
    harm = room.harm[width - keep] - room.harm[width - now]
    return harm / max(saved, 1e-12), keep


def meet(
    geometry: NetworkGeometry,
    rooms: Sequence[Room],
    meter: Meter,
    most: float,
    *,
    tolerance: float,
    even: bool,
    price: Meter | None = None,
) -> tuple[dict[str, int], float]:
    """Follow the order of steps until no more than `most` is left.

    Where the step that crosses the limit goes further below it than the tolerance, that one group
    stops in between, at half of its alignment, or a quarter, as far as it takes. The order stays
    one order, so a tighter limit still never gives a channel back.

    Parameters
    ----------
    geometry : NetworkGeometry
        The whole network.
    rooms : Sequence[Room]
        Groups that may shrink.
    meter : Meter
        Counts what is limited.
    most : float
        What may remain of it.
    tolerance : float
        How far below is near enough, a share of `most`.
    even : bool
        See `steps`.
    price : Meter | None
        See `steps`; None: `meter`.

    Returns
    -------
    tuple[dict[str, int], float]
        Channels that each of the groups keeps, and what is left then; more than `most` if every
        group is at its floor.
    """
    ledger = Ledger(geometry, [room.group for room in rooms], meter)
    if ledger.left <= most:
        return ledger.keep, ledger.left
    for step in steps(geometry, rooms, meter, price or meter, even=even):
        if step.left > most:
            ledger.take(step.group, step.keep)
            continue
        room = next(room for room in rooms if room.group.name == step.group)
        keep = step.keep
        if step.left < most * (1 - tolerance):
            keep = _between(ledger, room, step.keep, most, tolerance)
        ledger.take(step.group, keep)
        break
    return ledger.keep, ledger.left


def _between(ledger: Ledger, room: Room, keep: int, most: float, tolerance: float) -> int:
    """Find the width between two aligned ones that meets a limit, as well aligned as can be."""
    name = room.group.name
    align = room.align // 2
    while align >= 1:
        for width in range(keep + align, ledger.keep[name], align):
            left = ledger.left - ledger.saving(name, width)
            if most * (1 - tolerance) <= left <= most:
                return width
        align //= 2
    return keep
