"""The training loop: epochs, their record, and what is kept after each of them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from capdeploy.model import Model, device_of
from capdeploy.progress import Say
from capdeploy.rebuild import NORMS
from capdeploy.train.course import Batch, Course
from capdeploy.train.evaluate import tally
from capdeploy.train.imitate import lesson
from capdeploy.values.training import Epoch, Training


@dataclass(frozen=True)
class Settings:
    """How to train.

    Parameters
    ----------
    epochs : int
        Most passes over the training images.
    learning_rate : float | None
        Peak of the schedule; None: find it by a range test.
    optimizer : str
        ``adamw`` or ``sgd`` (momentum 0.9).
    weight_decay : float
        Of the optimizer.
    clip : float
        Largest gradient norm.
    warmup : float
        Share of the steps in which the rate rises linearly; then it falls on a cosine to 0.
    patience : int
        Epochs without a better validation accuracy before stopping.
    batch_size : int
        Images per step.
    seed : int
        Of the image order and of dropout.
    amp : bool
        Compute in bfloat16 where that is safe (automatic mixed precision).
    freeze_bn : bool
        Normalise by the statistics that batch normalisation begins with, in training too: they
        say more than those of a small batch. Its scales and shifts are trained all the same.
    """

    epochs: int
    learning_rate: float | None
    optimizer: str
    weight_decay: float
    clip: float
    warmup: float
    patience: int
    batch_size: int
    seed: int
    amp: bool = False
    freeze_bn: bool = False

    def set_training(self, module: nn.Module) -> None:
        """Put a network into the mode that it is trained in."""
        module.train()
        for layer in module.modules():
            if self.freeze_bn and isinstance(layer, NORMS):
                layer.eval()


State = dict[str, torch.Tensor]
Outcomes = npt.NDArray[np.bool_]


@dataclass
class Progress:
    """Where training stands between two epochs: enough to go on from there.

    Parameters
    ----------
    start : float
        Validation accuracy before any step.
    best_epoch : int
        The epoch that is kept; 0 is the beginning.
    best_state : State
        The weights at that time.
    peak : Outcomes
        Which validation images the most accurate state so far, the latest of several, had right.
    peak_epoch : int
        When that was.
    shuffle : np.random.Generator
        Draws the order of the images.
    history : list[Epoch]
        All epochs so far.
    diverged : bool
        Whether the loss of the last of them was no longer finite.
    """

    start: float
    best_epoch: int
    best_state: State
    peak: Outcomes
    peak_epoch: int
    shuffle: np.random.Generator
    history: list[Epoch] = field(default_factory=list)
    diverged: bool = False

    @classmethod
    def begin(cls, right: Outcomes, module: nn.Module, seed: int) -> Self:
        """Stand where nothing has happened yet."""
        shuffle = np.random.default_rng(seed)
        return cls(float(right.mean()), 0, _snapshot(module), right, 0, shuffle)

    @property
    def best(self) -> float:
        """Validation accuracy of the state that is kept."""
        if self.best_epoch == 0:
            return self.start
        return self.history[self.best_epoch - 1].validation_top1

    def weigh(self, right: Outcomes, number: int, module: nn.Module) -> None:
        """Keep an epoch's state, unless validation speaks against it.

        A later state has seen more, at a lower rate. On the few images that are held back it may
        look worse by chance: it is kept if it is no worse than the beginning, and at most one
        standard error below the most accurate state, image by image.

        Parameters
        ----------
        right : Outcomes
            (N,) which validation images it has right.
        number : int
            The epoch.
        module : nn.Module
            The network.

        References
        ----------
        Breiman et al., Classification and regression trees, 1984, section 3.4.3 (the 1 SE rule).
        """
        lost, won = int((self.peak & ~right).sum()), int((right & ~self.peak).sum())
        if right.mean() >= self.start and lost - won <= math.sqrt(lost + won):
            self.best_epoch, self.best_state = number, _snapshot(module)
        if won >= lost:
            self.peak, self.peak_epoch = right, number

    def stale(self, patience: int) -> bool:
        """Tell whether so many epochs have brought no better accuracy."""
        return len(self.history) - self.peak_epoch >= patience


class Keeper(Protocol):
    """Keeps progress somewhere, so that training can go on after an interruption."""

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
        """Bring network and optimizer to where they stood; None: nothing was kept."""

    def keep(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Keep all that `restore` needs."""


