"""Fine-tune a cut network, imitating the head-cut one, and never end up worse than before."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from capdeploy.model import Model
from capdeploy.progress import Say
from capdeploy.train.course import Batch, Course
from capdeploy.train.evaluate import accuracy
from capdeploy.train.imitate import lesson
from capdeploy.values.report import Epoch, Training

RANGE_STEPS = 24
RANGE_LOW, RANGE_HIGH = 1e-5, 3e-2


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


def run(model: Model, course: Course, settings: Settings, say: Say) -> tuple[Model, Training]:
    """Fine-tune a copy of a network and keep the best state, the beginning included.

    Parameters
    ----------
    model : Model
        The network to train; it is left as it was.
    course : Course
        What there is to learn from.
    settings : Settings
        How to train.
    say : Say
        Hears loss, accuracy, images per second and time left.

    Returns
    -------
    tuple[Model, Training]
        A copy in the state that validated best, and the history.
    """
    with _seeded(settings.seed):
        rate = settings.learning_rate
        if rate is None:
            rate = find_rate(model, course, settings)
            say.note(f"learning rate {rate:.1e} (range test)")
        return _train(model, course, settings, rate, say)


def find_rate(model: Model, course: Course, settings: Settings) -> float:
    """Find a learning rate: raise it step by step on a throw-away copy and watch the loss.

    The rate is the last at which the smoothed loss was within 10 % of its lowest, divided by 4:
    the last that did no harm, with a margin, since whole epochs at it have to be survived. (The
    lowest point itself says little about a network that starts near its best.)

    Parameters
    ----------
    model : Model
        The network; it is left as it was.
    course : Course
        What there is to learn from.
    settings : Settings
        How to train.

    Returns
    -------
    float
        A rate within the tested range.

    References
    ----------
    Smith, Cyclical learning rates for training neural networks, WACV 2017, section 3.3.
    """
    module = model.copy_module().train()
    optimizer = _optimizer(module, settings, RANGE_LOW)
    rates = np.geomspace(RANGE_LOW, RANGE_HIGH, RANGE_STEPS)
    batches = _endless(model, course, settings)
    smooth, best, found = 0.0, math.inf, RANGE_LOW
    with lesson(module, course.teacher, course.weights(model)) as loss_of:
        for step, rate in enumerate(rates):
            optimizer.param_groups[0]["lr"] = float(rate)
            loss = _step(loss_of, module, next(batches), optimizer, settings.clip)
            smooth = 0.7 * smooth + 0.3 * loss
            corrected = smooth / (1 - 0.7 ** (step + 1))
            if not math.isfinite(loss) or corrected > 4 * best:
                break
            best = min(best, corrected)
            if corrected <= 1.1 * best:
                found = float(rate)
    return max(RANGE_LOW, found / 4)


def _train(
    model: Model, course: Course, settings: Settings, peak: float, say: Say
) -> tuple[Model, Training]:
    module = model.copy_module()
    judge = model.with_module(module)
    start = _validate(judge, course, settings)
    best, best_epoch, best_state = start, 0, _snapshot(module)
    optimizer = _optimizer(module, settings, peak)
    rates = _Rates(peak, settings.epochs * course.steps(settings.batch_size), settings.warmup)
    shuffle = np.random.default_rng(settings.seed)
    history: list[Epoch] = []
    diverged = stale = False
    for number in range(1, settings.epochs + 1):
        began = time.monotonic()
        heard = f"val {best:.1%}"
        loss = _epoch(module, judge, course, settings, optimizer, rates, shuffle, say, heard)
        diverged = not math.isfinite(loss)
        top1 = _validate(judge, course, settings)
        history.append(
            Epoch(
                number=number,
                loss=0.0 if diverged else loss,
                validation_top1=top1,
                learning_rate=optimizer.param_groups[0]["lr"],
                seconds=time.monotonic() - began,
            )
        )
        # A tie goes to the later state: it has seen more and its loss is lower.
        if not diverged and top1 >= best:
            best, best_epoch, best_state = top1, number, _snapshot(module)
        stale = number - best_epoch >= settings.patience
        if diverged or stale:
            break
    module.load_state_dict(best_state)
    record = Training(
        learning_rate=peak,
        rate_found=settings.learning_rate is None,
        validation_images=len(course.validation),
        start_top1=start,
        epochs=tuple(history),
        best_epoch=best_epoch,
        stopped_early=stale and len(history) < settings.epochs,
        diverged=diverged,
    )
    return model.with_module(module.eval()), record


def _epoch(
    module: nn.Module,
    judge: Model,
    course: Course,
    settings: Settings,
    optimizer: torch.optim.Optimizer,
    rates: _Rates,
    shuffle: np.random.Generator,
    say: Say,
    heard: str,
) -> float:
    """Train for one epoch and return the mean loss; infinite or NaN if training diverged."""
    began = time.monotonic()
    total, images = 0.0, 0
    module.train()
    with lesson(module, course.teacher, course.weights(judge)) as loss_of:
        for batch in course.batches(judge, settings.batch_size, shuffle):
            optimizer.param_groups[0]["lr"] = rates.next()
            loss = _step(loss_of, module, batch, optimizer, settings.clip)
            if not math.isfinite(loss):
                return loss
            total, images = total + loss * len(batch[0]), images + len(batch[0])
            speed = images / (time.monotonic() - began)
            say.advance(rates.done, rates.steps, f"loss {loss:.3f} {heard} {speed:.0f} images/s")
    module.eval()
    return total / max(1, images)


def _step(
    loss_of: Any, module: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, clip: float
) -> float:
    loss = loss_of(*batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()
    return float(loss.detach())


def _validate(judge: Model, course: Course, settings: Settings) -> float:
    return accuracy(judge, course.validation, stage="", batch_size=settings.batch_size).top1


class _Rates:
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


def _optimizer(module: nn.Module, settings: Settings, rate: float) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            module.parameters(), lr=rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=settings.weight_decay)


def _endless(model: Model, course: Course, settings: Settings) -> Iterator[Batch]:
    shuffle = np.random.default_rng(settings.seed)
    while True:
        yield from course.batches(model, settings.batch_size, shuffle)


def _snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch for the block and put its state back, so that a library user is not disturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
