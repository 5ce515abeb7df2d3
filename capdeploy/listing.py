"""Class folders of image files: listed without being opened, some hundred bytes an image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capdeploy import pixels
from capdeploy.errors import DataError
from capdeploy.values.checkpoint import Preprocessing

SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """The image files of one split.

    Parameters
    ----------
    folders : tuple[str, ...]
        Where they are.
    names : list[str]
        File name of each image.
    folder_of : npt.NDArray[np.int32]
        (N,) position of its folder.
    labels : npt.NDArray[np.int64]
        (N,) its data class.
    """

    folders: tuple[str, ...]
    names: list[str]
    folder_of: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int64]

    def path(self, index: int) -> str:
        """Return an image's path."""
        return os.path.join(self.folders[self.folder_of[index]], self.names[index])


@dataclass(frozen=True)
class Files:
    """A data set of image files.

    Parameters
    ----------
    names : tuple[str, ...]
        Name of each class.
    listings : Mapping[str, Listing]
        The files of each split.
    preprocessing : Preprocessing | None
        What belongs to the data set, if anything does.
    aliases : Mapping[str, tuple[str, ...]]
        Class name to other names that users may say.
    track : str | None
        Regular expression that finds in an image's path which track it is a frame of.
    """

    names: tuple[str, ...]
    listings: Mapping[str, Listing]
    preprocessing: Preprocessing | None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    track: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are there."""
        return tuple(self.listings)

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Return the data class of every image, in name order within a class."""
        return self.listings[split].labels

    def read(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        """Decode one image to RGB."""
        return pixels.decode(Path(self.describe(split, index)))

    def describe(self, split: str, index: int) -> str:
        """Return the image's path."""
        return self.listings[split].path(index)


def subfolders(root: Path) -> list[str]:
    """List the folders in a folder, in name order; hidden ones are left out."""
    with os.scandir(root) as entries:
        return sorted(
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        )


def images_in(folder: Path) -> list[str]:
    """List the image files in a folder, in name order."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
        )


def by_class(root: Path, classes: Sequence[str]) -> Listing:
    """List the images of class folders.

    Parameters
    ----------
    root : Path
        Folder of class folders.
    classes : Sequence[str]
        Folder names, in the order of the labels; those that are not there have no images.

    Returns
    -------
    Listing
        All images, class by class.
    """
    folders = [root / name for name in classes]
    found = [images_in(folder) if folder.is_dir() else [] for folder in folders]
    counts = [len(names) for names in found]
    return Listing(
        tuple(map(str, folders)),
        [name for names in found for name in names],
        np.repeat(np.arange(len(folders), dtype=np.int32), counts),
        np.repeat(np.arange(len(folders), dtype=np.int64), counts),
    )


def split_folders(
    root: Path, names: Sequence[str] | None = None, splits: Sequence[str] = ("train", "val", "test")
) -> tuple[tuple[str, ...], dict[str, Listing]]:
    """List ``ROOT/SPLIT/CLASS/*`` for every split that is there.

    Parameters
    ----------
    root : Path
        The data set's folder.
    names : Sequence[str] | None
        Class folders in the order of the labels; None: those of the first split, in name order.
    splits : Sequence[str]
        Folder names of splits.

    Returns
    -------
    tuple[tuple[str, ...], dict[str, Listing]]
        Class names, and the listing of each split.

    Raises
    ------
    DataError
        If a split holds no class folders, or one that the first split does not have.
    """
    there = [split for split in splits if (root / split).is_dir()]
    known = tuple(names or subfolders(root / there[0]))
    if not known:
        raise DataError(
            f"{root / there[0]} holds no class folders; expected {there[0]}/CLASS/image"
        )
    for split in there:
        strange = sorted({*subfolders(root / split)} - {*known})
        if strange:
            where = "in the data set's classes" if names else f"in {root / there[0]}"
            raise DataError(f"{root / split / strange[0]} has no counterpart {where}")
    return known, {split: by_class(root / split, known) for split in there}
