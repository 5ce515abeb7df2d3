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
    part : str
        The one split that it has.
    rows : Mapping[str, npt.NDArray[np.int64]]
        Which of its images each split has.
    track : str | None
        What stayed on one side.
    """

    whole: Dataset
    part: str
    rows: Mapping[str, npt.NDArray[np.int64]]
    track: str | None

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
        return self.whole.labels(self.part)[self.rows[split]]

    def read(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        """Decode one image."""
        return self.whole.read(self.part, int(self.rows[split][index]))

    def describe(self, split: str, index: int) -> str:
        """Name one image."""
        return self.whole.describe(self.part, int(self.rows[split][index]))


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
        do not leak; nor do groups that several classes share. None: every image for itself.
    seed : int
        Of the draw.

    Returns
    -------
    Dataset
        With splits ``train`` and ``test``.

    Raises
    ------
    DataError
        If it has one part and no shares are given, has splits and shares are, or has splits but
        nothing to train or to test with.
    ConfigError
        If the shares do not add up to 100, or the expression is not valid.
    """
    if len(dataset.splits) > 1:
        if shares is not None or group is not None:
            raise DataError(
                f"the data has splits already ({', '.join(dataset.splits)}); "
                "leave --split and --split-group away"
            )
        if "train" not in dataset.splits or not {"test", "val"} & {*dataset.splits}:
            raise DataError(
                f"the data has splits {', '.join(dataset.splits)}; expected train, and test or val"
            )
        return dataset
    part = dataset.splits[0]
    if shares is None:
        has = "no test split" if part in (WHOLE, "train") else f"only a {part} split"
        raise DataError(f"the data has {has}; say how to split it, for example --split 80/20")
    found = re.fullmatch(r"(\d{1,2})/(\d{1,2})", shares)
    train, test = map(int, found.groups()) if found else (0, 0)
    if train + test != 100:
        raise ConfigError(
            f"--split {shares}: expected two shares that add up to 100, such as 80/20"
        )
    track = group if group is not None else dataset.track
    together = tracks(dataset, part, track, strict=group is not None)
    away = held(dataset.labels(part), together, test / 100, np.random.default_rng(seed))
    rows = {"train": np.flatnonzero(~away), "test": np.flatnonzero(away)}
    return Resplit(dataset, part, rows, track)


def tracks(
    dataset: Dataset, split: str, pattern: str | None, *, strict: bool = False
) -> npt.NDArray[np.int64]:
    """Give every image the number of its group.

    Parameters
    ----------
    dataset : Dataset
        The images.
    split : str
        Of which split.
    pattern : str | None
        Regular expression that finds the group in an image's name; None: every image for itself.
    strict : bool
        Refuse images in whose name nothing is found; else they are groups of one.

    Returns
    -------
    npt.NDArray[np.int64]
        (N,) from 0.

    Raises
    ------
    ConfigError
        If the expression is not valid, or finds nothing and that is refused.
    """
    count = len(dataset.labels(split))
    if pattern is None:
        return np.arange(count)
    try:
        finder = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"--split-group {pattern!r} is not a regular expression: {error}"
        ) from error
    known: dict[str | int, int] = {}
    found = np.empty(count, dtype=np.int64)
    for index in range(count):
        name = dataset.describe(split, index)
        match = finder.search(name)
        key = match and match.group(1 if finder.groups else 0)
        if key is None and strict:
            raise ConfigError(f"--split-group {pattern!r} finds nothing in {name}")
        found[index] = known.setdefault(index if key is None else key, len(known))
    return found


def held_back(
    labels: npt.NDArray[np.int64], tracks: npt.NDArray[np.int64], share: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Choose training images for validation: of every class its share.

    Frames of one track or burst are nearly the same image and would leak. Where it is known which
    they are, whole tracks are drawn; else the last images of each class go, for files stand in
    name order.

    Parameters
    ----------
    labels : npt.NDArray[np.int64]
        (N,) classes.
    tracks : npt.NDArray[np.int64]
        (N,) tracks, counted from 0; each image its own where nothing is known.
    share : float
        Of each class, 0..1; one image at least.
    seed : int
        Of the draw.

    Returns
    -------
    npt.NDArray[np.bool_]
        (N,) whether an image is held back.
    """
    found = held(labels, tracks, share, np.random.default_rng(seed))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        unknown = np.unique(tracks[members]).size == len(members)
        if unknown or not found[members].any():  # or there is only one
            last = -max(1, round(len(members) * share))
            found[members] = False
            found[members[last:]] = True
    return found


def held(
    labels: npt.NDArray[np.int64],
    tracks: npt.NDArray[np.int64],
    share: float,
    generator: np.random.Generator,
) -> npt.NDArray[np.bool_]:
    """Draw whole groups until each class has its share; never all that a class has.

    Parameters
    ----------
    labels : npt.NDArray[np.int64]
        (N,) classes.
    tracks : npt.NDArray[np.int64]
        (N,) groups, counted from 0.
    share : float
        Of each class, 0..1.
    generator : np.random.Generator
        Draws.

    Returns
    -------
    npt.NDArray[np.bool_]
        (N,) whether an image is drawn; none of a class that has one group only.
    """
    undecided, train, test = -1, 0, 1
    side = np.full(tracks.max(initial=-1) + 1, undecided)
    classes = [
        np.unique(tracks[labels == label], return_counts=True) for label in np.unique(labels)
    ]
    for groups, sizes in sorted(classes, key=lambda found: len(found[0])):
        # A group that another class has too may be decided already.
        wanted = max(1, round(share * sizes.sum())) - sizes[side[groups] == test].sum()
        free = generator.permutation(np.flatnonzero(side[groups] == undecided))
        if not (side[groups] == train).any():
            free = free[:-1]
        before = np.cumsum(sizes[free]) - sizes[free]
        side[groups[free[before < wanted]]] = test
        side[groups[side[groups] == undecided]] = train
    drawn: npt.NDArray[np.bool_] = side[tracks] == test
    return drawn


def at_most(labels: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw positions, at most so many of each class, in their order.

    Parameters
    ----------
    labels : npt.NDArray[np.int64]
        (N,) classes.
    count : int
        Most of a class.
    seed : int
        Of the draw.

    Returns
    -------
    npt.NDArray[np.int64]
        Ascending positions.
    """
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(np.flatnonzero(labels == label))[:count]
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(drawn))
