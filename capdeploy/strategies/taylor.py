"""Taylor: how much the loss would change if a filter's response were zero, to first order.

The response is taken before the ReLU. That changes nothing: where the ReLU is open, response and
gradient are the same on both sides; where it is shut, the product is zero on both.
"""

from __future__ import annotations

import torch

from capdeploy.strategies import Seen, Strategy, Summary, Watch


def _loss_change(seen: Seen) -> torch.Tensor:
    return seen.values.flatten(2).sum(dim=2).abs()


def _mean(summary: Summary) -> torch.Tensor:
    return summary.mean


STRATEGY = Strategy(
    watch=Watch.ACTIVATION_GRADIENTS,
    class_aware=True,
    per_image=_loss_change,
    per_filter=_mean,
    summary="first-order change of the kept classes' loss without the filter",
    paper="Molchanov et al., Pruning convolutional neural networks for resource efficient "
    "inference, ICLR 2017, eq. 8",
)
