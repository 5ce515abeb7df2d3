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
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.model import Model
from capdeploy.observe.taps import evaluating, tapped
from capdeploy.rebuild import NORMS, is_depthwise
from capdeploy.samples import Images
from capdeploy.values.plan import LayerCut, PruningPlan

RIDGE = 1e-3
LARGEST = 5000
"""Weights of a filter beyond which a layer is left as it is: its equations would not fit memory."""
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
    solvable = [
        name
        for name in cut.trace.filters
        if name in cuts and cuts[name].kept_in is not None
        if _solvable(module.get_submodule(name)) and cut.trace.calls[name] == 1
    ]
    wanted = _targets(intact, solvable, cuts, images, batch_size)
    for name in solvable:
        layer = module.get_submodule(name)
        norm = cut.trace.norm_of.get(name)
        sums = _Sums()
        for (batch, _), rows in zip(images.batches(batch_size), wanted.pop(name), strict=True):
            sums.add(_input_rows(layer, _input(module, name, batch)), rows)
        _solve(layer, module.get_submodule(norm) if norm else None, sums)
    return cut.with_module(module)


def _targets(
    intact: Model,
    names: list[str],
    cuts: Mapping[str, LayerCut],
    images: Images,
    batch_size: int,
) -> dict[str, list[torch.Tensor]]:
    """Collect what each layer should answer: per batch (rows, kept filters), in one pass."""
    wanted: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def hook(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        rows = _output_rows(layer, output)
        kept = cuts[name].kept_out
        # The head's cut is in the intact network already: it is the head-cut one.
        if kept is not None and not (name == intact.head and intact.head_cut):
            rows = rows.index_select(1, torch.tensor(kept))
        wanted[name].append(rows.clone())

    with torch.no_grad(), evaluating(intact.module), tapped(intact.module, names, hook):
        for batch, _ in images.batches(batch_size):
            intact.module(batch)
    return wanted


def _solvable(layer: nn.Module) -> bool:
    if layer.get_parameter("weight").flatten(1).shape[1] > LARGEST:
        return False
    if isinstance(layer, nn.Conv2d):
        return not is_depthwise(layer) and layer.groups == 1 and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


def _input(network: nn.Module, name: str, batch: torch.Tensor) -> torch.Tensor:
    """Run a network up to one layer and return that layer's input."""
    caught: list[torch.Tensor] = []

    def hook(_: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        caught.append(inputs[0])
        raise _ReachedError

    with (
        torch.no_grad(),
        tapped(network, [name], hook),
        contextlib.suppress(_ReachedError),
    ):
        network(batch)
    return caught[0]


def _places(positions: int) -> torch.Tensor:
    """Choose output positions, the same for every batch and for both networks."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(positions, generator=generator)[:POSITIONS]


def _output_rows(layer: nn.Module, outputs: torch.Tensor) -> torch.Tensor:
    """Lay a layer's outputs out as (rows, filters)."""
    if isinstance(layer, nn.Linear):
        return outputs.reshape(-1, outputs.shape[-1])
    maps = outputs.flatten(2)
    return maps[:, :, _places(maps.shape[2])].transpose(1, 2).flatten(0, 1)


def _input_rows(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Lay a layer's inputs out as (rows, weights of a filter), rows as in `_output_rows`."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(type(layer).__name__)
    padding = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
    if layer.padding == "same":
        spread = zip(layer.dilation, layer.kernel_size, strict=True)
        padding = tuple(step * (size - 1) // 2 for step, size in spread)
    patches = F.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)
    return patches[:, :, _places(patches.shape[2])].transpose(1, 2).flatten(0, 1)


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
    centred = bias is not None or isinstance(norm, NORMS)
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
        elif isinstance(norm, NORMS) and norm.running_mean is not None:
            norm.running_mean.sub_(shift)
