"""Small networks with the troubles of large ones, and factories for ``--arch tests.nets:...``."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models


class Chain(nn.Module):
    """Convolutions with batch normalisation and in-place ReLU, a flatten, two linear layers."""

    def __init__(self, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
        )
        self.hidden = nn.Linear(2 * width * 4, 24)
        self.head = nn.Linear(24, num_classes)

    def forward(self, images):
        maps = self.features(images).flatten(1)
        return self.head(F.relu(self.hidden(maps)))


class Residual(nn.Module):
    """A stem, a residual block, a depthwise expansion, a concatenation; defined out of order."""

    def __init__(self, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.head = nn.Linear(2 * width, num_classes)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.project = nn.Conv2d(2 * width, width, 1)

    def forward(self, images):
        x = F.relu(self.bn0(self.stem(images)))
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = F.relu(x + y)
        z = self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))
        return self.head(torch.cat([x, z], dim=1).mean(dim=(2, 3)))


class Block(nn.Module):
    """A residual block as ResNets have it."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        y += x
        return F.relu(y, inplace=True)


class Blocks(nn.Module):
    """A stem and three residual blocks in a row."""

    def __init__(self, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.stage = nn.Sequential(*(Block(width, 2 * width) for _ in range(3)))
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.stage(F.relu(self.norm(self.stem(images)))).mean(dim=(2, 3)))


class ChannelsLast(nn.Module):
    """Linear layers that see (N, H, W, C), and a linear layer that is added to, as in ConvNeXt."""

    def __init__(self, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=2)
        self.wide, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.hidden, self.again = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        x = self.stem(images).permute(0, 2, 3, 1)
        x = self.back(F.gelu(self.wide(x))) + x
        x = x.mean(dim=(1, 2))
        return self.head(self.again(F.relu(self.hidden(x))) + x)


class ConvHead(nn.Module):
    """The classifier is a 1x1 convolution, as in SqueezeNet."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
        )
        self.classifier = nn.Conv2d(16, num_classes, 1)

    def forward(self, images):
        return F.adaptive_avg_pool2d(self.classifier(self.features(images)), 1).flatten(1)


class Grouped(nn.Module):
    """A grouped convolution in the middle, which can only lose whole groups."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.grouped = nn.Conv2d(16, 16, 3, groups=2)
        self.last = nn.Conv2d(16, 32, 3)
        self.head = nn.Linear(32, num_classes)

    def forward(self, images):
        x = F.relu(self.grouped(F.relu(self.stem(images))))
        return self.head(F.relu(self.last(x)).mean(dim=(2, 3)))


