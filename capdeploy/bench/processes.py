"""Makes the blocks of a row, one fresh process after the other."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from capdeploy import errors
from capdeploy.bench import child
from capdeploy.bench.contest import Sampling
from capdeploy.errors import StepFailedError
from capdeploy.values.gate import Block
from capdeploy.values.report import Settings

WORKER = "capdeploy.bench.duel"
BLOCK_SECONDS = 300


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
    """

    base: Path
    head: Path
    settings: Settings
    sampling: Sampling
    trust_factory: bool = False

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.sampling.seed} {self.settings}")
        self._turn = 0
        self.base_runs = False

    def blocks(self, count: int, *, itself: bool = False) -> list[Block]:
        """Measure some more blocks."""
        found = [self._block(self.base if itself else self.head) for _ in range(count)]
        self.base_runs = True
        return found

    def _block(self, head: Path) -> Block:
        self._turn += 1
        job = {
            "base": str(self.base), "head": str(head), "settings": self.settings.model_dump(),
            "rounds": self.sampling.rounds, "turn": self._turn,
            "base_first": self._random.random() < 0.5, "trust_factory": self.trust_factory,
            "percentile": self.sampling.percentile,
        }  # fmt: skip
        answer = child.run(WORKER, job, threads=self.settings.threads, timeout=BLOCK_SECONDS)
        if "skipped" in answer:
            raise NotHereError(answer["skipped"])
        if "error" in answer:
            kind = getattr(errors, answer["error"], StepFailedError)
            raise kind(f"{self.settings.runtime} on {self.settings.device}: {answer['message']}")
        return Block.model_validate(answer["block"])


class NotHereError(Exception):
    """A runtime or device is not on this machine."""
