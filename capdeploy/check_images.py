"""The test images that a bundle carries, with the network's own answers."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

IMAGES = "images.npy"
ANSWERS = "answers.npz"


@dataclass(frozen=True)
class CheckImages:
    """Images of the test split with the network's own answers, to check any runtime against.

    Parameters
    ----------
    images : npt.NDArray[np.uint8]
        (N, H, W, 3) RGB at the input size.
    labels : npt.NDArray[np.int64]
        (N,) the right output of each image.
    logits : npt.NDArray[np.float32]
        (N, k) the network's answers in PyTorch.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]

    def save(self, folder: Path) -> None:
        """Write the arrays into a bundle's folder; nothing is pickled."""
        try:
            np.save(folder / IMAGES, self.images, allow_pickle=False)
            np.savez(folder / ANSWERS, labels=self.labels, logits=self.logits)
        except OSError as error:
            if error.errno is not None:
                raise
            # numpy reports a short write without the system's reason; there is only one.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error

    @classmethod
    def load(cls, folder: Path) -> CheckImages:
        """Read the arrays; the images stay on disk until they are used.

        So they do not count as memory of the network that is measured.
        """
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        with np.load(folder / ANSWERS, allow_pickle=False) as arrays:
            return cls(images, arrays["labels"], arrays["logits"])
