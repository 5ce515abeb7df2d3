"""Re-estimate batch normalisation after a cut: its statistics belong to the wider network."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from capdeploy.model import Model
from capdeploy.rebuild import NORMS
from capdeploy.samples import Images


def reestimate(model: Model, images: Images, *, batch_size: int) -> Model:
    """Replace the running statistics by the averages over some training images.

    Parameters
    ----------
    model : Model
        The network; it is left as it was.
    images : Images
        Training images of the kept classes; no labels are needed.
    batch_size : int
        Images per batch.

    Returns
    -------
    Model
        A copy with fresh statistics, in which every image counts alike, and the same weights; an
        equal copy if it has no batch normalisation, or if there is but one image.

    References
    ----------
    Li et al., EagleEye: Fast sub-net evaluation for efficient neural network pruning, ECCV 2020.
    """
    module = model.copy_module().eval()
    norms = [
        layer
        for layer in module.modules()
        if isinstance(layer, NORMS) and layer.track_running_stats
    ]
    if not norms or len(images) < 2:
        return model.with_module(module)
    momenta = [layer.momentum for layer in norms]
    seen = dict.fromkeys(norms, 0)

    def weigh(layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        # A small last batch counts as little as it is, where torch's own average over batches would
        # count it like the others; and a norm that runs twice in a pass sees twice as many.
        seen[layer] += len(inputs[0])
        layer.momentum = len(inputs[0]) / seen[layer]

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for layer in norms:
            layer.reset_running_stats()
            hooks.callback(layer.train().register_forward_pre_hook(weigh).remove)
        for batch, _ in images.batches(batch_size):
            if len(batch) >= 2:  # a single one has no variance to average
                module(batch.to(model.device))
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return model.with_module(module.eval())
