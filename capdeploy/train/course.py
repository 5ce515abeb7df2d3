"""What there is to learn from: labelled images, unlabelled ones, and a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from capdeploy.model import Model
from capdeploy.samples import Images
from capdeploy.train.augment import augment
from capdeploy.train.imitate import UNLABELLED, Teacher
from capdeploy.workers import in_order

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
    balance : bool
        Weigh each class's loss by the inverse of its number of images.
    augment : tuple[str, ...]
        Random changes of the training images, see `augment.augment`.
    """

    train: Images
    validation: Images
    unlabelled: Images | None = None
    teacher: Teacher | None = None
    balance: bool = False
    augment: tuple[str, ...] = ()

    def weights(self, model: Model) -> torch.Tensor | None:
        """Return what each output's loss counts, (outputs,), 1 on average over the images."""
        if not self.balance:
            return None
        outputs = model.targets(torch.from_numpy(self.train.labels))
        counts = torch.bincount(outputs, minlength=model.trace.outputs).float()
        return len(outputs) / (counts.clamp(min=1) * int((counts > 0).sum()))

    def batches(self, model: Model, size: int, shuffle: np.random.Generator) -> Iterator[Batch]:
        """Yield one epoch, (n, 3, H, W) images and (n,) targets; labelled and not, mixed."""
        extra = self.unlabelled if self.teacher is not None else None
        total = len(self.train) + (len(extra) if extra is not None else 0)
        order = shuffle.permutation(total)
        parts = [order[start : start + size] for start in range(0, total, size)]
        # Batch normalisation cannot train on a single image.
        parts = [part for part in parts if len(part) > 1]

        # Drawn here: the threads that decode may take turns in any order.
        seeds = shuffle.integers(1 << 62, size=len(parts) if self.augment else 0)
        tasks = list(zip(parts, seeds if self.augment else parts, strict=True))

        def pixels(task: tuple[npt.NDArray[np.int64], Any]) -> npt.NDArray[np.uint8]:
            chosen, seed = task
            known, rest = chosen[chosen < len(self.train)], chosen[chosen >= len(self.train)]
            found = [self.train.pixels(known)] if len(known) else []
            if extra is not None and len(rest):
                found.append(extra.pixels(rest - len(self.train)))
            whole = np.concatenate(found)
            if not self.augment:
                return whole
            return augment(whole, self.augment, np.random.default_rng(seed))

        workers = max(self.train.workers, extra.workers if extra is not None else 0)
        for (chosen, _), task in in_order(pixels, tasks, workers=workers):
            known = chosen[chosen < len(self.train)]
            labels = model.targets(torch.from_numpy(self.train.labels[known]))
            inputs = self.train.preprocessing.apply(task.result())
            unknown = torch.full((len(chosen) - len(known),), UNLABELLED)
            yield torch.from_numpy(inputs), torch.cat([labels, unknown])

    def steps(self, size: int) -> int:
        """Count the batches of an epoch."""
        extra = self.unlabelled if self.teacher is not None else None
        total = len(self.train) + (len(extra) if extra is not None else 0)
        return total // size + (total % size >= 2)
