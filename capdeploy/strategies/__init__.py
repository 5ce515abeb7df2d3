"""How filters are judged. One file per strategy; the door imports nothing heavy.

A strategy is two pure functions and a paper. The engine (`capdeploy.score`) feeds the first with
what it asked to watch, one batch at a time, and keeps two running reductions of what it returns;
the second turns those into one score per filter. So memory does not grow with the images.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from capdeploy.catalog import Catalog

if TYPE_CHECKING:
    import torch


class Watch(enum.Enum):
    """What a strategy wants to see of a layer."""

    WEIGHTS = "weights"
    """The layer's weights, (C, ...). No images are needed."""
    ACTIVATIONS = "activations"
    """The layer's response, (N, C, H, W): after its batch normalisation if it has one."""
    ACTIVATION_GRADIENTS = "activation times gradient"
    """Response times the gradient of each image's own loss, (N, C, H, W)."""


@dataclass(frozen=True)
class Seen:
    """One batch of what a strategy watches.

    Parameters
    ----------
    values : torch.Tensor
        (N, C, H, W) for a convolution, (N, C, 1, 1) for a linear layer, floating point;
        for ``Watch.WEIGHTS`` (1, C, F, 1) with the F weights of each filter.
    generator : torch.Generator
        Seeded from the run's seed and the layer's name; the only allowed source of chance.
    """

    values: torch.Tensor
    generator: torch.Generator


@dataclass(frozen=True)
class Summary:
    """What remains of all images.

    Parameters
    ----------
    mean : torch.Tensor
        (C,) float64, mean over images of the per-image statistic.
    maximum : torch.Tensor
        (C,) float64, largest per-image statistic.
    images : int
        How many images were seen.
    """

    mean: torch.Tensor
    maximum: torch.Tensor
    images: int


@dataclass(frozen=True)
class Strategy:
    """A way to judge filters.

    Parameters
    ----------
    watch : Watch
        What `per_image` receives.
    class_aware : bool
        Whether the score depends on the chosen classes.
    per_image : Callable[[Seen], torch.Tensor]
        From one batch to one statistic per image and filter, (N, C).
    per_filter : Callable[[Summary], torch.Tensor]
        From all images to one score per filter, (C,); higher = keep.
    summary : str
        One line for ``capdeploy list``.
    paper : str
        Where it comes from.
    across : str
        How the scores of coupled layers become one: ``mean`` (each layer brought to a mean
        magnitude of 1 first) or ``max``.
    """

    watch: Watch
    class_aware: bool
    per_image: Callable[[Seen], torch.Tensor]
    per_filter: Callable[[Summary], torch.Tensor]
    summary: str
    paper: str
    across: Literal["mean", "max"] = "mean"


STRATEGIES: Catalog[Strategy] = Catalog("capdeploy.strategies", "STRATEGY", "strategy")
