"""The files of CIFAR-10 and CIFAR-100 as their owner publishes them (Krizhevsky, 2009).

The python version is pickled; only numpy arrays, lists and strings are let out of it.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capdeploy import listing
from capdeploy.arrays import Arrays
from capdeploy.errors import DataError
from capdeploy.listing import Files
from capdeploy.values.checkpoint import Preprocessing

SIDE = 32
PIXELS = 3 * SIDE * SIDE
_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


@dataclass(frozen=True)
class Edition:
    """One of the two data sets.

    Parameters
    ----------
    title : str
        Its name.
    python : str
        Folder that the owner's archive of the python version unpacks to.
    binary : str
        Likewise, of the binary version.
    batches : dict[str, tuple[str, ...]]
        Files of each split, without suffix.
    names : tuple[str, ...]
        Class names in the order of the labels, which is the alphabet's.
    key : bytes
        Where the labels are in a pickled batch.
    label_bytes : int
        Bytes before each image in the binary version; the last is the label.
    preprocessing : Preprocessing
        Size, and mean and standard deviation of the training images.
    """

    title: str
    python: str
    binary: str
    batches: dict[str, tuple[str, ...]]
    names: tuple[str, ...]
    key: bytes
    label_bytes: int
    preprocessing: Preprocessing


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place in it")
        return super().find_class(module, name)


def open_edition(edition: Edition, location: str) -> Arrays | Files:
    """Open whichever version lies at a place: pickled, binary, or class folders of images.

    Parameters
    ----------
    edition : Edition
        Which data set.
    location : str
        The folder that the archive unpacked to, or the one that holds it.

    Returns
    -------
    Arrays | Files
        The opened data set.

    Raises
    ------
    DataError
        If none of the versions is there, or a file is damaged.
    """
    root = Path(location)
    if not location or not root.is_dir():
        raise DataError(f"data folder {location!r} does not exist; give {edition.title}:PATH")
    for folder in (root, root / edition.python, root / edition.binary):
        for suffix, read in (("", _pickled), (".bin", _binary)):
            if (folder / f"{edition.batches['test'][0]}{suffix}").is_file():
                return _arrays(edition, folder, suffix, read)
    if (root / "train").is_dir():
        splits = [split for split in ("train", "val", "test") if (root / split).is_dir()]
        names, listings = listing.split_folders(root, edition.names, splits)
        return Files(names, listings, edition.preprocessing)
    archives = [path.name for path in root.glob("*.tar.gz")]
    hint = f"found {archives[0]}, unpack it first" if archives else "found none of them"
    raise DataError(f"{root} must hold {edition.python}, {edition.binary} or train/CLASS/*; {hint}")


def _arrays(edition: Edition, folder: Path, suffix: str, read: Any) -> Arrays:
    images, targets = {}, {}
    for split, batches in edition.batches.items():
        parts = [read(folder / f"{name}{suffix}", edition) for name in batches]
        images[split] = np.concatenate([pixels for pixels, _ in parts])
        targets[split] = np.concatenate([labels for _, labels in parts])
    return Arrays(edition.title, edition.names, images, targets, edition.preprocessing)


def _pickled(file: Path, edition: Edition) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        with file.open("rb") as stream:
            batch = _Unpickler(stream, encoding="bytes").load()
        return _images(batch[b"data"]), np.asarray(batch[edition.key], dtype=np.int64)
    except Exception as error:  # an unpickler fails in every way on a damaged file
        raise DataError(f"{file} is not a batch of {edition.title}: {error}") from error


def _binary(file: Path, edition: Edition) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    record = edition.label_bytes + PIXELS
    try:
        raw = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    if not raw.size or raw.size % record:
        raise DataError(
            f"{file} has {raw.size} bytes, expected a multiple of {record}; get it again"
        )
    rows = raw.reshape(-1, record)
    labels = rows[:, edition.label_bytes - 1].astype(np.int64)
    return _images(rows[:, edition.label_bytes :]), labels


def _images(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    planes = np.asarray(rows, dtype=np.uint8).reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
