"""The ResNets for 32x32 images of He et al., CVPR 2016, section 4.2, with option-A shortcuts.

Where the width doubles, the shortcut takes every other pixel and pads the missing channels with
zeros, so it has no weights. Three stages of 16, 32 and 64 channels, n blocks each, 6n + 2 layers.
Attribute names are those of the checkpoints in circulation (``layer1.0.conv1``, ``linear``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from capdeploy.catalog import nearest
from capdeploy.errors import ArchitectureError
from capdeploy.zoo import Source

DEPTHS = {f"resnet{6 * blocks + 2}": blocks for blocks in (3, 5, 7, 9, 18)}


class PaddedShortcut(nn.Module):
    """Every other pixel, and zeros for the channels that are not there yet (option A)."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Halve the resolution and pad the channels on both sides."""
        return F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        wider = inputs != outputs
        self.shortcut = PaddedShortcut((outputs - inputs) // 2) if wider else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Add the branch to the shortcut."""
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(branch + self.shortcut(maps))


class CifarResNet(nn.Module):
    """A stem, three stages, average pooling and a linear head.

    Parameters
    ----------
    blocks : int
        Blocks of each stage.
    num_classes : int
        Outputs.
    """

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classify (N, 3, H, W) images."""
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        answers: torch.Tensor = self.linear(maps.mean(dim=(2, 3)))
        return answers


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def _names() -> tuple[str, ...]:
    return tuple(DEPTHS)


def _build(name: str, arguments: Mapping[str, Any], outputs: int | None) -> nn.Module:
    if name not in DEPTHS or arguments:
        raise ArchitectureError(
            f"unknown architecture 'cifar_resnet:{name}': {nearest(name, _names())} "
            "(it takes no --arch-arg)"
        )
    return CifarResNet(DEPTHS[name], 10 if outputs is None else outputs)


SOURCE = Source(build=_build, sized=lambda _: True, names=_names)
