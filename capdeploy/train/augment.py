"""Random changes of training images. None by default: a flipped "turn left" is a "turn right"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
SHIFT = 8  # an eighth of the side: 4 pixels of 32, as is usual for CIFAR
COLOUR = 0.25


def augment(pixels: Pixels, kinds: Sequence[str], generator: np.random.Generator) -> Pixels:
    """Change each image at random.

    Parameters
    ----------
    pixels : Pixels
        (N, H, W, 3) uint8; left as it is.
    kinds : Sequence[str]
        ``shift`` (up to an eighth of the side, edges mirrored), ``flip`` (left and right, half of
        the images), ``colour`` (brightness and contrast, up to a quarter).
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
    changed: Pixels = np.rint(np.clip((values - middle) * contrast + middle, 0, 255)).astype(
        np.uint8
    )
    return changed


_KINDS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "shift": _shift,
    "flip": _flip,
    "colour": _colour,
}
