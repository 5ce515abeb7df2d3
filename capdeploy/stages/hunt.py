"""Candidates for a budget that is measured: drawn, cut, exported, measured beside the start."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from capdeploy import workplace
from capdeploy.bench import environment
from capdeploy.bench.child import ChildDiedError
from capdeploy.bench.contest import Sampling
from capdeploy.bench.processes import AGAIN, CALM, NotHereError, Processes, pace
from capdeploy.bundle import digest
from capdeploy.errors import MissingDeviceError, StepFailedError
from capdeploy.export.candidates import Writer
from capdeploy.model import Model
from capdeploy.progress import Say
from capdeploy.prune import apply, translate
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.stages.place import Place
from capdeploy.values.budget import Budget, Limit
from capdeploy.values.latency import Search, Trial
from capdeploy.values.plan import PruningPlan
from capdeploy.values.report import Settings

MOST = 12
BLOCKS, ROUNDS = 2, 8
SPARE = MOST
"""Blocks that a search makes besides, at most, where the machine is never calm."""
METHOD = 1  # raised when candidates are measured in another way: kept ones are measured anew then
TOLERANCE = 0.03
"""How far below such a budget is near enough, a share."""
CLOSE = 1e-3
"""Two estimates nearer to each other than this share have no other network between them."""


@dataclass(frozen=True)
class Point:
    """A plan, what was estimated for it, and what was measured."""

    plan: PruningPlan
    estimate: float
    trial: Trial

    def at(self, calmer: float) -> Point:
        """Count in the milliseconds of a machine on which everything takes that share."""
        ms = {
            "estimated": calmer * self.trial.estimated, "measured": calmer * self.trial.measured
        }  # fmt: skip
        return replace(self, trial=self.trial.model_copy(update=ms))


@dataclass
class Hunt:
    """One budget's candidates, each cut and exported into a folder and measured there.

    Parameters
    ----------
    full : Model
        The network that plans cut.
    ground : Ground
        What plans are drawn on; its table of latencies included.
    budget : Budget
        What is to be met.
    place : Place
        Where latency counts.
    folder : Path
        For graphs.
    cache : Path
        For measurements.
    say : Say
        Hears of every one.
    """

    full: Model
    ground: Ground
    budget: Budget
    place: Place
    folder: Path
    cache: Path
    say: Say
    points: list[Point] = field(default_factory=list)
    holds: int = 0
    fixed: float = 0.0
    """What stays however small the network becomes, if that is known."""
    quantity: ClassVar[Literal["latency", "rss"]] = "latency"
    unit: ClassVar[Literal["ms", "MiB"]] = "ms"

    def __post_init__(self) -> None:
        self.best = math.inf  # ms of the head-cut network in the calmest block so far
        self.spare = SPARE
        self.own: set[Path] = set()  # measurements that were not there before
        self.writer = Writer(self.place.precision, self.place.runtime)

    def begin(self, base: Model) -> None:
        """Export the head-cut network, measure it against itself, and read the budget by it."""
        self.base_file = self._written(base, "base")
        self.whole = self.ground.meter(self.quantity).whole(base.geometry)
        self.base = _pace(self._measure(self.base_file)[0])

    @property
    def most(self) -> float:
        """What may remain, in the unit of the budget."""
        return self._limit.most * (self.base if self._limit.share else 1.0)

    @property
    def _limit(self) -> Limit:
        if self.budget.limit is None:
            raise ValueError("the budget limits nothing")
        return self.budget.limit

    def draw(self, estimate: float) -> PruningPlan:
        """Draw the plan that is estimated to take no longer."""
        limit = self._limit.model_copy(update={"most": max(estimate, 1e-9), "share": False})
        plan = planning.draw(self.ground, self.budget.model_copy(update={"limit": limit}))
        return plan.model_copy(update={"budget": self.budget})

    def estimate(self, plan: PruningPlan) -> float:
        """Sum what the layers count at a plan's widths."""
        remaining = self.ground.geometry.without(plan.removed)
        widths = translate.widths(plan.layers, remaining)
        return self.ground.meter(self.quantity).whole(remaining, widths)

    def try_out(self, plan: PruningPlan) -> Point:
        """Cut, export and measure a plan; nothing is done for one that was tried already."""
        for point in self.points:
            if (point.plan.layers, point.plan.removed) == (plan.layers, plan.removed):
                return point
        file = self._export(plan, f"candidate-{len(self.points)}")
        rounds, cached = self._measure(file)
        self._believe(_pace(rounds))
        # What both sides suffered in a round cancels.
        measured = self.base * statistics.median(head / base for base, head in rounds)
        estimate = self.estimate(plan)
        trial = Trial(
            macs=plan.after.macs, parameters=plan.after.parameters,
            estimated=self.fixed + estimate / self.whole * (self.base - self.fixed),
            measured=measured, cached=cached,
        )  # fmt: skip
        self.points.append(Point(plan, estimate, trial))
        self.say.note(
            f"candidate {len(self.points)} of at most {MOST}: {trial.macs / 1e6:.4g} M MACs, "
            f"estimated {trial.estimated:.3g} {self.unit}, measured {measured:.3g} {self.unit}"
            f"{' (kept from an earlier run)' if trial.cached else ''}; budget {self.most:.3g} "
            f"{self.unit}"
        )
        return self.points[-1]

    def _believe(self, pace: float) -> None:
        """Take the time of the head-cut network on a calmer machine, if that is what was seen.

        Ratios stay; milliseconds were those of a busy machine until now.
        """
        if pace * CALM >= self.base:
            return
        self.say.note(
            f"the head-cut network takes {pace:.3g} {self.unit}: the machine was busy when it "
            f"took {self.base:.3g} {self.unit}"
        )
        calmer = pace / self.base
        self.points = [each.at(calmer) for each in self.points]
        self.base = pace
        workplace.remember(self._kept(self.base_file), [(pace, pace)])

    def fits(self, point: Point) -> bool:
        """Tell whether a candidate is within the budget."""
        return point.trial.measured <= self.most

    def near(self, point: Point) -> bool:
        """Tell whether it is within the budget, and near enough to it."""
        return self.fits(point) and point.trial.measured >= self.most * (1 - TOLERANCE)

    def _export(self, plan: PruningPlan, name: str) -> Path:
        return self._written(apply.cut(self.full, plan), name)

    def _written(self, model: Model, name: str) -> Path:
        # Not simplified: what onnxsim folds, the runtimes fold as well.
        return self.writer.write(model, self.folder / f"{name}.onnx")

    def _measure(self, file: Path) -> tuple[list[tuple[float, float]], bool]:
        """Measure a graph against the head-cut one in turns, or look up what was measured.

        Returns each round's latencies of both in ms, and whether an earlier run measured them.
        """
        kept = self._kept(file)
        if stored := pairs_of(workplace.recall(kept)):
            self.best = min(self.best, _pace(stored))
            if kept == self._kept(self.base_file):  # the same graph differs by noise alone
                stored = [(base, base) for base, _ in stored]
            return stored, kept not in self.own
        self.own.add(kept)
        sampling = Sampling(rounds=ROUNDS, percentile=self._limit.percentile)
        try:
            ring = Processes(self.base_file, file, self.settings, sampling)
            blocks = ring.calm(BLOCKS, self.best, min(AGAIN, self.spare))
        except NotHereError as error:
            raise MissingDeviceError(str(error)) from error
        except ChildDiedError as error:
            raise StepFailedError(f"{file.stem} cannot be measured: {error}") from error
        self.spare -= ring.turns - BLOCKS
        self.best = min([self.best, *map(pace, blocks)])
        rounds = [
            pair for block in blocks
            for pair in zip(block.base_wall_ms, block.head_wall_ms, strict=True)
        ]  # fmt: skip
        workplace.remember(kept, rounds)
        return rounds, False

    @property
    def settings(self) -> Settings:
        """How candidates run."""
        return Settings(bundle="candidate", **self.place.where, precision=self.place.precision)

    def _kept(self, file: Path) -> Path:
        """Say where a measurement of this graph beside the start is kept."""
        what = [
            METHOD, environment.read().fingerprint, self.settings.model_dump(),
            self._limit.percentile,
            digest(self.base_file), digest(file), self.quantity,
        ]  # fmt: skip
        key = hashlib.sha256(json.dumps(what).encode())
        return self.cache / f"candidate-{key.hexdigest()[:20]}.json"

    def impossible(self, point: Point) -> str:
        """Say why not even the narrowest network fits."""
        trial, table = point.trial, self.ground.latency
        there = self.ground.geometry.without(point.plan.removed).layers
        layers = 0 if table is None else sum(layer.layer in table.layers for layer in there)
        start = 0.0 if table is None else min(table.start_ms * layers, trial.measured)
        return (
            f"the fastest network that can be cut takes {trial.measured:.3g} ms in "
            f"{self.place.runtime} ({trial.macs / 1e6:.3g} M MACs), the budget is "
            f"{self.most:.3g} ms; about {start:.2g} ms of it is starting {layers} layers"
        )

    def record(self, point: Point) -> PruningPlan:
        """Write down how the budget was met."""
        search = Search(
            **vars(self.place), unit=self.unit, percentile=self._limit.percentile,
            budget=self.most, base=self.base, trials=tuple(each.trial for each in self.points),
            chosen=self.points.index(point),
        )  # fmt: skip
        return point.plan.model_copy(update={"search": search})


def _pace(rounds: Sequence[tuple[float, float]]) -> float:
    return statistics.median(base for base, _ in rounds)


def pairs_of(stored: Any) -> list[tuple[float, float]]:
    """Read stored rounds; none if what is stored is something else."""
    try:
        return [(float(base), float(head)) for base, head in stored]
    except (TypeError, ValueError):
        return []
