"""HWAI class count: for how many of the kept classes does some position of the filter matter.

An element matters to an image if response times gradient is not zero. Its frequency over the
images of a class, summed over the kept classes, at the filter's best position: 0 to the number of
classes. The paper counts all classes of the network; here only the kept ones exist.
"""

from __future__ import annotations

import torch

from capdeploy.strategies import Seen, Strategy, Summary, Watch


def _matters(seen: Seen) -> torch.Tensor:
    # The source compares with 1e-50, which in single precision is zero.
    return (seen.values != 0).to(torch.float32)


def _classes(summary: Summary) -> torch.Tensor:
    return summary.by_class.sum(dim=0).flatten(1).amax(dim=1)


STRATEGY = Strategy(
    watch=Watch.ACTIVATION_GRADIENTS,
    class_aware=True,
    per_image=_matters,
    per_filter=_classes,
    summary="for how many kept classes some position of the filter matters",
    paper="Jiang et al., Class-aware pruning for efficient neural networks, DATE 2024",
)
