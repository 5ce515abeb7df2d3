"""The embedded default: 1,797 real handwritten digits of 8x8 pixels, shipped with scikit-learn.

Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (the test half). The
images are in the order in which the writers came, so the split is by position: the test images
are by writers that the training images hardly show, which a shuffled split would hide.
"""

from __future__ import annotations

import numpy as np

from capdeploy.arrays import Arrays
from capdeploy.data import Kind
from capdeploy.errors import DataError, MissingExtraError
from capdeploy.values.checkpoint import Preprocessing

TRAIN_IMAGES = 1297
NAMES = tuple("0123456789")
PREPROCESSING = Preprocessing(height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _open(location: str) -> Arrays:
    if location:
        raise DataError(f"the data set 'digits' takes no location, found {location!r}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "compress") from error
    raw, targets = load_digits(return_X_y=True)
    # Pixels are counts 0..16.
    images = np.rint(raw.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    rows = {"train": slice(0, TRAIN_IMAGES), "test": slice(TRAIN_IMAGES, None)}
    return Arrays(
        "digits",
        NAMES,
        {split: images[chosen] for split, chosen in rows.items()},
        {split: targets.astype(np.int64)[chosen] for split, chosen in rows.items()},
        PREPROCESSING,
    )


DATASET = Kind(open=_open, layout="digits (embedded; needs scikit-learn)")
