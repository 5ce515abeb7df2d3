"""Other forms of contrast that were tried; decision 0009 has their figures beside the kept one."""

from __future__ import annotations

import torch

from capdeploy.strategies import Seen, Strategy, Summary, Watch


def _moments(seen: Seen) -> torch.Tensor:
    mean = seen.values.flatten(2).mean(dim=2)
    return torch.stack([mean, mean.square()], dim=2)


def _fisher(summary: Summary) -> torch.Tensor:
    mean, square = summary.by_class[..., 0], summary.by_class[..., 1]
    within = (square - mean.square()).mean(dim=0)
    return mean.var(dim=0, correction=0) / (within + 1e-12)


FISHER = Strategy(
    watch=Watch.ACTIVATIONS,
    class_aware=True,
    per_image=_moments,
    per_filter=_fisher,
    summary="variance of the mean response between kept classes over that within them",
    paper="Fisher, The use of multiple measurements in taxonomic problems, 1936",
)


def _products(seen: Seen) -> torch.Tensor:
    change = seen.values.flatten(2).sum(dim=2)
    return change[:, :, None] * change[:, None, :]


def _jointly(summary: Summary) -> torch.Tensor:
    """Remove, one by one, the filter that adds least to the squared change of all that are gone."""
    products = summary.mean
    score = torch.zeros(len(products), dtype=torch.float64)
    left, gone = list(range(len(products))), torch.zeros(len(products), dtype=torch.float64)
    for rank in range(len(products)):
        added = products.diagonal() + 2 * products @ gone
        best = min(left, key=lambda channel: float(added[channel]))
        left.remove(best)
        gone[best] = 1.0
        score[best] = rank
    return score


TAYLOR_COVARIANCE = Strategy(
    watch=Watch.ACTIVATION_GRADIENTS,
    class_aware=True,
    per_image=_products,
    per_filter=_jointly,
    summary="Taylor on the cut head's loss, filters that make up for each other counted together",
    paper="own; squared first-order change with its covariance between filters",
)

FORMS = {"fisher": FISHER, "taylor-covariance": TAYLOR_COVARIANCE}
