"""Leaves the order of cuts: where a kernel dislikes a width, and where steps are too coarse."""

from __future__ import annotations

from dataclasses import replace

from capdeploy.prune import regrow
from capdeploy.stages.hunt import CLOSE, MOST, TOLERANCE, Hunt, Point

HOLDS = 2
"""How often groups are held where a step proved too slow; more of it costs minutes."""


def hold(hunt: Hunt, fast: Point) -> bool:
    """Let the groups stay as narrow as in `fast` whose next step up proved too slow.

    A kernel may dislike a width: then a single step costs far more than the layers' times say,
    and the channels that the budget still allows have to be other groups'.

    Parameters
    ----------
    hunt : Hunt
        Draws the next networks.
    fast : Point
        The best candidate that fits; the next larger one that was measured does not.

    Returns
    -------
    bool
        Whether there is such a group that is not held already; False after `HOLDS` times.
    """
    held = hunt.ground.held
    slow = [
        each for each in hunt.points
        if not hunt.fits(each) and all(
            len(cut.kept) <= held.get(cut.group, cut.width) for cut in each.plan.groups
        )
    ]  # fmt: skip
    if not slow or hunt.holds == HOLDS:
        return False
    wide = {cut.group: cut for cut in min(slow, key=lambda each: each.estimate).plan.groups}
    more = {
        cut.group: len(cut.kept) for cut in fast.plan.groups
        if len(cut.kept) < len(wide[cut.group].kept)
    }  # fmt: skip
    hunt.ground = replace(hunt.ground, held={**held, **more})
    hunt.holds += bool(more)
    return bool(more)


def fill(hunt: Hunt, fast: Point) -> Point:
    """Give channels back to the best candidate until it is near the budget.

    Where a network proves too slow, half as much may come back; or other groups' channels, where
    a single group's cost far more than the layers' times say. With whole blocks gone, nothing
    comes back.

    Parameters
    ----------
    hunt : Hunt
        Cuts and measures; it makes at most `MOST` candidates in all.
    fast : Point
        The best candidate of the order of cuts that fits.

    Returns
    -------
    Point
        The widest that was found and fits, `fast` if nothing wider does.
    """
    base, room = hunt.base, _room(hunt, fast)
    disliked: set[str] = set()
    while (
        not hunt.near(fast) and len(hunt.points) < MOST and not fast.plan.removed
        and room > CLOSE * fast.estimate
    ):  # fmt: skip
        back = regrow.wider(hunt.ground, hunt.budget, fast.plan, room, disliked)
        point = fast if back is None else hunt.try_out(back)
        if hunt.base != base:
            return fast  # all milliseconds have changed: the caller begins anew
        if point is not fast and hunt.fits(point):
            fast, room = point, _room(hunt, point)
        elif len(grown := _grown(fast, point)) == 1 and _costly(hunt, fast, point):
            disliked |= grown
            room = _room(hunt, fast)
        else:
            room /= 2
    return fast


def _room(hunt: Hunt, fast: Point) -> float:
    """Say how much more a network may take by the estimate, so that it still fits.

    What comes back in steps fills it never quite.
    """
    aim = hunt.most * (1 - TOLERANCE / 4)
    grown = (aim - hunt.fixed) / max(fast.trial.measured - hunt.fixed, 1e-9)
    return fast.estimate * (grown - 1)


def _costly(hunt: Hunt, fast: Point, point: Point) -> bool:
    """Tell whether what came back takes over twice the time that the layers' times say."""
    said = (point.estimate / fast.estimate - 1) * (fast.trial.measured - hunt.fixed)
    return point.trial.measured - fast.trial.measured > 2 * said + TOLERANCE * hunt.most


def _grown(fast: Point, point: Point) -> set[str]:
    """Name the groups that are wider."""
    pairs = zip(fast.plan.groups, point.plan.groups, strict=True)
    return {was.group for was, now in pairs if len(now.kept) > len(was.kept)}
