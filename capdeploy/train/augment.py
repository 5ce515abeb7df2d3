"""Random changes of training images. None by default: a flipped "turn left" is a "turn right"."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

Pixels = npt.NDArray[np.uint8]
SHIFT = 8  # an eighth of the side: 4 pixels of 32, as is usual for CIFAR
COLOUR = 0.25
TURN, ZOOM, MOVE = math.radians(8), 0.15, 0.05
"""Of a warp: most turn, zoom (of its logarithm) and shift (a share of the side)."""
DIM, BRIGHT = 0.3, 1.8
FLAT, HARSH = 0.15, 1.6
NOISE = 2.5


def augment(pixels: Pixels, kinds: Sequence[str], generator: np.random.Generator) -> Pixels:
    """Change each image at random.

    Parameters
    ----------
    pixels : Pixels
        (N, H, W, 3) uint8; left as it is.
    kinds : Sequence[str]
        ``shift`` (up to an eighth of the side, edges mirrored), ``flip`` (left and right, half of
        the images), ``colour`` (brightness and contrast, up to a quarter), ``warp`` (a little
        turned, zoomed and moved), ``light`` (from near darkness to glare, from hardly any contrast
        to much, noise).
    generator : np.random.Generator
        Draws.

    Returns
    -------
    Pixels
        Of the same shape.
    """
    for kind in kinds:
        pixels = _KINDS[kind](pixels, generator)
    return pixels


def _shift(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    count, height, width, _ = pixels.shape
    tall, wide = max(1, height // SHIFT), max(1, width // SHIFT)
    framed = np.pad(pixels, ((0, 0), (tall, tall), (wide, wide), (0, 0)), mode="reflect")
    tops = generator.integers(0, 2 * tall + 1, count)
    lefts = generator.integers(0, 2 * wide + 1, count)
    moved: Pixels = np.stack(
        [
            image[top : top + height, left : left + width]
            for image, top, left in zip(framed, tops, lefts, strict=True)
        ]
    )
    return moved


def _flip(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    flipped = generator.random(len(pixels)) < 0.5
    changed: Pixels = np.where(flipped[:, None, None, None], pixels[:, :, ::-1], pixels)
    return changed


def _colour(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    drawn = generator.uniform(1 - COLOUR, 1 + COLOUR, (2, len(pixels), 1, 1, 1))
    bright, contrast = drawn.astype(np.float32)
    values = pixels.astype(np.float32) * bright
    middle = values.mean(axis=(1, 2, 3), keepdims=True)
    return _bytes((values - middle) * contrast + middle)


def _warp(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    count = len(pixels)
    turn = generator.uniform(-TURN, TURN, count)
    zoom = np.exp(generator.uniform(-ZOOM, ZOOM, count))
    move = 2 * generator.uniform(-MOVE, MOVE, (2, count))  # the sides are 2 long here
    maps = np.stack(
        [
            np.stack([np.cos(turn) * zoom, -np.sin(turn) * zoom, move[0]], axis=1),
            np.stack([np.sin(turn) * zoom, np.cos(turn) * zoom, move[1]], axis=1),
        ],
        axis=1,
    ).astype(np.float32)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    grid = F.affine_grid(torch.from_numpy(maps), list(images.shape), align_corners=False)
    seen = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return _bytes(seen.permute(0, 2, 3, 1).numpy())


def _light(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    shape = (len(pixels), 1, 1, 1)
    contrast = np.exp(generator.uniform(math.log(FLAT), math.log(HARSH), shape)).astype(np.float32)
    bright = np.exp(generator.uniform(math.log(DIM), math.log(BRIGHT), shape)).astype(np.float32)
    noise = NOISE * generator.standard_normal(pixels.shape, dtype=np.float32)
    values = pixels.astype(np.float32)
    middle = values.mean(axis=(1, 2, 3), keepdims=True)
    return _bytes((values - middle) * contrast + middle * bright + noise)


def _bytes(values: npt.NDArray[np.float32]) -> Pixels:
    found: Pixels = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return found


_KINDS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "shift": _shift,
    "flip": _flip,
    "colour": _colour,
    "warp": _warp,
    "light": _light,
}
