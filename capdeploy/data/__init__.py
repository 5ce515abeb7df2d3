"""How to open a data set. One file per kind; the door imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from capdeploy.catalog import Catalog
from capdeploy.values.checkpoint import Preprocessing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


WHOLE = "all"
"""The only split of a data set that was not split by its owner."""


class Dataset(Protocol):
    """An opened data set: class names, splits, and images that are read one by one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each data class, in the order of the labels."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it has: ``train`` and ``test`` or ``val``; or only ``all``."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing that belongs to the data, or None if it has none of its own."""

    @property
    def aliases(self) -> Mapping[str, tuple[str, ...]]:
        """Class name to other names that users may say."""

    @property
    def track(self) -> str | None:
        """Regular expression that finds in an image's name what it must not be parted from."""

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Return the data class of every image of a split, (N,) int64."""

    def read(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        """Decode one image, (H, W, 3) uint8 RGB; raises `OSError` or `ValueError` if it is bad."""

    def describe(self, split: str, index: int) -> str:
        """Name one image for a message, usually its path."""


@dataclass(frozen=True)
class Kind:
    """A kind of data set and how to open one.

    Parameters
    ----------
    open : Callable[[str], Any]
        Takes what follows the colon in ``kind:location`` and returns a `Dataset`.
    layout : str
        What it expects to find, for ``capdeploy list``.
    """

    open: Callable[[str], Any]
    layout: str


KINDS: Catalog[Kind] = Catalog("capdeploy.data", "DATASET", "kind of data set")
