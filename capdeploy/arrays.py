"""A data set whose images are all in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from capdeploy.errors import DataError
from capdeploy.values.checkpoint import Preprocessing

MOST_CLASSES = 1 << 20


def numbered(count: int, place: object) -> tuple[str, ...]:
    """Call classes by their numbers.

    Parameters
    ----------
    count : int
        How many.
    place : object
        Where they come from, for the message.

    Returns
    -------
    tuple[str, ...]
        ``0``, ``1``, ...

    Raises
    ------
    DataError
        If these cannot be class numbers, they are so large.
    """
    if count > MOST_CLASSES:
        raise DataError(f"{place} has labels up to {count - 1}; expected classes counted from 0")
    return tuple(map(str, range(count)))


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Tell classes of one name apart by their numbers; ImageNet has two cranes.

    Parameters
    ----------
    names : Sequence[str]
        In the order of the labels.

    Returns
    -------
    tuple[str, ...]
        As they are, but ``crane (134)`` and ``crane (517)`` where several are alike.

    Examples
    --------
    >>> distinct(["cat", "crane", "crane"])
    ('cat', 'crane (1)', 'crane (2)')
    """
    times = Counter(names)
    return tuple(
        name if times[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)
    )


@dataclass(frozen=True)
class Arrays:
    """Images and labels of every split.

    Parameters
    ----------
    title : str
        What to call it in messages.
    names : tuple[str, ...]
        Name of each class.
    images : Mapping[str, npt.NDArray[np.uint8]]
        (N, H, W, 3) RGB for each split, or (N, H, W) grey.
    targets : Mapping[str, npt.NDArray[np.int64]]
        (N,) data classes for each split.
    preprocessing : Preprocessing | None
        What belongs to the data set, if anything does.
    aliases : Mapping[str, tuple[str, ...]]
        Class name to other names that users may say.
    track : None
        No image has a name that could tell.
    """

    title: str
    names: tuple[str, ...]
    images: Mapping[str, npt.NDArray[np.uint8]]
    targets: Mapping[str, npt.NDArray[np.int64]]
    preprocessing: Preprocessing | None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    track: None = None

    def __post_init__(self) -> None:
        for split, labels in self.targets.items():
            if len(labels) != len(self.images[split]):
                raise DataError(
                    f"{self.title}: {len(self.images[split])} images and {len(labels)} labels in "
                    f"its {split} split; expected as many of each"
                )
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.names):
                raise DataError(
                    f"{self.title}: labels {labels.min()}..{labels.max()} in its {split} split, "
                    f"expected 0..{len(self.names) - 1}"
                )

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are there."""
        return tuple(self.images)

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Return the data class of every image."""
        return self.targets[split]

    def read(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        """Return one image in RGB."""
        image = self.images[split][index]
        return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)

    def describe(self, split: str, index: int) -> str:
        """Name one image by its place."""
        return f"{self.title}/{split}/{index}"
