"""Let one strategy judge every filter."""

from __future__ import annotations

import hashlib

import torch

from capdeploy.model import Model
from capdeploy.observe import signals
from capdeploy.samples import Images
from capdeploy.strategies import STRATEGIES, Seen, Strategy, Summary, Watch
from capdeploy.values.noun import first_fault
from capdeploy.values.scores import FilterScores, LayerScores


class _Running:
    """Mean and maximum over images of one layer's statistic; size independent of the images."""

    def __init__(self) -> None:
        self.sum: torch.Tensor | None = None
        self.maximum: torch.Tensor | None = None
        self.images = 0

    def add(self, statistic: torch.Tensor) -> None:
        values = statistic.detach().double()
        total, largest = values.sum(dim=0), values.amax(dim=0)
        self.sum = total if self.sum is None else self.sum + total
        self.maximum = largest if self.maximum is None else torch.maximum(self.maximum, largest)
        self.images += len(values)

    def summary(self) -> Summary:
        if self.sum is None or self.maximum is None:
            raise ValueError("no statistic was added")
        return Summary(mean=self.sum / self.images, maximum=self.maximum, images=self.images)


def run(name: str, model: Model, images: Images, *, batch_size: int, seed: int) -> FilterScores:
    """Score every filter of a network.

    Parameters
    ----------
    name : str
        A strategy of the shelf.
    model : Model
        The head-cut network; it is left as it was.
    images : Images
        Labelled images of the kept classes.
    batch_size : int
        Images per pass; the scores do not depend on it beyond float rounding.
    seed : int
        Source of chance for strategies that need one.

    Returns
    -------
    FilterScores
        One vector per filter-making layer, higher = keep.

    Raises
    ------
    ConfigError
        If there is no such strategy.
    PlanError
        If a score is not finite.
    """
    strategy = STRATEGIES.load(name)
    running: dict[str, _Running] = {}
    generators: dict[str, torch.Generator] = {}

    def tell(layer: str, values: torch.Tensor) -> None:
        generator = generators.setdefault(layer, _generator(seed, layer))
        statistic = strategy.per_image(Seen(values=values, generator=generator))
        running.setdefault(layer, _Running()).add(statistic)

    used = _watch(strategy, model, images, batch_size, tell)
    order = [layer for layer in model.trace.filters if layer in running]
    try:
        layers = tuple(
            LayerScores(
                layer=layer, values=tuple(strategy.per_filter(running[layer].summary()).tolist())
            )
            for layer in order
        )
        return FilterScores(
            strategy=name, layers=layers, images=used, across=strategy.across, seed=seed
        )
    except ValueError as error:
        raise _refusal(name, error) from error


def _watch(
    strategy: Strategy, model: Model, images: Images, batch_size: int, tell: signals.Tell
) -> int:
    if strategy.watch is Watch.WEIGHTS:
        signals.weights(model.module, model.trace, tell)
        return 0
    batches = ((batch, model.targets(labels)) for batch, labels in images.batches(batch_size))
    if strategy.watch is Watch.ACTIVATIONS:
        signals.activations(model.module, model.trace, batches, tell)
    else:
        signals.activation_gradients(model.module, model.trace, batches, tell)
    return len(images)


def _generator(seed: int, layer: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{layer}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _refusal(name: str, error: ValueError) -> Exception:
    from pydantic import ValidationError

    from capdeploy.errors import PlanError

    if isinstance(error, ValidationError):
        return PlanError(f"strategy {name}: {first_fault(error)}")
    return error
