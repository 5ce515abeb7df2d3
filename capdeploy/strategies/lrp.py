"""LRP: how much relevance for an image's own class flows through a filter.

Relevance starts as 1 at the image's class and is handed back layer by layer without loss
(`observe.relevance` has the rules), so a filter's share is what it contributes to the answer.
Relevance that is handed through is conserved: each layer's scores sum to about the same, which
makes filters of wide layers look small. The planner therefore compares within groups, or brings
every group to the same mean first.
"""

from __future__ import annotations

import torch

from capdeploy.strategies import Option, Seen, Strategy, Summary, Watch


def _flow(seen: Seen) -> torch.Tensor:
    return seen.values.flatten(2).abs().sum(dim=2)


def _mean(summary: Summary) -> torch.Tensor:
    return summary.mean


STRATEGY = Strategy(
    watch=Watch.RELEVANCE,
    class_aware=True,
    per_image=_flow,
    per_filter=_mean,
    options={
        "rule": Option("alpha1beta0", "of the convolutions", ("alpha1beta0", "gamma", "epsilon")),
        "gamma": Option(0.25, "weight of positive parts under the gamma rule", (), 0.0, 1000.0),
        "addition": Option("signed", "of residual additions", ("signed", "epsilon")),
    },
    summary="relevance for the image's own class that flows through the filter",
    paper="Yeom et al., Pruning by explaining, Pattern Recognition 115, 2021",
)
