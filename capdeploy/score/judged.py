"""What is scored, and on what."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from capdeploy.model import Model
from capdeploy.samples import Images
from capdeploy.values.group import Group


@dataclass(frozen=True)
class Judged:
    """What is scored, and on what.

    Parameters
    ----------
    model : Model
        The head-cut network; it is left as it was.
    groups : Sequence[Group]
        Its coupled groups.
    images : Images
        Labelled images of the kept classes.
    others : Images | None
        Images of dropped classes, without labels; only strategies that contrast use them.
    batch_size : int
        Images per pass. Scores do not depend on it beyond float rounding, but for ``contrast``,
        which draws its directions pass by pass.
    seed : int
        Source of chance for strategies that need one.
    rejects : bool
        Whether images of none of the kept classes are to be told from them, too.
    """

    model: Model
    groups: Sequence[Group]
    images: Images
    others: Images | None
    batch_size: int
    seed: int
    rejects: bool = False

    def batches(
        self, images: Images | None = None, size: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield images, of the kept classes if no others are given, and targets, to the model."""
        device = self.model.device
        for batch, labels in (images or self.images).batches(size or self.batch_size):
            yield batch.to(device), self.model.targets(labels).to(device)

    def generator(self, layer: str) -> torch.Generator:
        """Return a layer's own source of chance."""
        digest = hashlib.sha256(f"{self.seed}/{layer}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
