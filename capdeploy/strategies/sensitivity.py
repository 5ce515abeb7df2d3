"""Sensitivity: how steeply the loss reacts to a filter's response."""

from __future__ import annotations

import torch

from capdeploy.strategies import Seen, Strategy, Summary, Watch


def _slope(seen: Seen) -> torch.Tensor:
    return seen.values.flatten(2).abs().sum(dim=2)


def _mean(summary: Summary) -> torch.Tensor:
    return summary.mean


STRATEGY = Strategy(
    watch=Watch.GRADIENTS,
    class_aware=True,
    per_image=_slope,
    per_filter=_mean,
    summary="absolute gradient of the kept classes' loss by the filter's response",
    paper="Mittal et al., Studying the plasticity in deep convolutional neural networks using "
    "random pruning, Machine Vision and Applications 30, 2019 (sensitivity criterion)",
)
