"""OCAP: keep the filters that some image of the kept classes ranks among its loudest.

The paper keeps, per image, the filters with the largest response norm, and unites the sets over
the images. "Kept by any image at share q" is the same as "its largest rank percentile over the
images is above 1 - q", so ranking by that maximum yields the union for every q at once and the
realised width can be asked for directly. Ties go to the larger mean percentile. Coupled layers
are one more union: a channel stays if any of its layers would keep it, so their maximum counts.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from capdeploy.strategies import Seen, Strategy, Summary, Watch

SLOPE = 0.4
"""Of the LeakyReLU. The authors tune it: 0.06 (MobileNetV2), 0.14 (VGG), 0.4 (ResNet)."""


def _rank_percentile(seen: Seen) -> torch.Tensor:
    norms: torch.Tensor = F.leaky_relu(seen.values, SLOPE).flatten(2).norm(dim=2)
    ordered = norms.sort(dim=1).values
    below = torch.searchsorted(ordered, norms, right=False)
    up_to = torch.searchsorted(ordered, norms, right=True)
    # The mid-rank gives equal responses equal percentiles, wherever they stand in the layer.
    percentile: torch.Tensor = (below + up_to).double() / (2 * norms.shape[1])
    return percentile


def _union(summary: Summary) -> torch.Tensor:
    # Maxima are multiples of 1/2C, so a mean scaled below 1/4C can only break ties.
    filters = summary.maximum.numel()
    return summary.maximum + summary.mean / (4 * filters)


STRATEGY = Strategy(
    watch=Watch.ACTIVATIONS,
    class_aware=True,
    per_image=_rank_percentile,
    per_filter=_union,
    across="max",
    summary="largest rank of the response norm over the kept classes' images",
    paper="Ma et al., OCAP: On-device class-aware pruning, J. Systems Architecture 142, 2023",
)
