"""One .npz file of arrays, as Keras, MedMNIST and numpy users keep small data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capdeploy.arrays import Arrays, distinct, numbered
from capdeploy.data import WHOLE, Kind
from capdeploy.errors import DataError

SPLITS = ("train", "val", "test")
PAIRS = (
    ("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}_x", "{}_y"), ("X_{}", "y_{}"),
)  # fmt: skip
WHOLE_PAIRS = (("images", "labels"), ("x", "y"), ("X", "y"))
NAMES = ("names", "class_names", "classes")


def _open(location: str) -> Arrays:
    file = Path(location)
    if not location or not file.is_file():
        raise DataError(f"data file {location!r} does not exist; give npz:FILE")
    try:
        # Object arrays are pickles, and stay shut.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zip and numpy fail in every way on a damaged file
        # numpy's own words advise to unpickle whatever it cannot read.
        raise DataError(
            f"{file} is not an .npz file of plain arrays ({type(error).__name__}); write it with "
            "numpy.savez, without object arrays"
        ) from error
    pairs = {split: pair for split in SPLITS if (pair := _pair(arrays, PAIRS, split)) is not None}
    whole = _pair(arrays, WHOLE_PAIRS, "")
    if not pairs and whole is not None:
        pairs = {WHOLE: whole}
    if WHOLE not in pairs and ("train" not in pairs or len(pairs) == 1):
        raise DataError(
            f"{file} must hold x_train, y_train, x_test and y_test (or images and labels), found "
            f"{', '.join(arrays) or 'nothing'}"
        )
    images = {split: _images(file, arrays[x], x) for split, (x, _) in pairs.items()}
    targets = {split: _targets(file, arrays[y], y) for split, (_, y) in pairs.items()}
    classes = 1 + max(int(labels.max(initial=0)) for labels in targets.values())
    given = next((arrays[name] for name in NAMES if name in arrays and arrays[name].ndim), None)
    names = numbered(classes, file) if given is None else distinct([*map(str, given.tolist())])
    return Arrays(file.stem, names, images, targets)


def _pair(
    arrays: Mapping[str, npt.NDArray[np.generic]],
    patterns: tuple[tuple[str, str], ...],
    split: str,
) -> tuple[str, str] | None:
    for images, labels in patterns:
        if images.format(split) in arrays and labels.format(split) in arrays:
            return images.format(split), labels.format(split)
    return None


def _images(file: Path, raw: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.uint8]:
    """Bring images to (N, H, W) or (N, H, W, 3) uint8; planes in front are moved to the back."""
    shape = raw.shape
    if raw.ndim == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raw = raw.transpose(0, 2, 3, 1)
    if raw.ndim == 4 and raw.shape[3] == 1:
        raw = raw[..., 0]
    if raw.ndim not in (3, 4) or (raw.ndim == 4 and raw.shape[3] != 3):
        raise DataError(
            f"{file}: {name} is {shape}, expected (N, H, W), (N, H, W, 3) or (N, 3, H, W)"
        )
    if raw.dtype != np.uint8:
        raise DataError(
            f"{file}: {name} is {raw.dtype}, expected uint8 in 0..255; convert it and save it again"
        )
    return np.ascontiguousarray(raw, dtype=np.uint8)


def _targets(file: Path, raw: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.int64]:
    flat = raw.reshape(-1) if raw.ndim == 2 and raw.shape[1] == 1 else raw
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise DataError(f"{file}: {name} is {raw.shape} {raw.dtype}, expected (N,) class numbers")
    return flat.astype(np.int64)


DATASET = Kind(
    open=_open,
    layout="npz:FILE with x_train, y_train, x_test, y_test (uint8); or images, labels (--split)",
)
