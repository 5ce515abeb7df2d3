"""The embedded default: 1,797 real handwritten digits of 8x8 pixels, shipped with scikit-learn.

Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (the test half). The
images are in the order in which the writers came, so the split is by position: the test images
are by writers that the training images hardly show, which a shuffled split would hide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capdeploy.data import Kind
from capdeploy.errors import DataError, MissingExtraError
from capdeploy.values.checkpoint import Preprocessing

TRAIN_IMAGES = 1297
PREPROCESSING = Preprocessing(height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Digits:
    """All digits in memory."""

    images: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.int64]
    names: tuple[str, ...] = tuple("0123456789")
    splits: tuple[str, ...] = ("train", "test")
    preprocessing: Preprocessing | None = PREPROCESSING

    def _rows(self, split: str) -> slice:
        return slice(0, TRAIN_IMAGES) if split == "train" else slice(TRAIN_IMAGES, None)

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Return the digit of every image."""
        return self.targets[self._rows(split)]

    def read(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        """Return one digit as (8, 8, 3) grey in RGB."""
        grey = self.images[self._rows(split)][index]
        return np.repeat(grey[..., None], 3, axis=2)

    def describe(self, split: str, index: int) -> str:
        """Name one digit."""
        return f"digits/{split}/{index}"


def _open(location: str) -> Digits:
    if location:
        raise DataError(f"the data set 'digits' takes no location, found {location!r}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "compress") from error
    raw, targets = load_digits(return_X_y=True)
    # Pixels are counts 0..16.
    images = np.rint(raw.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Digits(images, targets.astype(np.int64))


DATASET = Kind(open=_open, layout="digits (embedded; needs scikit-learn)")
