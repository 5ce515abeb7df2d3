"""Shapley: a filter's mean contribution to the loss over random orders of removal.

Exact in expectation and dear: every permutation removes the layer's filters one after another, a
forward pass for each. Permutations and images are capped by options, and the cost is told before
it is paid.
"""

from __future__ import annotations

import torch

from capdeploy.strategies import Option, Seen, Strategy, Summary, Watch


def _rise(seen: Seen) -> torch.Tensor:
    return seen.values.flatten(2).sum(dim=2)


def _mean(summary: Summary) -> torch.Tensor:
    return summary.mean


STRATEGY = Strategy(
    watch=Watch.ABLATION,
    class_aware=True,
    per_image=_rise,
    per_filter=_mean,
    options={
        "permutations": Option(2.0, "random orders of removal for each layer", (), 1.0, 1000.0),
        "images": Option(32.0, "images of every coalition, at most", (), 2.0, 100000.0),
    },
    summary="mean rise of the kept classes' loss over random orders of removal",
    paper="Ancona et al., Shapley value as principled metric for structured network pruning, 2020",
)