class Separable(nn.Module):
    """A normalised pointwise convolution and one in groups right behind it."""

    def __init__(self, num_classes: int = 10, groups: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.point = nn.Conv2d(8, 16, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, groups=groups)
        self.head = nn.Linear(16, num_classes)

    def forward(self, images):
        x = self.grouped(self.norm(self.point(F.relu(self.stem(images)))))
        return self.head(F.relu(x).mean(dim=(2, 3)))


class Narrow(nn.Module):
    """A depthwise convolution that a large cut leaves a single channel."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.point = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, num_classes)

    def forward(self, images):
        x = F.relu(self.depthwise(F.relu(self.stem(images))))
        return self.head(F.relu(self.point(x)).mean(dim=(2, 3)))


class PreActivation(nn.Module):
    """Residual blocks that normalise before they convolve: the next norm is the next block's."""

    class Block(nn.Module):
        """Half as wide inside."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(2 * width)
            self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
            self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)

        def forward(self, x):
            return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))

    def __init__(self, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stage = nn.Sequential(*(self.Block(width) for _ in range(3)))
        self.norm, self.head = nn.BatchNorm2d(width), nn.Linear(width, num_classes)

    def forward(self, images):
        x = self.stage(self.stem(images))
        return self.head(F.relu(self.norm(x)).mean(dim=(2, 3)))


class OwnConv(nn.Conv2d):
    """A convolution by another name."""


class Joined(nn.Module):
    """Two layers side by side, added to a third that is as wide as both."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.left, self.right = OwnConv(3, 8, 3), OwnConv(3, 8, 3)
        self.both = nn.Conv2d(3, 16, 3)
        self.head = nn.Linear(16, num_classes)

    def forward(self, images):
        x = torch.cat([self.left(images), self.right(images)], dim=1) + self.both(images)
        return self.head(F.relu(x).mean(dim=(2, 3)))


class Uneven(nn.Module):
    """A wide and a cheap half of one sum's channels: which of them go makes all the difference."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.cheap = nn.Conv2d(32, 16, 1)
        self.dear = nn.Conv2d(32, 16, 5, padding=2)
        self.last = nn.Conv2d(32, 32, 3)
        self.head = nn.Linear(32, num_classes)

    def forward(self, images):
        x = F.relu(self.stem(images))
        x = torch.cat([self.cheap(x), self.dear(x)], dim=1) + x
        return self.head(F.relu(self.last(F.relu(x))).mean(dim=(2, 3)))


class Forked(Uneven):
    """The same sum, its terms the other way round: two groups, and both begin at the stem."""

    def forward(self, images):
        x = F.relu(self.stem(images))
        x = x + torch.cat([self.cheap(x), self.dear(x)], dim=1)
        return self.head(F.relu(self.last(F.relu(x))).mean(dim=(2, 3)))


class TiedConvs(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, bias=False)
        self.one, self.two = nn.Conv2d(16, 16, 3, bias=False), nn.Conv2d(16, 16, 3, bias=False)
        self.two.weight = self.one.weight
        self.last, self.head = nn.Conv2d(16, 32, 3), nn.Linear(32, num_classes)

    def forward(self, images):
        x = F.relu(self.two(F.relu(self.one(F.relu(self.stem(images))))))
        return self.head(F.relu(self.last(x)).mean(dim=(2, 3)))


class Pyramid(nn.Module):
    """A layer and its norm that run at two resolutions, behind an activation in place."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.shared, self.norm = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, num_classes)

    def forward(self, images):
        x = self.after(self.relu(self.stem(images)))
        fine, coarse = (self.norm(self.shared(each)) for each in (x, F.avg_pool2d(x, 2)))
        return self.head(fine.relu().mean(dim=(2, 3)) + coarse.relu().mean(dim=(2, 3)))


class Twice(nn.Module):
    """A network that has its layers under two names, as some ports of older code do."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.features = nn.Sequential(self.first, nn.ReLU(), self.second, nn.ReLU())
        self.head = nn.Linear(16, num_classes)

    def forward(self, images):
        return self.head(self.features(images).mean(dim=(2, 3)))


class Deciding(nn.Module):
    """Control flow that depends on a value, which no symbolic trace can follow."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, num_classes)

    def forward(self, images):
        x = F.relu(self.conv(images)).mean(dim=(2, 3))
        return self.head(x if x.sum() > 0 else -x)


class Wild(nn.Module):
    """Habits of networks in the wild: a norm after the add, one layer used twice, in-place ReLU."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.branch = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.after = nn.BatchNorm2d(16)
        self.shared = nn.Conv2d(16, 16, 3, padding=1)
        self.wide, self.bn = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32)
        self.narrow = nn.Conv2d(32, 24, 1)
        self.head = nn.Linear(24, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stem(images)
        maps = F.relu(self.after(maps + self.branch(maps)), inplace=True)
        for _ in range(2):
            maps = F.relu(self.shared(maps), inplace=True)
        maps = F.relu_(self.bn(self.wide(maps)))
        return self.head(F.relu(self.narrow(maps)).mean(dim=(2, 3)))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight


def fixed() -> nn.Module:
    """A factory that takes no number of classes."""
    return Chain(num_classes=10)


def frozen(num_classes: int = 10) -> nn.Module:
    """Made for double precision, and not to be trained."""
    return Chain(num_classes).double().requires_grad_(False)


def not_a_network() -> int:
    return 3


def vgg(num_classes: int = 10) -> nn.Module:
    """torchvision's VGG, thin: the head of a real one has over a hundred million weights."""
    features = models.vgg.make_layers([16, "M", 32, "M", 64, 64, "M"], batch_norm=True)
    with torch.device("meta"):  # that head is not even drawn
        network = models.VGG(features, init_weights=False)
    network.classifier = nn.Sequential(
        nn.Linear(64 * 49, 64), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(64, num_classes)
    )
    return network


def vit(num_classes: int = 10) -> nn.Module:
    """torchvision's vision transformer, small."""
    return models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=64,
        num_classes=num_classes,
    )  # fmt: skip
