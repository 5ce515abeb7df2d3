"""Meets a budget that is measured: tries candidates on both sides of it until one fits."""

from __future__ import annotations

import tempfile
from pathlib import Path

from capdeploy import workplace
from capdeploy.errors import BudgetError
from capdeploy.model import Model
from capdeploy.progress import Say
from capdeploy.prune import apply
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.stages.detours import fill, hold
from capdeploy.stages.hunt import CLOSE, MOST, TOLERANCE, Hunt, Point
from capdeploy.stages.memory import MemoryHunt
from capdeploy.stages.place import Place, place_of, to_measure
from capdeploy.values.budget import Budget
from capdeploy.values.plan import PruningPlan
from capdeploy.values.recipe import Recipe

NEXT = 1.02
"""How far above the next aim a measured network has to lie to say something about the way there."""


def draw(
    recipe: Recipe, full: Model, ground: Ground, start: PruningPlan, budget: Budget, *, say: Say
) -> PruningPlan:
    """Answer a budget: latencies and memory by a search, everything else by reckoning.

    Parameters
    ----------
    recipe : Recipe
        Says where latency counts. With several steps, the plan shows only where they go to: what is
        measured is searched for in the last one.
    full : Model
        The network as it came.
    ground : Ground
        What plans are drawn on.
    start : PruningPlan
        Cuts the head alone.
    budget : Budget
        What is to be met.
    say : Say
        Hears of candidates.

    Returns
    -------
    PruningPlan
        The plan.
    """
    if not budget.measured:
        plan = planning.draw(ground, budget)
        if budget.limit is not None and plan.after == plan.before:
            say.note(f"the head-cut network meets {budget.limit} as it is: nothing has to go")
        return plan
    base = apply.cut(full, start)
    if recipe.steps > 1:
        share = as_share(recipe, base, ground, budget, say)
        return planning.draw(ground, share).model_copy(update={"budget": budget})
    place = to_measure(recipe, budget, say)
    return meet(full, ground, base, budget, place, cache=workplace.cache(), say=say)


def as_share(recipe: Recipe, base: Model, ground: Ground, budget: Budget, say: Say) -> Budget:
    """Turn milliseconds into a share of the head-cut network's, which is measured for that.

    The layers' times are not on the scale of whole networks, nor of other precisions, so only
    shares can be planned by them.

    Parameters
    ----------
    recipe : Recipe
        Says where latency counts.
    base : Model
        The head-cut network.
    ground : Ground
        What plans are drawn on.
    budget : Budget
        What is to be met.
    say : Say
        Hears of the measurement, which is kept for the search.

    Returns
    -------
    Budget
        A limit to the share that this is, at most the whole; the same budget, if it is a share
        already or nothing has to be measured for it.
    """
    if budget.limit is None or budget.limit.share or not budget.measured:
        return budget
    place, cache = place_of(recipe), workplace.cache()
    say.step(f"time the head-cut network in {place.runtime}, {place.threads} thread(s)")
    with tempfile.TemporaryDirectory(prefix="capdeploy-search-") as folder:
        hunt = Hunt(base, ground, budget, place, Path(folder), cache, say)
        hunt.begin(base)
    share = {"most": min(1.0, budget.limit.most / hunt.base), "share": True}
    return budget.model_copy(update={"limit": budget.limit.model_copy(update=share)})


def meet(
    full: Model,
    ground: Ground,
    base: Model,
    budget: Budget,
    place: Place,
    *,
    cache: Path,
    say: Say,
) -> PruningPlan:
    """Find a network that just meets a budget that is measured.

    Candidates lie on one line: the order in which the allocation gives channels up. The layers'
    times say where on it to look first; then measurements on both sides of the budget narrow it
    down, at most twelve. Where a step costs far more than the layers' times say, its group is held
    and the others go on; where steps are too coarse, channels of others come back (`detours`).

    Parameters
    ----------
    full : Model
        The network that plans cut: as it came, or what earlier steps have left of it.
    ground : Ground
        Scores, groups, costs and layer latencies.
    base : Model
        The head-cut network, whose latency shares count from.
    budget : Budget
        A limit of latency or memory.
    place : Place
        Where it counts.
    cache : Path
        Folder in which measurements are kept.
    say : Say
        Hears of every candidate.

    Returns
    -------
    PruningPlan
        A plan measured at most 3 % below the budget, or the nearest below where widths are too
        coarse for that; it carries its search.

    Raises
    ------
    BudgetError
        If the smallest network that can be cut is still too slow or too large.
    """
    say.step(
        f"search {budget.name} in {place.runtime} on {place.device}, {place.threads} thread(s)"
    )
    with tempfile.TemporaryDirectory(prefix="capdeploy-search-") as folder:
        memory = budget.limit is not None and budget.limit.quantity == "rss"
        kind = MemoryHunt if memory else Hunt
        return answer(kind(full, ground, budget, place, Path(folder), cache, say), base)


def answer(hunt: Hunt, base: Model) -> PruningPlan:
    """Measure the head-cut network, then candidates until one answers the budget; see `meet`."""
    hunt.begin(base)
    best = nearest(hunt)
    short = 1 - best.trial.measured / hunt.most
    if short > TOLERANCE and not _whole(hunt):
        hunt.say.note(
            f"{hunt.budget.name}: no candidate lies nearer than {short:.0%} below the budget"
        )
    return hunt.record(best)


