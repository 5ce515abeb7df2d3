"""Candidates for a latency budget: drawn, cut, exported, and measured in turns with the start."""

from __future__ import annotations

import hashlib
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capdeploy import workplace
from capdeploy.bench import environment
from capdeploy.bench.child import ChildDiedError
from capdeploy.bench.contest import Sampling
from capdeploy.bench.processes import NotHereError, Processes
from capdeploy.bundle import digest
from capdeploy.errors import MissingDeviceError, StepFailedError
from capdeploy.export import graph
from capdeploy.model import Model
from capdeploy.progress import Say
from capdeploy.prune import apply
from capdeploy.prune import plan as planning
from capdeploy.prune.ground import Ground
from capdeploy.stages.place import Place
from capdeploy.values.budget import Budget, Limit
from capdeploy.values.latency import Search, Trial
from capdeploy.values.plan import PruningPlan
from capdeploy.values.report import Settings

MOST = 12
BLOCKS, ROUNDS = 2, 8
TOLERANCE = 0.03
"""How far below a latency budget is near enough, a share."""


@dataclass(frozen=True)
class Point:
    """A plan, what was estimated for it, and what was measured."""

    plan: PruningPlan
    estimate: float
    trial: Trial


@dataclass
class Hunt:
    """One budget's candidates, each cut and exported into a folder and measured there.

    Parameters
    ----------
    full : Model
        The network as it came.
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

    def begin(self, start: PruningPlan) -> None:
        """Export the head-cut network, measure it against itself, and read the budget by it."""
        self.base_file = self._export(start, "base")
        self.whole = self.ground.meter("latency").whole(self.ground.geometry)
        self.base_ms = statistics.median(base for base, _ in self._measure(self.base_file)[0])
        limit = self._limit
        self.most_ms = limit.most * (self.base_ms if limit.share else 1.0)

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
        """Sum the layers' times at a plan's widths."""
        kept = {cut.layer: cut for cut in plan.layers}
        meter, total = self.ground.meter("latency"), 0.0
        for layer in self.ground.geometry.layers:
            cut = kept.get(layer.layer)
            out = layer.out_channels if cut is None or cut.kept_out is None else len(cut.kept_out)
            into = layer.in_channels if cut is None or cut.kept_in is None else len(cut.kept_in)
            total += meter.layer(layer, out, into)
        return total

    def try_out(self, plan: PruningPlan) -> Point:
        """Cut, export and measure a plan; nothing is done for one that was tried already."""
        for point in self.points:
            if point.plan.layers == plan.layers:
                return point
        file = self._export(plan, f"candidate-{len(self.points)}")
        rounds, cached = self._measure(file)
        # What both sides suffered in a round cancels.
        measured = self.base_ms * statistics.median(head / base for base, head in rounds)
        estimate = self.estimate(plan)
        trial = Trial(
            macs=plan.after.macs, parameters=plan.after.parameters,
            estimated_ms=estimate / self.whole * self.base_ms if self.whole else 0.0,
            measured_ms=measured, cached=cached,
        )  # fmt: skip
        self.points.append(Point(plan, estimate, trial))
        self.say.note(
            f"candidate {len(self.points)} of at most {MOST}: {trial.macs / 1e6:.4g} M MACs, "
            f"estimated {trial.estimated_ms:.3g} ms, measured {measured:.3g} ms"
            f"{' (kept from an earlier run)' if trial.cached else ''}; budget {self.most_ms:.3g} ms"
        )
        return self.points[-1]

    def fits(self, point: Point) -> bool:
        """Tell whether a candidate is within the budget."""
        return point.trial.measured_ms <= self.most_ms

    def near(self, point: Point) -> bool:
        """Tell whether it is within the budget, and near enough to it."""
        return self.fits(point) and point.trial.measured_ms >= self.most_ms * (1 - TOLERANCE)

    def _export(self, plan: PruningPlan, name: str) -> Path:
        # Not simplified: what onnxsim folds, the runtimes fold as well.
        path = self.folder / f"{name}.onnx"
        graph.export(apply.cut(self.full, plan), path, {})
        return path

    def _measure(self, file: Path) -> tuple[list[tuple[float, float]], bool]:
        """Measure a graph against the head-cut one in turns, or look up what was measured.

        Returns each round's latencies of both in ms, and whether an earlier run measured them.
        """
        settings = Settings(bundle="candidate", **vars(self.place))
        here = [environment.read().fingerprint, settings.model_dump(), self._limit.percentile]
        key = hashlib.sha256(json.dumps([*here, digest(self.base_file), digest(file)]).encode())
        kept = self.cache / f"candidate-{key.hexdigest()[:20]}.json"
        if stored := _pairs(workplace.recall(kept)):
            return stored, True
        sampling = Sampling(rounds=ROUNDS, percentile=self._limit.percentile)
        try:
            blocks = Processes(self.base_file, file, settings, sampling).blocks(BLOCKS)
        except NotHereError as error:
            raise MissingDeviceError(str(error)) from error
        except ChildDiedError as error:
            raise StepFailedError(f"{file.stem} cannot be measured: {error}") from error
        rounds = [
            pair for block in blocks
            for pair in zip(block.base_wall_ms, block.head_wall_ms, strict=True)
        ]  # fmt: skip
        workplace.remember(kept, rounds)
        return rounds, False

    def record(self, point: Point) -> PruningPlan:
        """Write down how the budget was met."""
        search = Search(
            **vars(self.place), percentile=self._limit.percentile, budget_ms=self.most_ms,
            base_ms=self.base_ms, trials=tuple(each.trial for each in self.points),
            chosen=self.points.index(point),
        )  # fmt: skip
        return point.plan.model_copy(update={"search": search})


def _pairs(stored: Any) -> list[tuple[float, float]]:
    """Read stored rounds; none if what is stored is something else."""
    try:
        return [(float(base), float(head)) for base, head in stored]
    except (TypeError, ValueError):
        return []
