"""Accuracy with its uncertainty: nobody should have to guess how much a number can move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, computed_field, model_validator

from capdeploy.values.noun import Noun, TellingNoun

Z95 = 1.959963984540054
DropRule = Literal["real", "estimate", "lower", "upper"]
"""How the interval of a loss counts where it is held against a limit."""
Confusion = tuple[tuple[int, ...], ...]
"""Images by true class (row) and answer (column), in the order of the kept classes."""


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
    # Rounding may put an end on the wrong side of the share itself.
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return max(0.0, min(low, share)), min(1.0, max(high, share))


class ClassAccuracy(TellingNoun):
    """Right answers for the images of one class."""

    name: str
    correct: int = Field(ge=0)
    images: int = Field(gt=0, le=2**53)  # larger numbers are not exact in floats

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if self.correct > self.images:
            raise ValueError(f"{self.name}: {self.correct} correct of {self.images} images")
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def top1(self) -> float:
        """Share of right answers, 0..1."""
        return self.correct / self.images

    @computed_field  # type: ignore[prop-decorator]
    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of `top1`."""
        return wilson(self.correct, self.images)


class Accuracy(TellingNoun):
    """Top-1 accuracy of one network at one stage, per class and in all."""

    stage: str
    classes: tuple[ClassAccuracy, ...] = Field(min_length=1)

    @classmethod
    def counted(
        cls,
        stage: str,
        names: Sequence[str],
        labels: npt.NDArray[np.int64],
        right: npt.NDArray[np.bool_],
    ) -> Self:
        """Count right answers class by class.

        Parameters
        ----------
        stage : str
            What to call the result.
        names : Sequence[str]
            The classes.
        labels : npt.NDArray[np.int64]
            (N,) position of each image's class among them.
        right : npt.NDArray[np.bool_]
            (N,) whether its answer is right.

        Returns
        -------
        Self
            Classes without images are left out.
        """
        images = np.bincount(labels, minlength=len(names))
        correct = np.bincount(labels[right], minlength=len(names))
        return cls(
            stage=stage,
            classes=tuple(
                ClassAccuracy(name=name, correct=int(correct[at]), images=int(images[at]))
                for at, name in enumerate(names)
                if images[at]
            ),
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def correct(self) -> int:
        """Right answers over all classes."""
        return sum(entry.correct for entry in self.classes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def images(self) -> int:
        """Images over all classes."""
        return sum(entry.images for entry in self.classes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def top1(self) -> float:
        """Share of right answers over all images, 0..1."""
        return self.correct / self.images

    @computed_field  # type: ignore[prop-decorator]
    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of `top1`."""
        return wilson(self.correct, self.images)

    @property
    def worst(self) -> ClassAccuracy:
        """The class with the lowest accuracy; the first of equals."""
        return min(self.classes, key=lambda entry: entry.top1)


class Difference(Noun):
    """What one network gets right more often than another on the same images, in points."""

    points: float = Field(description="first minus second, percentage points of top-1")
    low: float = Field(description="lower end of the 95 % interval")
    high: float
    images: int = Field(gt=0)

    @classmethod
    def between(cls, first: Sequence[bool], second: Sequence[bool]) -> Self:
        """Compare right answers image by image.

        Parameters
        ----------
        first : Sequence[bool]
            Whether one network is right, by image.
        second : Sequence[bool]
            Whether the other is, for the same images.

        Returns
        -------
        Self
            The difference and its interval, which the images that both get right or wrong narrow.

        References
        ----------
        Agresti and Min, Simple improved confidence intervals for comparing matched proportions,
        Statistics in Medicine 24, 2005: half an image is added to each cell of the 2 x 2 table.

        Examples
        --------
        >>> same = Difference.between([True] * 98 + [False] * 2, [True] * 98 + [False] * 2)
        >>> same.points, round(same.low, 2), round(same.high, 2)
        (0.0, -1.92, 1.92)
        """
        only_first = sum(a and not b for a, b in zip(first, second, strict=True))
        only_second = sum(b and not a for a, b in zip(first, second, strict=True))
        images = len(first)
        total, gained, lost = images + 2.0, only_first + 0.5, only_second + 0.5
        centre = (gained - lost) / total
        spread = Z95 * math.sqrt((gained + lost) - (gained - lost) ** 2 / total) / total
        return cls(
            points=100 * (only_first - only_second) / images,
            low=100 * (centre - spread), high=100 * (centre + spread), images=images,
        )  # fmt: skip

    def exceeds(self, most: float, rule: DropRule = "real") -> bool:
        """Tell whether the difference is above a limit, its interval counted.

        Parameters
        ----------
        most : float
            The limit, in points.
        rule : DropRule
            ``real``: above the limit, and by its interval no chance (wholly above zero);
            ``lower``: beyond doubt, the whole interval is above the limit; ``upper``: possibly,
            some of it is; ``estimate``: the interval does not count.

        Returns
        -------
        bool
            Whether it is.

        Examples
        --------
        >>> lost = Difference(points=2.6, low=0.8, high=4.2, images=500)
        >>> [lost.exceeds(1.0, rule) for rule in ("real", "estimate", "lower", "upper")]
        [True, True, False, True]
        >>> chance = Difference(points=1.4, low=-0.6, high=3.4, images=500)
        >>> [chance.exceeds(1.0, rule) for rule in ("real", "estimate", "lower", "upper")]
        [False, True, False, True]
        """
        if rule == "real":
            return self.points > most and self.low > 0
        return {"estimate": self.points, "lower": self.low, "upper": self.high}[rule] > most
