"""How each layer runs, its widths apart: enough to build it alone and time it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from capdeploy.observe.taps import evaluating, tapped
from capdeploy.values.latency import LayerShape


def shapes(
    network: nn.Module, layers: Sequence[str], example: torch.Tensor
) -> dict[str, tuple[LayerShape, int]]:
    """Describe convolutions and linear layers as they run.

    Parameters
    ----------
    network : nn.Module
        The network; it is left as it was.
    layers : Sequence[str]
        Names of its convolutions and linear layers.
    example : torch.Tensor
        (N, 3, H, W) float32.

    Returns
    -------
    dict[str, tuple[LayerShape, int]]
        By layer, for one image: its shape at its first call, and how often it is called.
    """
    found: dict[str, tuple[LayerShape, int]] = {}

    def note(name: str, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        shape, calls = found.get(name) or (shape_of(layer, inputs[0]), 0)
        found[name] = (shape, calls + 1)

    with torch.no_grad(), evaluating(network), tapped(network, layers, note):
        network(example)
    return found


def shape_of(layer: nn.Module, value: torch.Tensor) -> LayerShape:
    """Describe one layer as it runs on a value.

    Parameters
    ----------
    layer : nn.Module
        A convolution or a linear layer.
    value : torch.Tensor
        Its input: (N, C, H, W), or (N, ..., C) of a linear layer.

    Returns
    -------
    LayerShape
        Its size, strides and padding.
    """
    if isinstance(layer, nn.Conv2d):
        grouped = layer.groups > 1
        return LayerShape(
            kind="conv", height=value.shape[2], width=value.shape[3],
            kernel=_pair(layer.kernel_size), stride=_pair(layer.stride),
            dilation=_pair(layer.dilation), pads=_pads(layer),
            block=(layer.out_channels // layer.groups, layer.in_channels // layer.groups)
            if grouped else None,
        )  # fmt: skip
    positions = value[0].numel() // value.shape[-1]
    # Over many positions a linear layer is a 1x1 convolution in another order of axes.
    kind = "linear" if positions == 1 else "conv"
    return LayerShape.model_validate({"kind": kind, "height": positions, "width": 1})


def _pair(value: Sequence[int]) -> tuple[int, int]:
    return value[0], value[1]


def _pads(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":
        sides = [size * (kernel - 1) for size, kernel in
                 zip(layer.dilation, layer.kernel_size, strict=True)]  # fmt: skip
        return sides[0] // 2, sides[1] // 2, -(-sides[0] // 2), -(-sides[1] // 2)
    tall, wide = int(layer.padding[0]), int(layer.padding[1])
    return tall, wide, tall, wide
