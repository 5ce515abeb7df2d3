"""Ln norm: the size of a filter's weights. Looks at no image and knows no class.

Batch normalisation is folded into the weights first: it rescales every filter, so norms taken
before it compare filters in units that the rest of the network never sees.
"""

from __future__ import annotations

import torch

from capdeploy.strategies import Option, Seen, Strategy, Summary, Watch


def _norm(seen: Seen) -> torch.Tensor:
    order = float(seen.options.get("p", 2.0))
    # In double precision: a small weight to a high power would be nothing, and all filters alike.
    size: torch.Tensor = torch.linalg.vector_norm(seen.values.double().flatten(2), ord=order, dim=2)
    return size


def _mean(summary: Summary) -> torch.Tensor:
    return summary.mean


STRATEGY = Strategy(
    watch=Watch.WEIGHTS,
    class_aware=False,
    per_image=_norm,
    per_filter=_mean,
    options={"p": Option(2.0, "order of the norm", (), 0.5, 64.0)},
    summary="norm of the filter's weights, batch normalisation folded in (ordinary pruning)",
    paper="Li et al., Pruning filters for efficient ConvNets, ICLR 2017",
)
