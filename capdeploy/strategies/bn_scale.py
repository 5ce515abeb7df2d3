"""BN scale: the size of the factor that batch normalisation gives a filter.

Layers without batch normalisation have no such factor and are not scored; their groups stay whole,
by name.
"""

from __future__ import annotations

import torch

from capdeploy.strategies import Seen, Strategy, Summary, Watch


def _scale(seen: Seen) -> torch.Tensor:
    return seen.values.flatten(2).abs().amax(dim=2)


def _mean(summary: Summary) -> torch.Tensor:
    return summary.mean


STRATEGY = Strategy(
    watch=Watch.NORM_SCALES,
    class_aware=False,
    per_image=_scale,
    per_filter=_mean,
    summary="absolute scale of the filter's batch normalisation",
    paper="Liu et al., Learning efficient convolutional networks through network slimming, "
    "ICCV 2017",
)
