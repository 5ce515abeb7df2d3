"""Ln norm: the size of a filter's weights. Looks at no image and knows no class."""

from __future__ import annotations

import torch

from capdeploy.strategies import Seen, Strategy, Summary, Watch

ORDER = 2.0


def _norm(seen: Seen) -> torch.Tensor:
    size: torch.Tensor = torch.linalg.vector_norm(seen.values.flatten(2), ord=ORDER, dim=2)
    return size


def _mean(summary: Summary) -> torch.Tensor:
    return summary.mean


STRATEGY = Strategy(
    watch=Watch.WEIGHTS,
    class_aware=False,
    per_image=_norm,
    per_filter=_mean,
    summary="L2 norm of the filter's weights (ordinary pruning)",
    paper="Li et al., Pruning filters for efficient ConvNets, ICLR 2017",
)
