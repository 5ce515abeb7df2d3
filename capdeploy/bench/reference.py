"""A workload of our own: what doctor measures the machine with, where there is no bundle yet."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

WIDTH, ROWS = 256, 196
INPUT = (1, ROWS, WIDTH)


class Reference:
    """Three dense layers in NumPy: about 39 million MACs, like a small compressed network."""

    effective: Mapping[str, str] = {"runtime": "numpy"}

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self._weights = generator.standard_normal((3, WIDTH, WIDTH), dtype=np.float32) / 16

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Answer a batch, (N, 196, 256) to the same shape."""
        for weight in self._weights:
            batch = np.maximum(batch @ weight, 0)
        return batch

    def close(self) -> None:
        """Nothing to release."""
