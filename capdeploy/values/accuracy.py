"""Accuracy with its uncertainty: nobody should have to guess how much a number can move."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from capdeploy.values.noun import Noun

Z95 = 1.959963984540054


def wilson(correct: int, images: int, z: float = Z95) -> tuple[float, float]:
    """Bound a proportion by Wilson's score interval.

    Parameters
    ----------
    correct : int
        Successes, 0..images.
    images : int
        Trials, at least 1.
    z : float
        Normal quantile; the default gives 95 %.

    Returns
    -------
    tuple[float, float]
        Lower and upper bound, 0..1.

    References
    ----------
    Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.

    Examples
    --------
    >>> [round(bound, 4) for bound in wilson(45, 50)]
    [0.7864, 0.9565]
    """
    share = correct / images
    centre = share + z * z / (2 * images)
    spread = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


class ClassAccuracy(Noun):
    """Right answers for the images of one class."""

    name: str
    correct: int = Field(ge=0)
    images: int = Field(gt=0)

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if self.correct > self.images:
            raise ValueError(f"{self.name}: {self.correct} correct of {self.images} images")
        return self

    @property
    def top1(self) -> float:
        """Share of right answers, 0..1."""
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of `top1`."""
        return wilson(self.correct, self.images)


class Accuracy(Noun):
    """Top-1 accuracy of one network at one stage, per class and in all."""

    stage: str
    classes: tuple[ClassAccuracy, ...] = Field(min_length=1)

    @property
    def correct(self) -> int:
        """Right answers over all classes."""
        return sum(entry.correct for entry in self.classes)

    @property
    def images(self) -> int:
        """Images over all classes."""
        return sum(entry.images for entry in self.classes)

    @property
    def top1(self) -> float:
        """Share of right answers over all images, 0..1."""
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of `top1`."""
        return wilson(self.correct, self.images)

    @property
    def worst(self) -> ClassAccuracy:
        """The class with the lowest accuracy; the first of equals."""
        return min(self.classes, key=lambda entry: entry.top1)
