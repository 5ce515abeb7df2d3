"""OCAP: keep the filters that some image of the kept classes ranks among its loudest.

The paper keeps, per image, the filters with the largest response norm, and unites the sets over
the images. "Kept by any image at share q" is the same as "its largest rank percentile over the
images is above 1 - q", so ranking by that maximum yields the union for every q at once and the
realised width can be asked for directly; the plan reports the nominal q beside it. Ties go to the
larger mean percentile. Coupled layers are one more union: a channel stays if any of its layers
would keep it, so their maximum counts. The paper's other form counts how many images keep a
filter at one nominal q (``frequency``).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from capdeploy.strategies import Option, Seen, Strategy, Summary, Watch

OPTIONS = {
    "aggregation": Option("union", "over images: kept by any, or by most", ("union", "frequency")),
    "slope": Option(
        0.4, "of the LeakyReLU; the authors: 0.06 MobileNetV2, 0.14 VGG, 0.4 ResNet", (), 0.0, 1.0
    ),
    "nominal": Option(0.75, "frequency only: share that one image alone drops", (), 0.0, 0.999),
}


def _per_image(seen: Seen) -> torch.Tensor:
    percentile = _rank_percentile(seen.values, float(seen.options.get("slope", 0.4)))
    if seen.options.get("aggregation", "union") == "union":
        return percentile
    keeps = (percentile >= float(seen.options["nominal"])).to(percentile.dtype)
    # Counts tie often; the mean percentile, too small to outvote one image, settles that.
    return keeps + percentile * 1e-6


def _rank_percentile(values: torch.Tensor, slope: float) -> torch.Tensor:
    norms = F.leaky_relu(values, slope).flatten(2).norm(dim=2).float().cpu().numpy()
    images, filters = norms.shape
    # Sorting is what this costs, and whole numbers sort ten times as fast as pairs of value and
    # place: the bits of floats that are not negative are ordered as the floats are, and the place
    # goes behind them.
    place = np.arange(filters)
    shift = filters.bit_length()
    keys = np.sort((norms.view(np.int32).astype(np.int64) << shift) | place, axis=1)
    order, ordered = keys & ((1 << shift) - 1), keys >> shift
    differs = ordered[:, 1:] != ordered[:, :-1]
    if differs.all():
        twice = np.broadcast_to(2 * place + 1, keys.shape)
    else:
        # The mid-rank gives equal responses equal percentiles, wherever they stand in the layer:
        # twice it is the count of smaller responses plus that of smaller or equal ones.
        edge = np.ones((images, 1), dtype=bool)
        below = np.maximum.accumulate(np.where(np.hstack([edge, differs]), place, 0), axis=1)
        last = np.where(np.hstack([differs, edge]), place + 1, filters)
        twice = below + np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    ranked = torch.from_numpy(twice / (2 * filters))
    return torch.empty_like(ranked).scatter_(1, torch.from_numpy(order), ranked)


def _per_filter(summary: Summary) -> torch.Tensor:
    if summary.options.get("aggregation", "union") == "frequency":
        return summary.mean
    # Maxima are multiples of 1/2C, so a mean scaled below 1/4C can only break ties.
    filters = summary.maximum.numel()
    return summary.maximum + summary.mean / (4 * filters)


STRATEGY = Strategy(
    watch=Watch.ACTIVATIONS,
    class_aware=True,
    per_image=_per_image,
    per_filter=_per_filter,
    across="max",
    percentile=True,
    options=OPTIONS,
    summary="largest rank of the response norm over the kept classes' images",
    paper="Ma et al., OCAP: On-device class-aware pruning, J. Systems Architecture 142, 2023",
)
