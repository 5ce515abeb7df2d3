"""A folder of class folders: ``ROOT/train/CLASS/*`` and ``ROOT/test`` or ``ROOT/val``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from capdeploy.data import Kind
from capdeploy.errors import DataError
from capdeploy.values.checkpoint import Preprocessing

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class Folder:
    """The images under one root, listed and not yet read."""

    root: Path
    names: tuple[str, ...]
    files: dict[str, tuple[tuple[Path, int], ...]]
    preprocessing: Preprocessing | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are there."""
        return tuple(self.files)

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Return the data class of every image, in name order within a class."""
        return np.array([label for _, label in self.files[split]], dtype=np.int64)

    def read(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        """Decode one image to RGB."""
        with Image.open(self.files[split][index][0]) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)

    def describe(self, split: str, index: int) -> str:
        """Return the image's path."""
        return str(self.files[split][index][0])


def _open(location: str) -> Folder:
    root = Path(location)
    if not location or not root.is_dir():
        raise DataError(f"data folder {location!r} does not exist; give folder:PATH")
    splits = [split for split in ("train", "val", "test") if (root / split).is_dir()]
    if "train" not in splits or len(splits) < 2:
        found = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
        raise DataError(f"data folder {root} must hold train/ and val/ (or test/), found {found}")
    names = tuple(sorted(path.name for path in (root / "train").iterdir() if path.is_dir()))
    if not names:
        raise DataError(f"{root / 'train'} holds no class folders; expected train/CLASS/image")
    for split in splits[1:]:
        strange = sorted(
            {path.name for path in (root / split).iterdir() if path.is_dir()} - {*names}
        )
        if strange:
            raise DataError(f"{root / split / strange[0]} has no counterpart in {root / 'train'}")
    files = {split: tuple(_listed(root / split, names)) for split in splits}
    return Folder(root, names, files)


def _listed(folder: Path, names: tuple[str, ...]) -> list[tuple[Path, int]]:
    listing = []
    for label, name in enumerate(names):
        if not (folder / name).is_dir():
            continue
        with os.scandir(folder / name) as entries:
            images = sorted(
                entry.name for entry in entries if Path(entry.name).suffix.lower() in SUFFIXES
            )
        listing += [(folder / name / image, label) for image in images]
    return listing


DATASET = Kind(open=_open, layout="folder:ROOT with train/CLASS/* and val/CLASS/* or test/CLASS/*")