def nearest(hunt: Hunt) -> Point:
    """Find the candidate that is nearest below the budget; what was tried already is known."""
    if hunt.budget.also:
        # Smaller may be fast enough already: then the other limits are what binds.
        point = hunt.try_out(hunt.draw(hunt.whole))
        if hunt.fits(point):
            return point
        return narrow_down(hunt, (point.estimate, point.trial.measured))
    if _whole(hunt):
        hunt.say.note(f"the head-cut network takes {hunt.base:.3g} {hunt.unit}: nothing has to go")
        return hunt.try_out(hunt.draw(hunt.whole))
    return narrow_down(hunt)


def _whole(hunt: Hunt) -> bool:
    """Tell whether the head-cut network is within the budget, and nothing else is asked."""
    return not hunt.budget.also and hunt.most >= hunt.base


def narrow_down(hunt: Hunt, top: tuple[float, float] | None = None) -> Point:
    """Measure candidates between those that fit and those that do not, by regula falsi.

    The largest network that may be is at the `top`: its estimate and its measured ms.
    """
    base, aim = hunt.base, hunt.most * (1 - TOLERANCE / 2)
    slow, fast = _sides(hunt, top or (hunt.whole, base))
    if fast is not None and hunt.near(fast):
        return fast
    target = _start(hunt, slow, fast, aim)
    # The last measurement is kept for the smallest network, in case nothing else fits.
    while len(hunt.points) < MOST - (fast is None):
        known = len(hunt.points)
        point = hunt.try_out(hunt.draw(target))
        if hunt.base != base or hunt.near(point):
            return nearest(hunt)  # by what is known now
        fresh = len(hunt.points) > known
        if not fresh and fast is None:
            point, fresh = smallest(hunt), True
        if not hunt.fits(point):
            slow.append((point.estimate, point.trial.measured))
        elif fast is None or point.trial.measured > fast.trial.measured:
            fast = point
        high, slowest = min(slow)
        if fast is not None and _jumps(fast, high, slowest) and hold(hunt, fast):
            target = fast.estimate * aim / fast.trial.measured
            slow = [each for each in slow if each[0] > NEXT * target] or slow[:1]
        elif not fresh and fast is not None:
            # Widths are coarse: up to here lies no other network, perhaps nearer to the slow side.
            target += (high - target) / 2
            if high - target < CLOSE * high:
                fast = fill(hunt, fast)
                return fast if hunt.base == base else nearest(hunt)
        else:
            sides = [hunt.fits(each) for each in hunt.points[-2:]]
            target = _between(slow, fast, aim, stuck=len(sides) == 2 and sides[0] == sides[1])
    return fast or smallest(hunt)


def _sides(hunt: Hunt, top: tuple[float, float]) -> tuple[list[tuple[float, float]], Point | None]:
    """Sort what was tried: estimates and ms of all that is too slow, and the nearest that fits."""
    slow = {top}
    slow |= {(each.estimate, each.trial.measured) for each in hunt.points if not hunt.fits(each)}
    fast = max(filter(hunt.fits, hunt.points), key=lambda each: each.trial.measured, default=None)
    return sorted(slow, reverse=True), fast


def _start(hunt: Hunt, slow: list[tuple[float, float]], fast: Point | None, aim: float) -> float:
    """Say where to look first, by what was tried if anything was."""
    if fast is not None or len(slow) > 1:
        return _between(slow, fast, aim, stuck=False)
    room = slow[0][1] - hunt.fixed
    return min(0.985, (aim - hunt.fixed) / room if room > 0 else 0.0) * slow[0][0]


def _jumps(fast: Point, high: float, slowest: float) -> bool:
    """Tell whether little more by the estimate took far more time."""
    near = high - fast.estimate < TOLERANCE * high
    return near and slowest > (1 + 2 * TOLERANCE) * fast.trial.measured


def _between(
    slow: list[tuple[float, float]], fast: Point | None, aim: float, *, stuck: bool
) -> float:
    """Say where to look next: on the line through both sides, never too near to either.

    Half-way, if the line has led to the same side twice: it is no line then.
    """
    high, slowest = min(slow)
    if fast is not None:
        low, rise = fast.estimate, slowest - fast.trial.measured
        share = (aim - fast.trial.measured) / rise if rise > 0 else 0.5
        return low + (high - low) * (0.5 if stuck else min(0.9, max(0.1, share)))
    if len(slow) == 1:
        return high * min(0.985, aim / slowest)
    # A part of the time is the same at any width, so the line does not pass through zero.
    (near, near_ms), (far, far_ms) = sorted(slow)[:2]
    slope = (far_ms - near_ms) / (far - near) if far > near else 0.0
    wanted = near - (near_ms - aim) / slope if slope > 0 else 0.0
    return min(0.985 * near, max(0.3 * near, wanted))


def smallest(hunt: Hunt) -> Point:
    """Try the narrowest network of all; if that is too slow, say why."""
    point = hunt.try_out(hunt.draw(0.0))
    if hunt.fits(point):
        return point
    fastest = min(hunt.points, key=lambda each: each.trial.measured)
    table, budget = hunt.ground.latency, hunt.budget
    # Below the stairs of the kernels narrower layers save nothing.
    finer = budget.align > (table.grain if table is not None else 1)
    ways = {
        "ask for less": True, "let blocks go whole (--depth prune)": budget.depth == "keep",
        "lower --align": finer, "lower --floor": budget.floor > 0,
    }  # fmt: skip
    raise BudgetError(
        f"{budget.name} cannot be met: {hunt.impossible(fastest)}; "
        f"{' or '.join(way for way, open_ in ways.items() if open_)}"
    )
