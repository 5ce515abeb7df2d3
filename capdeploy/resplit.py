"""Splits data that its owner did not split: class by class, groups of images kept together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capdeploy.data import WHOLE, Dataset
from capdeploy.errors import ConfigError, DataError
from capdeploy.values.checkpoint import Preprocessing


@dataclass(frozen=True)
class Resplit:
    """A data set with a training and a test split of its own making.

    Parameters
    ----------
    whole : Dataset
        The data set as it is.
    rows : Mapping[str, npt.NDArray[np.int64]]
        Which of its images each split has.
    """

    whole: Dataset
    rows: Mapping[str, npt.NDArray[np.int64]]

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.whole.names

    @property
    def splits(self) -> tuple[str, ...]:
        """Training and test."""
        return tuple(self.rows)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What belongs to the data set."""
        return self.whole.preprocessing

    @property
    def aliases(self) -> Mapping[str, tuple[str, ...]]:
        """Class name to other names."""
        return self.whole.aliases

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Return the data class of every image of a split."""
        return self.whole.labels(WHOLE)[self.rows[split]]

    def read(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        """Decode one image."""
        return self.whole.read(WHOLE, int(self.rows[split][index]))

    def describe(self, split: str, index: int) -> str:
        """Name one image."""
        return self.whole.describe(WHOLE, int(self.rows[split][index]))


def resplit(dataset: Dataset, shares: str | None, group: str | None, *, seed: int) -> Dataset:
    """Split a data set that has only one part; one that its owner split is left as it is.

    Parameters
    ----------
    dataset : Dataset
        The data set.
    shares : str | None
        ``80/20``: training and test, in per cent.
    group : str | None
        Regular expression, searched in an image's name (its path): images for which it finds the
        same (its first bracket, if it has one) go to the same side, so that frames of one track
        do not leak. None: every image for itself.
    seed : int
        Of the draw.

    Returns
    -------
    Dataset
        With splits ``train`` and ``test``.

    Raises
    ------
    DataError
        If it has one part and no shares are given, or has splits and shares are.
    ConfigError
        If the shares do not add up to 100, or the expression is not valid.
    """
    if dataset.splits != (WHOLE,):
        if shares is not None or group is not None:
            raise DataError(
                f"the data has splits already ({', '.join(dataset.splits)}); leave --split away"
            )
        return dataset
    if shares is None:
        raise DataError(
            "the data has no test split; say how to split it, for example --split 80/20"
        )
    train, _, test = shares.partition("/")
    if int(train) + int(test) != 100 or not int(train) or not int(test):
        raise ConfigError(
            f"--split {shares}: expected two shares that add up to 100, such as 80/20"
        )
    tracks = _tracks(dataset, group)
    labels = dataset.labels(WHOLE)
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen += _draw(members, tracks[members], int(test) / 100, generator)
    held = np.array(sorted(chosen), dtype=np.int64)
    rest = np.setdiff1d(np.arange(len(labels)), held)
    return Resplit(dataset, {"train": rest, "test": held})


def _tracks(dataset: Dataset, group: str | None) -> npt.NDArray[np.int64]:
    """Give every image the number of its group."""
    count = len(dataset.labels(WHOLE))
    if group is None:
        return np.arange(count)
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ConfigError(
            f"--split-group {group!r} is not a regular expression: {error}"
        ) from error
    known: dict[str, int] = {}
    found = np.empty(count, dtype=np.int64)
    for index in range(count):
        name = dataset.describe(WHOLE, index)
        match = pattern.search(name)
        if match is None:
            raise ConfigError(f"--split-group {group!r} finds nothing in {name}")
        key = match.group(1) if pattern.groups else match.group(0)
        found[index] = known.setdefault(key, len(known))
    return found


def _draw(
    members: npt.NDArray[np.int64],
    tracks: npt.NDArray[np.int64],
    share: float,
    generator: np.random.Generator,
) -> list[int]:
    """Draw whole groups of one class until their share is reached; never all of them."""
    wanted = max(1, round(share * len(members)))
    order = generator.permutation(np.unique(tracks))
    taken: list[int] = []
    for track in order[:-1]:
        if len(taken) >= wanted:
            break
        taken += members[tracks == track].tolist()
    return taken
