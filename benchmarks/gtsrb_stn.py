"""A network as users have them: a plain CNN behind a spatial transformer, for traffic signs.

Jaderberg et al., Spatial transformer networks, NeurIPS 2015. The names of the layers are those of
the checkpoints in circulation. Answers are logits: a softmax at the end would tie the classes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class SpatialTransformerNet(nn.Module):
    """Three convolutions behind a learnt affine warp, for 32x32 images."""

    def __init__(self, num_classes: int = 43) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 100, 5), nn.BatchNorm2d(100)
        self.conv2, self.bn2 = nn.Conv2d(100, 150, 3), nn.BatchNorm2d(150)
        self.conv3, self.bn3 = nn.Conv2d(150, 250, 3), nn.BatchNorm2d(250)
        self.fc1, self.fc2 = nn.Linear(250 * 2 * 2, 350), nn.Linear(350, num_classes)
        self.localization = nn.Sequential(
            nn.Conv2d(3, 8, 7), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(8, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
        )  # fmt: skip
        self.fc_loc = nn.Sequential(nn.Linear(10 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.localization(images).flatten(1)
        warp = self.fc_loc(found).view(-1, 2, 3)
        grid = F.affine_grid(warp, list(images.shape), align_corners=True)
        maps = F.grid_sample(images, grid, align_corners=True)
        for convolution, norm in (
            (self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3),
        ):  # fmt: skip
            maps = norm(F.max_pool2d(F.leaky_relu(convolution(maps)), 2))
        return self.fc2(F.relu(self.fc1(maps.flatten(1))))
