"""Makes the blocks of a row, one fresh process after the other."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from capdeploy import errors
from capdeploy.bench import child
from capdeploy.bench.contest import Sampling
from capdeploy.bench.sides import BLOCK_SECONDS
from capdeploy.errors import StepFailedError
from capdeploy.values.gate import Block
from capdeploy.values.report import Settings

WORKER = "capdeploy.bench.duel"
CALM = 1.05
"""How much longer than at its best may take what never changes; else the machine was busy."""
AGAIN = 4
"""Blocks that are made besides on a busy machine; its bursts last some seconds."""


def pace(block: Block) -> float:
    """Say how long the base took in a block, ms."""
    return statistics.median(block.base_wall_ms)


@dataclass
class Processes:
    """Makes blocks of one row, one fresh process after the other.

    Parameters
    ----------
    base : Path
        What is compared with.
    head : Path
        What is compared.
    settings : Settings
        How it runs.
    sampling : Sampling
        Rounds of a block and the seed.
    trust_factory : bool
        Allow bundles to name code of their own that builds their network.
    seconds : float
        Until a block counts as hung.
    """

    base: Path
    head: Path
    settings: Settings
    sampling: Sampling
    trust_factory: bool = False
    seconds: float = BLOCK_SECONDS

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.sampling.seed} {self.settings}")
        self.turns = 0
        self.base_runs = False
        self.at_fault: Literal["base", "head"] = "base"

    def blocks(self, count: int, *, itself: bool = False) -> list[Block]:
        """Measure some more blocks.

        Parameters
        ----------
        count : int
            How many.
        itself : bool
            Base against itself, not against head.

        Returns
        -------
        list[Block]
            What was measured.

        Raises
        ------
        ChildDiedError
            If a process gives no answer, and does not when it is tried again either; `at_fault`
            is head if base alone did run in between.
        CapdeployError
            If a side cannot be run; `at_fault` tells which.
        NotHereError
            If the runtime or the device is not here.
        """
        found: list[Block] = []
        for _ in range(count):
            self.turns += 1
            found.append(self._sure(itself=itself or self.base == self.head))
        self.base_runs = True
        return found

    def _sure(self, *, itself: bool) -> Block:
        """Measure a block; a process that dies is no one's fault yet on a machine with others."""
        self.at_fault = "head" if self.base_runs and not itself else "base"
        try:
            return self._block(self.base if itself else self.head)
        except child.ChildDiedError:
            if self.at_fault == "head":
                self.at_fault = "base"
                self._block(self.base)
                self.at_fault = "head"
            return self._block(self.base if itself else self.head)

    def calm(self, count: int, best: float, again: int = AGAIN) -> list[Block]:
        """Measure blocks on a machine that does nothing else, as far as it lets us.

        Where something else runs, small networks lose more time than large ones, so their ratio is
        off too. The base, the same in every block, tells: its time picks the blocks, the head's
        does not.

        Parameters
        ----------
        count : int
            How many are wanted.
        best : float
            The fastest that the base was seen before, ms; infinite if it was not.
        again : int
            How many more may be made.

        Returns
        -------
        list[Block]
            Those in which the base was fastest, of so many that `count` were within `CALM` of its
            best, or `again` more were made.
        """
        found: list[Block] = []
        while len(found) < count + again:
            found = sorted([*found, *self.blocks(1)], key=pace)
            if len(found) >= count and pace(found[count - 1]) <= CALM * min(best, pace(found[0])):
                break
        return found[:count]

    def _block(self, head: Path) -> Block:
        job = {
            "base": str(self.base), "head": str(head), "settings": self.settings.model_dump(),
            "rounds": self.sampling.rounds, "turn": self.turns,
            "base_first": self._random.random() < 0.5, "trust_factory": self.trust_factory,
            "percentile": self.sampling.percentile,
        }  # fmt: skip
        answer = child.run(WORKER, job, threads=self.settings.threads, timeout=self.seconds)
        if "skipped" in answer:
            raise NotHereError(answer["skipped"])
        if "error" in answer:
            kind = getattr(errors, answer["error"], StepFailedError)
            raise kind(f"{self.settings.runtime} on {self.settings.device}: {answer['message']}")
        return Block.model_validate(answer["block"])


class NotHereError(Exception):
    """A runtime or device is not on this machine."""
