"""Layers as linear maps: inputs and outputs laid out as rows of a regression.

A convolution is a linear layer applied at every output position, so both become matrices with one
row per position. Of large maps a fixed sample of positions is taken, the same in every network.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.observe.shapes import shape_of

LARGEST = 5000
"""Inputs of a filter beyond which the equations of a layer would not fit memory."""
POSITIONS = 128
"""Output positions of one image that become rows."""
POSITIONS_IN_GROUPS = 16
"""The same of a convolution in groups: each has few inputs, and all of them are laid out."""


def is_linear_map(layer: nn.Module) -> bool:
    """Tell whether each output is a linear map of all input channels around it."""
    return is_grouped_map(layer) and getattr(layer, "groups", 1) == 1


def is_grouped_map(layer: nn.Module) -> bool:
    """Tell whether each output is a linear map of its group's input channels around it."""
    # A subclass with a forward function of its own may pad or scale in it (timm's Conv2dSame).
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and type(layer).forward is nn.Conv2d.forward
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def inputs_of(layer: nn.Module) -> int:
    """Count the inputs of one filter: input channels of its group times kernel elements."""
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
    return outputs.index_select(axis, torch.tensor(kept, device=outputs.device))


def output_rows(layer: nn.Module, outputs: torch.Tensor) -> torch.Tensor:
    """Lay a layer's outputs out as (rows, filters)."""
    if isinstance(layer, nn.Linear):
        return outputs.reshape(-1, outputs.shape[-1])
    maps = outputs.flatten(2)
    return _taken(maps, _places(layer, maps.shape[2])).transpose(1, 2).flatten(0, 1)


def input_rows(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Lay a layer's inputs out as rows, in the order of `output_rows`.

    Parameters
    ----------
    layer : nn.Module
        A linear layer, or a convolution with zeros around its maps, in groups or not.
    inputs : torch.Tensor
        What it reads.

    Returns
    -------
    torch.Tensor
        (rows, all inputs of all groups): the inputs of a filter lie beside each other, as in its
        weights, and those of one group before those of the next.

    Raises
    ------
    TypeError
        For any other layer.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(type(layer).__name__)
    # Only the chosen positions are taken: all patches of a large map would not fit memory.
    shape = shape_of(layer, inputs)
    above, left, below, right = shape.pads
    framed = F.pad(inputs, (left, right, above, below)) if any(shape.pads) else inputs
    (tall, wide), (down, across) = shape.kernel, shape.dilation
    height, width = shape.output
    places = _places(layer, height * width)
    rows, columns = places // width * shape.stride[0], places % width * shape.stride[1]
    corners = rows * framed.shape[3] + columns
    around = (torch.arange(tall) * down)[:, None] * framed.shape[3] + torch.arange(wide) * across
    patches = _taken(framed.flatten(2), (around.reshape(-1, 1) + corners).flatten())
    patches = patches.reshape(*patches.shape[:2], tall * wide, len(places))
    return patches.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


def _taken(maps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Take positions of flattened maps, (N, C, places); `gather` is the fastest way to."""
    return maps.gather(2, places.to(maps.device).expand(*maps.shape[:2], -1))


def _places(layer: nn.Module, positions: int) -> torch.Tensor:
    """Choose output positions, the same for every batch and for both networks."""
    generator = torch.Generator().manual_seed(0)
    most = POSITIONS if is_linear_map(layer) else POSITIONS_IN_GROUPS
    return torch.randperm(positions, generator=generator)[:most]
