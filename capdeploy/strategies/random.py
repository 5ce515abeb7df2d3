"""Random: the baseline that every strategy has to beat."""

from __future__ import annotations

import torch

from capdeploy.strategies import Seen, Strategy, Summary, Watch


def _uniform(seen: Seen) -> torch.Tensor:
    shape = seen.values.shape[:2]
    return torch.rand(shape, generator=seen.generator, dtype=torch.float64)


def _mean(summary: Summary) -> torch.Tensor:
    return summary.mean


STRATEGY = Strategy(
    watch=Watch.WEIGHTS,
    class_aware=False,
    per_image=_uniform,
    per_filter=_mean,
    summary="uniform random scores (the baseline to beat)",
    paper="Mittal et al., Recovering from random pruning, WACV 2018",
)