def train(
    model: Model,
    course: Course,
    settings: Settings,
    peak: float,
    say: Say,
    keeper: Keeper | None = None,
) -> tuple[Model, Training]:
    """Train a copy of a network at a known learning rate; see `finetune.run`."""
    module = model.copy_module()
    judge = model.with_module(module)
    optimizer = make_optimizer(module, settings, peak)
    progress = keeper.restore(module, optimizer) if keeper is not None else None
    if progress is None:
        progress = Progress.begin(_validate(judge, course, settings), module, settings.seed)
    rates = Rates(peak, settings.epochs * course.steps(settings.batch_size), settings.warmup)
    rates.done = len(progress.history) * course.steps(settings.batch_size)
    stale = progress.stale(settings.patience)
    while len(progress.history) < settings.epochs and not (progress.diverged or stale):
        began = time.monotonic()
        number = len(progress.history) + 1
        heard = f"val {progress.best:.1%}"
        loss = _epoch(judge, course, settings, optimizer, rates, progress.shuffle, say, heard)
        progress.diverged = not math.isfinite(loss)
        right = _validate(judge, course, settings)
        epoch = Epoch(
            number=number, loss=0.0 if progress.diverged else loss,
            validation_top1=float(right.mean()), learning_rate=optimizer.param_groups[0]["lr"],
            seconds=time.monotonic() - began,
        )  # fmt: skip
        progress.history.append(epoch)
        say.measured(epoch.model_dump(exclude={"number"}), number)
        if not progress.diverged:
            progress.weigh(right, number, module)
        if keeper is not None:
            keeper.keep(module, optimizer, progress)
        stale = progress.stale(settings.patience)
    module.load_state_dict(progress.best_state)
    return model.with_module(module.eval()), Training(
        learning_rate=peak, rate_found=settings.learning_rate is None,
        validation_images=len(course.validation), start_top1=progress.start,
        epochs=tuple(progress.history), best_epoch=progress.best_epoch,
        stopped_early=stale and len(progress.history) < settings.epochs,
        diverged=progress.diverged,
    )  # fmt: skip


def _epoch(
    judge: Model,
    course: Course,
    settings: Settings,
    optimizer: torch.optim.Optimizer,
    rates: Rates,
    shuffle: np.random.Generator,
    say: Say,
    heard: str,
) -> float:
    """Train for one epoch and return the mean loss; infinite or NaN if training diverged."""
    began = time.monotonic()
    total, images = 0.0, 0
    module = judge.module
    settings.set_training(module)
    with lesson(module, course.teacher, course.weights(judge)) as loss_of:
        for batch in course.batches(judge, settings.batch_size, shuffle):
            optimizer.param_groups[0]["lr"] = rates.next()
            loss = step(loss_of, module, batch, optimizer, settings)
            if not math.isfinite(loss):
                return loss
            total, images = total + loss * len(batch[0]), images + len(batch[0])
            speed = images / (time.monotonic() - began)
            say.advance(rates.done, rates.steps, f"loss {loss:.3f} {heard} {speed:.0f} images/s")
    module.eval()
    return total / max(1, images)


def step(
    loss_of: Any,
    module: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
) -> float:
    """Make one step down the gradient and return the loss before it."""
    device = device_of(module)
    images, targets = (part.to(device, non_blocking=True) for part in batch)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.amp):
        loss = loss_of(images, targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), settings.clip)
    optimizer.step()
    return float(loss.detach())


def make_optimizer(module: nn.Module, settings: Settings, rate: float) -> torch.optim.Optimizer:
    """Make the optimizer that the settings ask for."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            module.parameters(), lr=rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=settings.weight_decay)


class Rates:
    """Linear warm-up to the peak, then a cosine to zero."""

    def __init__(self, peak: float, steps: int, warmup: float) -> None:
        self.steps = steps
        self.done = 0
        self._peak = peak
        self._rising = max(1, round(steps * warmup))

    def next(self) -> float:
        """Return the next step's rate."""
        step, self.done = self.done, self.done + 1
        if step < self._rising:
            return self._peak * (step + 1) / self._rising
        share = (step - self._rising) / max(1, self.steps - self._rising)
        return self._peak * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def _validate(judge: Model, course: Course, settings: Settings) -> Outcomes:
    return tally(judge, course.validation, stage="", batch_size=settings.batch_size).right


def _snapshot(module: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
