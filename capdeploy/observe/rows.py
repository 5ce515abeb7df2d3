"""Layers as linear maps: inputs and outputs laid out as rows of a regression.

A convolution is a linear layer applied at every output position, so both become matrices with one
row per position. Of large maps a fixed sample of positions is taken, the same in every network.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

LARGEST = 5000
"""Inputs of a filter beyond which the equations of a layer would not fit memory."""
POSITIONS = 128
"""Output positions of one image that become rows."""


def is_linear_map(layer: nn.Module) -> bool:
    """Tell whether each output is a linear map of all input channels around it."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


def inputs_of(layer: nn.Module) -> int:
    """Count the inputs of one filter: input channels times kernel elements."""
    return layer.get_parameter("weight").flatten(1).shape[1]


def kept_channels(
    layer: nn.Module, outputs: torch.Tensor, kept: tuple[int, ...] | None
) -> torch.Tensor:
    """Take some of a layer's output channels; a linear layer's are the last axis, whatever it sees.

    Parameters
    ----------
    layer : nn.Module
        Whose outputs they are.
    outputs : torch.Tensor
        (N, C, H, W), or (N, ..., C) of a linear layer.
    kept : tuple[int, ...] | None
        Channels in order; None: all.

    Returns
    -------
    torch.Tensor
        With ``len(kept)`` channels.
    """
    if kept is None:
        return outputs
    axis = outputs.ndim - 1 if isinstance(layer, nn.Linear) else 1
    return outputs.index_select(axis, torch.tensor(kept))


def output_rows(layer: nn.Module, outputs: torch.Tensor) -> torch.Tensor:
    """Lay a layer's outputs out as (rows, filters)."""
    if isinstance(layer, nn.Linear):
        return outputs.reshape(-1, outputs.shape[-1])
    maps = outputs.flatten(2)
    return maps[:, :, _places(maps.shape[2])].transpose(1, 2).flatten(0, 1)


def input_rows(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Lay a layer's inputs out as (rows, inputs of a filter), rows as in `output_rows`."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(type(layer).__name__)
    if layer.kernel_size == (1, 1) and layer.padding == (0, 0):
        rows, columns = layer.stride
        strided = inputs[:, :, ::rows, ::columns].flatten(2)
        return strided[:, :, _places(strided.shape[2])].transpose(1, 2).flatten(0, 1)
    patches = F.unfold(inputs, layer.kernel_size, layer.dilation, _padding(layer), layer.stride)
    return patches[:, :, _places(patches.shape[2])].transpose(1, 2).flatten(0, 1)


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    if layer.padding == "same":
        spread = zip(layer.dilation, layer.kernel_size, strict=True)
        return tuple(step * (size - 1) // 2 for step, size in spread)
    return layer.padding if isinstance(layer.padding, tuple) else (0, 0)


def _places(positions: int) -> torch.Tensor:
    """Choose output positions, the same for every batch and for both networks."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(positions, generator=generator)[:POSITIONS]
