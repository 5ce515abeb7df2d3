"""Random changes of training images. None by default: a flipped "turn left" is a "turn right"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
CROP = 0.5
"""Smallest share of an image's area that a crop keeps; a half keeps small objects recognisable."""
ASPECT = 0.8
SHIFT = 8  # an eighth of the side: 4 pixels of 32, as is usual for CIFAR
COLOUR = 0.25


def augment(pixels: Pixels, kinds: Sequence[str], generator: np.random.Generator) -> Pixels:
    """Change each image at random.

    Parameters
    ----------
    pixels : Pixels
        (N, H, W, 3) uint8; left as it is.
    kinds : Sequence[str]
        ``crop`` (a part of at least half the area, enlarged again), ``shift`` (up to an eighth of
        the side, edges mirrored), ``flip`` (left and right, half of the images), ``colour``
        (brightness and contrast, up to a quarter).
    generator : np.random.Generator
        Draws.

    Returns
    -------
    Pixels
        Of the same shape.

    References
    ----------
    Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6 (crops of varied size and
    shape; theirs keep 8 % of the area or more, far too little to imitate a teacher in few epochs).
    """
    for kind in kinds:
        pixels = _KINDS[kind](pixels, generator)
    return pixels


def _crop(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    count, height, width, _ = pixels.shape
    area = generator.uniform(CROP, 1.0, count)
    aspect = np.exp(generator.uniform(np.log(ASPECT), -np.log(ASPECT), count))
    tall = np.minimum(height, np.sqrt(area / aspect) * height)
    wide = np.minimum(width, np.sqrt(area * aspect) * width)
    tops = generator.uniform(0.0, 1.0, count) * (height - tall)
    lefts = generator.uniform(0.0, 1.0, count) * (width - wide)
    boxes = np.stack([lefts, tops, lefts + wide, tops + tall], axis=1).tolist()
    size, how = (width, height), Image.Resampling.BILINEAR
    images = map(Image.fromarray, pixels)
    cropped: Pixels = np.stack(
        [np.asarray(each.resize(size, how, box)) for each, box in zip(images, boxes, strict=True)]
    )
    return cropped


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
    "crop": _crop,
    "shift": _shift,
    "flip": _flip,
    "colour": _colour,
}
