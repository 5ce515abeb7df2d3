"""Candidates for a budget of memory: the peak of processes that open and answer."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from capdeploy import workplace
from capdeploy.bench import memory
from capdeploy.stages.hunt import Hunt, Point, pairs_of

PEAKS = 3
"""Processes whose median is the peak memory; allocators differ by a little."""


@dataclass
class MemoryHunt(Hunt):
    """Candidates for a budget of memory: each answers in a process of its own.

    The estimate is that of the weights; what Python and the runtime's library take before any
    graph is opened stays as it is.
    """

    quantity: ClassVar[Literal["latency", "rss"]] = "rss"
    unit: ClassVar[Literal["ms", "MiB"]] = "MiB"

    def _measure(self, file: Path) -> tuple[list[tuple[float, float]], bool]:
        kept = self._kept(file)
        stored = pairs_of(workplace.recall(kept))
        found = stored or [memory.peak(file, self.settings) for _ in range(PEAKS)]
        if not stored:
            workplace.remember(kept, found)
        before, peak = (statistics.median(values) for values in zip(*found, strict=True))
        self.fixed = before
        if file == self.base_file:
            return [(peak, peak)], bool(stored)
        return [(self.base, peak)], bool(stored)

    def impossible(self, point: Point) -> str:
        """Say why not even the narrowest network fits."""
        return (
            f"the smallest network that can be cut takes {point.trial.measured:.4g} MiB in "
            f"{self.place.runtime}, the budget is {self.most:.4g} MiB; {self.fixed:.4g} MiB of it "
            "are Python and the runtime, before any graph is opened"
        )
