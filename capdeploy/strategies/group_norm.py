"""Group norm: the size of everything that goes when a channel goes.

Removing a channel removes its filters in every coupled layer, their batch-norm scales, and the
columns of every layer that reads it; all of them are one vector, whose length is the score.
"""

from __future__ import annotations

import torch

from capdeploy.strategies import Coupled, Option, Strategy, Watch


def _length(group: Coupled) -> torch.Tensor:
    order = float(group.options.get("p", 2.0))
    size: torch.Tensor = torch.linalg.vector_norm(group.weights[0].flatten(1), ord=order, dim=1)
    return size


STRATEGY = Strategy(
    watch=Watch.COUPLED_WEIGHTS,
    class_aware=False,
    per_channel=_length,
    options={"p": Option(2.0, "order of the norm", (), 0.5, 64.0)},
    summary="norm of all coupled weights of a channel (DepGraph's group norm)",
    paper="Fang et al., DepGraph: Towards any structural pruning, CVPR 2023, eq. 6",
)
