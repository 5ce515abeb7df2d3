"""APoZ: how often a filter's response is positive, that is, passes its ReLU.

The share of positions counts, not their number, so that large maps do not outvote small ones.
"""

from __future__ import annotations

import torch

from capdeploy.strategies import Seen, Strategy, Summary, Watch


def _positive(seen: Seen) -> torch.Tensor:
    return (seen.values.flatten(2) > 0).double().mean(dim=2)


def _mean(summary: Summary) -> torch.Tensor:
    return summary.mean


STRATEGY = Strategy(
    watch=Watch.ACTIVATIONS,
    class_aware=True,
    per_image=_positive,
    per_filter=_mean,
    summary="share of positive responses on the kept classes (1 - average percentage of zeros)",
    paper="Hu et al., Network trimming: a data-driven neuron pruning approach, 2016",
)
