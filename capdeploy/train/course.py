"""What there is to learn from: labelled images, unlabelled ones, and a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from capdeploy.model import Model
from capdeploy.samples import Images
from capdeploy.train.imitate import UNLABELLED, Teacher

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Course:
    """What there is to learn from.

    Parameters
    ----------
    train : Images
        Labelled training images of the kept classes; an epoch shows each once.
    validation : Images
        Images held back from training.
    unlabelled : Images | None
        Further training images, without labels; an epoch shows each once. Only a teacher can
        make use of them.
    teacher : Teacher | None
        Whom to imitate.
    """

    train: Images
    validation: Images
    unlabelled: Images | None = None
    teacher: Teacher | None = None

    def batches(self, model: Model, size: int, shuffle: np.random.Generator) -> Iterator[Batch]:
        """Yield one epoch, (n, 3, H, W) images and (n,) targets; labelled and not, mixed."""
        extra = self.unlabelled if self.teacher is not None else None
        total = len(self.train) + (len(extra) if extra is not None else 0)
        order = shuffle.permutation(total)
        for start in range(0, total, size):
            chosen = order[start : start + size]
            if len(chosen) < 2:
                return  # batch normalisation cannot train on a single image
            known, rest = chosen[chosen < len(self.train)], chosen[chosen >= len(self.train)]
            labels = model.targets(torch.from_numpy(self.train.labels[known]))
            pixels = [self.train.pixels(known)] if len(known) else []
            if extra is not None and len(rest):
                pixels.append(extra.pixels(rest - len(self.train)))
            inputs = self.train.preprocessing.apply(np.concatenate(pixels))
            unknown = torch.full((len(rest),), UNLABELLED)
            yield torch.from_numpy(inputs), torch.cat([labels, unknown])

    def steps(self, size: int) -> int:
        """Count the batches of an epoch."""
        extra = self.unlabelled if self.teacher is not None else None
        total = len(self.train) + (len(extra) if extra is not None else 0)
        return total // size + (total % size >= 2)
