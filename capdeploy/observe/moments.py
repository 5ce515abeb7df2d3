"""What goes into layers, and what their outputs matter: second moments in one pass.

Inputs: the covariance of what each layer reads. Outputs: the second moment of the gradient of the
softened answers by the layer's outputs, sampled: for one random direction per image, drawn with
the covariance diag(p) - pp' that small changes of logits have in the softened answers p, one
backward pass gives a gradient whose second moment is the layer's factor of the Fisher matrix
(Martens & Grosse, Optimizing neural networks with Kronecker-factored approximate curvature, ICML
2015). No labels are needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from capdeploy.observe import rows
from capdeploy.observe.signals import Batches
from capdeploy.observe.taps import evaluating, requiring_grad, tapped


@dataclass
class Moments:
    """Streaming sums of one layer; their size does not depend on the images.

    Parameters
    ----------
    count : int
        Input rows so far.
    origin : Any
        (F,) float32, what inputs are counted from: the first batch's mean, so that little is lost
        where they hardly vary.
    total : Any
        (F,) float64, sum of the inputs.
    products : Any
        (F, F) float64, sum of their outer products.
    gradients : int
        Images whose gradients were seen.
    importance : Any
        (O, O) float64, sum over images and positions of the gradients' outer products.
    pool : int
        How many neighbouring inputs were averaged into one, for layers too large to be seen whole.
    """

    count: int = 0
    origin: Any = 0
    total: Any = 0
    products: Any = 0
    gradients: int = 0
    importance: Any = 0
    pool: int = 1

    def covariance(self) -> torch.Tensor:
        """(F, F) float64, of the inputs."""
        mean: torch.Tensor = self.total / self.count
        covariance: torch.Tensor = self.products / self.count - torch.outer(mean, mean)
        return covariance

    def see(self, inputs: torch.Tensor) -> None:
        """Add input rows, (rows, F)."""
        if not self.count:
            self.origin = inputs.mean(dim=0)
        inputs = inputs - self.origin
        self.count += len(inputs)
        self.total = self.total + inputs.sum(dim=0, dtype=torch.float64)
        # A batch's products lose nothing in single precision; their sum over batches would.
        self.products = self.products + (inputs.T @ inputs).double()

    def matter(self, gradients: torch.Tensor) -> None:
        """Add gradient rows, (rows, O), of a batch, of one of the layer's calls."""
        self.importance = self.importance + (gradients.T @ gradients).double()


def collect(
    network: nn.Module,
    layers: Mapping[str, int],
    kept: Batches,
    others: Batches,
    *,
    seed: int,
    temperature: float,
    rest: float | None = None,
) -> Mapping[str, Moments]:
    """Watch some layers over images.

    Parameters
    ----------
    network : nn.Module
        The network; it is left as it was.
    layers : Mapping[str, int]
        Convolutions and linear layers that are linear maps (`rows.is_linear_map`), and how many
        neighbouring inputs of each to average into one.
    kept : Batches
        Images of the kept classes: they count for inputs and importance.
    others : Batches
        Further images, which count for inputs only, unless there is a `rest`.
    seed : int
        Of the random directions.
    temperature : float
        Of the softened answers.
    rest : float | None
        The logit of one more answer, *none of these*, which all images count for then; see
        `boundary`.

    Returns
    -------
    Mapping[str, Moments]
        By layer.
    """
    found = {name: Moments(pool=pool) for name, pool in layers.items()}
    if rest is not None:
        kept, others = itertools.chain(kept, others), iter(())
    generator = torch.Generator().manual_seed(seed)

    def hook(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        pool = found[name].pool
        read = rows.input_rows(layer, inputs[0].detach())
        found[name].see(read if pool == 1 else read.reshape(len(read), -1, pool).mean(dim=2))
        if not output.requires_grad:
            return output

        def receive(gradient: torch.Tensor) -> None:
            found[name].matter(_all_rows(layer, gradient))

        output.register_hook(receive)  # type: ignore[no-untyped-call]
        # An in-place activation behind the layer must not overwrite what autograd still needs.
        return output.clone()

    with evaluating(network), requiring_grad(network, False), tapped(network, found, hook):
        for images, _ in kept:
            answers = network(images.requires_grad_(True))
            logits = answers.detach()
            if rest is not None:
                logits = torch.cat([logits, logits.new_full((len(logits), 1), rest)], dim=1)
            direction = _direction(logits / temperature, generator)[:, : answers.shape[1]]
            (answers * direction).sum().backward()
            for each in found.values():
                each.gradients += len(images)
        with torch.no_grad():
            for images, _ in others:
                network(images)
    return found


def boundary(network: nn.Module, kept: Batches, others: Batches, *, temperature: float) -> float:
    """Find the logit of *none of these* that lies half-way between the kept classes and the rest.

    It is compared with the logarithm of the summed exponentials of the kept classes' logits, which
    images of the kept classes have above it, in the mean, and those of the rest below.

    Parameters
    ----------
    network : nn.Module
        The network; it is left as it was.
    kept : Batches
        Images of the kept classes.
    others : Batches
        Images of the rest.
    temperature : float
        Of the softened answers.

    Returns
    -------
    float
        In the logits' unit.
    """
    with torch.no_grad(), evaluating(network):
        sums = [
            torch.cat([(network(images) / temperature).logsumexp(dim=1) for images, _ in batches])
            for batches in (kept, others)
        ]
    return temperature * float(sum(each.mean() for each in sums)) / 2


def _direction(answers: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw (N, K) directions with covariance diag(p) - pp' for each image's answers p."""
    softened = torch.softmax(answers, dim=1)
    # Drawn on the CPU, so that the directions are the same everywhere.
    noise = torch.randn(answers.shape, generator=generator).to(answers) * softened.sqrt()
    return noise - softened * noise.sum(dim=1, keepdim=True)


def _all_rows(layer: nn.Module, gradient: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, nn.Linear):
        return gradient.reshape(-1, gradient.shape[-1])
    return gradient.transpose(0, 1).flatten(1).T
