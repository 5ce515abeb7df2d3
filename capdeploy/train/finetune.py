"""Fine-tune a cut network, with distillation from the head-cut one, and never end up worse."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.model import Model
from capdeploy.progress import Say
from capdeploy.samples import Images
from capdeploy.train.evaluate import accuracy
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
    temperature : float | None
        Of the distillation; None: plain cross-entropy.
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
    temperature: float | None
    patience: int
    batch_size: int
    seed: int


def run(
    model: Model,
    teacher: Model,
    train: Images,
    validation: Images,
    settings: Settings,
    say: Say,
) -> tuple[Model, Training]:
    """Fine-tune a copy of a network and keep the best state, the beginning included.

    Parameters
    ----------
    model : Model
        The network to train; it is left as it was.
    teacher : Model
        The head-cut network that it is to imitate.
    train : Images
        Training images of the kept classes.
    validation : Images
        Images held back from training.
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
            say.note("learning rate: range test")
            rate = find_rate(model, teacher, train, settings)
            say.note(f"learning rate: {rate:.1e} found by the range test")
        return _train(model, teacher, train, validation, settings, rate, say)


def find_rate(model: Model, teacher: Model, train: Images, settings: Settings) -> float:
    """Find a learning rate: raise it step by step on a throw-away copy and watch the loss.

    The rate is that at the lowest smoothed loss, divided by 4: the last rate that still helped,
    with a margin, since a whole epoch at it has to be survived.

    Parameters
    ----------
    model : Model
        The network; it is left as it was.
    teacher : Model
        For the distillation loss.
    train : Images
        Training images.
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
    generator = np.random.default_rng(settings.seed)
    smooth, best, found = 0.0, math.inf, RANGE_LOW
    for step, (images, labels) in enumerate(_endless(train, settings.batch_size, generator)):
        if step == len(rates):
            break
        optimizer.param_groups[0]["lr"] = float(rates[step])
        loss = _step(module, teacher, model.targets(labels), images, optimizer, settings)
        smooth = 0.7 * smooth + 0.3 * loss
        corrected = smooth / (1 - 0.7 ** (step + 1))
        if not math.isfinite(loss) or corrected > 4 * best:
            break
        if corrected < best:
            best, found = corrected, float(rates[step])
    return max(RANGE_LOW, found / 4)


def _train(
    model: Model,
    teacher: Model,
    train: Images,
    validation: Images,
    settings: Settings,
    peak: float,
    say: Say,
) -> tuple[Model, Training]:
    module = model.copy_module()
    judge = model.with_module(module)
    start = accuracy(judge, validation, stage="", batch_size=settings.batch_size).top1
    best, best_epoch, best_state = start, 0, _snapshot(module)
    optimizer = _optimizer(module, settings, peak)
    steps = settings.epochs * math.ceil(len(train) / settings.batch_size)
    generator = np.random.default_rng(settings.seed)
    history: list[Epoch] = []
    diverged = stale = False
    for number in range(1, settings.epochs + 1):
        began = time.monotonic()
        losses = []
        module.train()
        for images, labels in train.batches(settings.batch_size, shuffle=generator):
            done = (number - 1) * math.ceil(len(train) / settings.batch_size) + len(losses)
            optimizer.param_groups[0]["lr"] = peak * _schedule(done, steps, settings.warmup)
            losses.append(
                _step(module, teacher, judge.targets(labels), images, optimizer, settings)
            )
            speed = len(losses) * settings.batch_size / (time.monotonic() - began)
            say.advance(done + 1, steps, f"loss {losses[-1]:.3f} val {best:.1%} {speed:.0f} img/s")
        diverged = not math.isfinite(sum(losses))
        module.eval()
        top1 = accuracy(judge, validation, stage="", batch_size=settings.batch_size).top1
        history.append(
            Epoch(
                number=number,
                loss=float(np.mean(losses)) if not diverged else 0.0,
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
        validation_images=len(validation),
        start_top1=start,
        epochs=tuple(history),
        best_epoch=best_epoch,
        stopped_early=stale and len(history) < settings.epochs,
        diverged=diverged,
    )
    return model.with_module(module.eval()), record


def _step(
    module: nn.Module,
    teacher: Model,
    targets: torch.Tensor,
    images: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
) -> float:
    if len(images) < 2:
        return 0.0  # batch normalisation cannot train on a single image
    answers = module(images)
    loss = F.cross_entropy(answers, targets)
    if settings.temperature is not None:
        loss = 0.5 * loss + 0.5 * _distillation(answers, teacher, images, settings.temperature)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), settings.clip)
    optimizer.step()
    return float(loss.detach())


def _distillation(
    answers: torch.Tensor, teacher: Model, images: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Hinton et al., Distilling the knowledge in a neural network, 2015, eq. 2-4."""
    with torch.no_grad():
        wanted = F.log_softmax(teacher.module.eval()(images) / temperature, dim=1)
    given = F.log_softmax(answers / temperature, dim=1)
    return F.kl_div(given, wanted, reduction="batchmean", log_target=True) * temperature**2


def _optimizer(module: nn.Module, settings: Settings, rate: float) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            module.parameters(), lr=rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=settings.weight_decay)


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then a cosine to zero; 0..1."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _endless(
    images: Images, size: int, generator: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield from images.batches(size, shuffle=generator)


def _snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch for the block and put its state back, so that a library user is not disturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
