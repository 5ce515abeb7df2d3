"""Re-solve the consumers of cut channels so that they answer as in the intact network.

A layer that lost input channels can make up for much of the loss with those that remain: its
weights are the ridge regression from its present inputs to the outputs it used to have. Layers
are solved in order of execution, so each one also makes up for what is left of earlier errors.
No labels, no gradients; sums over a few hundred images.

He et al., Channel pruning for accelerating very deep neural networks, ICCV 2017, section 3.1
(the least-squares step), here with a ridge towards the present weights and per-image sampling of
positions.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.model import Model
from capdeploy.observe.taps import tapped
from capdeploy.rebuild import is_depthwise
from capdeploy.samples import Images
from capdeploy.values.plan import LayerCut, PruningPlan

RIDGE = 1e-3
POSITIONS = 128
"""Output positions of one image that enter a layer's regression."""


class _ReachedError(Exception):
    """The watched layer has run; the rest of the pass is not needed."""


def reconstruct(
    intact: Model, cut: Model, plan: PruningPlan, images: Images, *, batch_size: int
) -> Model:
    """Re-solve every convolution and linear layer that lost input channels.

    Parameters
    ----------
    intact : Model
        The head-cut network before the cut.
    cut : Model
        The network that `plan` made of it; it is left as it was.
    plan : PruningPlan
        Which channels remain.
    images : Images
        Training images of the kept classes; no labels are needed.
    batch_size : int
        Images per pass.

    Returns
    -------
    Model
        A copy with new weights in those layers; shapes are the same.
    """
    module = cut.copy_module().eval()
    cuts = {entry.layer: entry for entry in plan.layers}
    for name in cut.trace.filters:
        layer = module.get_submodule(name)
        entry = cuts.get(name)
        if entry is None or entry.kept_in is None or not _solvable(layer):
            continue
        norm = cut.trace.norm_of.get(name)
        follower = module.get_submodule(norm) if norm else None
        sums = _Sums()
        for batch, _ in images.batches(batch_size):
            inputs = _reach(module, name, batch)[0]
            outputs = _reach(intact.module.eval(), name, batch)[1]
            sums.add(*_samples(layer, inputs, _kept(outputs, entry, intact, name)))
        _solve(layer, follower, sums)
    return cut.with_module(module)


def _solvable(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return not is_depthwise(layer) and layer.groups == 1 and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


def _kept(outputs: torch.Tensor, entry: LayerCut, intact: Model, name: str) -> torch.Tensor:
    # The head's cut is in the intact network already: it is the head-cut one.
    if entry.kept_out is None or (name == intact.head and intact.head_cut):
        return outputs
    index = torch.tensor(entry.kept_out)
    return outputs.index_select(1 if outputs.ndim == 4 else outputs.ndim - 1, index)


def _reach(network: nn.Module, name: str, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a network up to one layer and return that layer's input and output."""
    caught: list[torch.Tensor] = []

    def hook(_: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        caught.extend((inputs[0], output))
        raise _ReachedError

    with torch.no_grad(), tapped(network, [name], hook), contextlib.suppress(_ReachedError):
        network(batch)
    return caught[0], caught[1]


def _samples(
    layer: nn.Module, inputs: torch.Tensor, outputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay inputs and outputs out as rows: (rows, weights of a filter), (rows, filters)."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1]), outputs.reshape(-1, outputs.shape[-1])
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(type(layer).__name__)
    wanted = outputs.flatten(2)
    generator = torch.Generator().manual_seed(0)
    places = torch.randperm(wanted.shape[2], generator=generator)[:POSITIONS]
    padding = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
    if layer.padding == "same":
        padding = tuple(
            spread * (size - 1) // 2
            for spread, size in zip(layer.dilation, layer.kernel_size, strict=True)
        )
    patches = F.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)
    rows = patches[:, :, places].transpose(1, 2).flatten(0, 1)
    return rows, wanted[:, :, places].transpose(1, 2).flatten(0, 1)


class _Sums:
    """Streaming sums of the normal equations, in float64; memory independent of the images."""

    def __init__(self) -> None:
        self.rows = 0
        self.x: Any = 0
        self.y: Any = 0
        self.xx: Any = 0
        self.xy: Any = 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        x, y = x.double(), y.double()
        self.rows += len(x)
        self.x = self.x + x.sum(dim=0)
        self.y = self.y + y.sum(dim=0)
        self.xx = self.xx + x.T @ x
        self.xy = self.xy + x.T @ y


def _solve(layer: nn.Module, norm: nn.Module | None, sums: _Sums) -> None:
    """Write the ridge solution into a layer; the means go into its bias, or its norm's mean."""
    weight = layer.get_parameter("weight")
    present = weight.detach().flatten(1).double().T
    bias = getattr(layer, "bias", None)
    # What of the means cannot be absorbed anywhere has to be fitted by the weights.
    centred = bias is not None or isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
    mean_x, mean_y = sums.x / sums.rows, sums.y / sums.rows
    xx, xy = sums.xx / sums.rows, sums.xy / sums.rows
    if centred:
        xx, xy = xx - torch.outer(mean_x, mean_x), xy - torch.outer(mean_x, mean_y)
    ridge = RIDGE * xx.diagonal().mean().clamp(min=1e-12)
    damped = xx + ridge * torch.eye(len(xx), dtype=xx.dtype)
    solved = present + torch.linalg.solve(damped, xy - xx @ present)
    with torch.no_grad():
        weight.copy_(solved.T.reshape(weight.shape).float())
        shift = (mean_y - mean_x @ solved).float()
        if bias is not None:
            bias.copy_(shift)
        elif isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) and norm.running_mean is not None:
            norm.running_mean.sub_(shift)
