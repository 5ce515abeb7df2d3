"""Fine-tune a cut network, imitating the head-cut one, and never end up worse than before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from capdeploy.model import Model
from capdeploy.progress import Say
from capdeploy.train.course import Batch, Course
from capdeploy.train.imitate import lesson
from capdeploy.train.loop import Keeper, Settings, make_optimizer, step, train
from capdeploy.values.training import Training

__all__ = ["Settings", "find_rate", "run"]

RANGE_STEPS = 24
RANGE_LOW, RANGE_HIGH = 1e-5, 3e-2


def run(
    model: Model, course: Course, settings: Settings, say: Say, keeper: Keeper | None = None
) -> tuple[Model, Training]:
    """Fine-tune a copy of a network and keep the state to go by, the beginning included.

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
    keeper : Keeper | None
        Keeps progress after every epoch; what it has kept is gone on with.

    Returns
    -------
    tuple[Model, Training]
        A copy in the last state that validation does not speak against (`loop.Progress.weigh`),
        and the history.
    """
    with _seeded(settings.seed, model.device):
        rate = settings.learning_rate
        if rate is None:
            rate = find_rate(model, course, settings)
            say.note(f"learning rate {rate:.1e} (range test)")
        return train(model, course, settings, rate, say, keeper)


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
    module = model.copy_module()
    settings.set_training(module)
    optimizer = make_optimizer(module, settings, RANGE_LOW)
    rates = np.geomspace(RANGE_LOW, RANGE_HIGH, RANGE_STEPS)
    batches = _endless(model, course, settings)
    smooth, best, found = 0.0, math.inf, RANGE_LOW
    with lesson(module, course.teacher, course.weights(model)) as loss_of:
        for number, rate in enumerate(rates):
            optimizer.param_groups[0]["lr"] = float(rate)
            loss = step(loss_of, module, next(batches), optimizer, settings)
            smooth = 0.7 * smooth + 0.3 * loss
            corrected = smooth / (1 - 0.7 ** (number + 1))
            if not math.isfinite(loss) or corrected > 4 * best:
                break
            best = min(best, corrected)
            if corrected <= 1.1 * best:
                found = float(rate)
    return max(RANGE_LOW, found / 4)


def _endless(model: Model, course: Course, settings: Settings) -> Iterator[Batch]:
    shuffle = np.random.default_rng(settings.seed)
    while True:
        yield from course.batches(model, settings.batch_size, shuffle)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for the block and put its state back, so that a library user is not disturbed."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
