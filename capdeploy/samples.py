"""Samples = batches of the chosen classes; `open_dataset` finds the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import monotonic

import numpy as np
import numpy.typing as npt
import torch

from capdeploy import pixels, resplit
from capdeploy.data import KINDS, Dataset
from capdeploy.errors import DataError
from capdeploy.progress import Quiet, Say
from capdeploy.values.checkpoint import Preprocessing
from capdeploy.values.classes import ClassSubset
from capdeploy.workers import cores, in_order

MIB = 1 << 20


@dataclass(frozen=True)
class Images:
    """Images of the kept classes of one split, with labels 0..k-1 in the order of the classes.

    Parameters
    ----------
    dataset : Dataset
        Where they come from.
    split : str
        The split.
    rows : npt.NDArray[np.int64]
        (N,) positions in the split.
    labels : npt.NDArray[np.int64]
        (N,) positions in the class subset.
    preprocessing : Preprocessing
        From image to input.
    cache : dict[int, npt.NDArray[np.uint8]]
        Decoded images by row, (H, W, 3) at the input size; rows that are absent are decoded again.
    """

    dataset: Dataset
    split: str
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    preprocessing: Preprocessing
    cache: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return images at the input size, (len(positions), H, W, 3) uint8 RGB."""
        return np.stack([self._pixels(int(self.rows[position])) for position in positions])

    def _pixels(self, row: int) -> npt.NDArray[np.uint8]:
        if (kept := self.cache.get(row)) is not None:
            return kept
        return pixels.fit(self.dataset.read(self.split, row), self.preprocessing)

    @property
    def workers(self) -> int:
        """How many threads decode: as many as cores where images are not all in memory."""
        return 0 if all(int(row) in self.cache for row in self.rows) else cores()

    def batches(
        self, size: int, *, shuffle: np.random.Generator | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (images, labels): (n, 3, H, W) float32 and (n,) int64, n at most `size`."""
        order = np.arange(len(self)) if shuffle is None else shuffle.permutation(len(self))
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        for chosen, task in in_order(self.pixels, parts, workers=self.workers):
            inputs = self.preprocessing.apply(task.result())
            yield torch.from_numpy(inputs), torch.from_numpy(self.labels[chosen])

    def take(self, count: int, *, seed: int) -> Images:
        """Draw at most `count` images, the classes in turn, so that all are shown alike."""
        generator = np.random.default_rng(seed)
        queues = [
            list(generator.permutation(np.flatnonzero(self.labels == label)))
            for label in np.unique(self.labels)
        ]
        longest = max(map(len, queues))
        turns = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
        chosen = np.array(turns[:count], dtype=np.int64)
        if longest > 2 * min(map(len, queues)):  # else the last ones would all be of one class
            chosen = generator.permutation(chosen)
        return self.only(chosen)

    def only(self, chosen: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Images:
        """Return the images at some positions, or those of which a mask (N,) says so."""
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen])


@dataclass
class Samples:
    """All splits of the chosen classes. The test split is opened when it is asked for.

    Parameters
    ----------
    dataset : Dataset
        Where the images come from.
    data_classes : tuple[int, ...]
        The data class of each kept class, in output order.
    classes : ClassSubset
        The kept classes.
    preprocessing : Preprocessing
        From image to input.
    validation_share : float
        Share of each class's training images held back, (0, 0.9), unless there is a ``val`` for it.
    max_bad : int
        How many unreadable images are tolerated in all.
    cache_mib : int
        Memory for decoded images, in MiB; what does not fit is decoded again when it is used.
    per_class : int | None
        Most training images of a class, drawn by `seed`; None: all.
    seed : int
        Of that draw.
    say : Say
        Hears how decoding goes.
    """

    dataset: Dataset
    data_classes: tuple[int, ...]
    classes: ClassSubset
    preprocessing: Preprocessing
    validation_share: float
    max_bad: int
    cache_mib: int
    per_class: int | None = None
    seed: int = 0
    say: Say = field(default_factory=Quiet, repr=False)
    bad: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._caches: dict[str, dict[int, npt.NDArray[np.uint8]]] = {}
        self._readable: dict[str, dict[int, bool]] = {}
        self._rows(self._test())  # a class without test images is told before the work
        self.train, self.validation = self._parted()

    def open_test(self) -> Images:
        """Open the test split: ``test`` if the data set has one, else ``val``."""
        return self._open(self._test())

    def dropped(self, count: int, *, seed: int, test: bool = False) -> Images | None:
        """Draw at most `count` images of the other classes, without labels.

        Parameters
        ----------
        count : int
            How many.
        seed : int
            Of the draw.
        test : bool
            From the test split.

        Returns
        -------
        Images | None
            Labelled -1; None if there are no other classes or `count` is 0.
        """
        split = self._test() if test else "train"
        others = np.flatnonzero(~np.isin(self.dataset.labels(split), self.data_classes))
        rows = np.random.default_rng(seed).permutation(others)[:count].astype(np.int64)
        cache, bad = self._decode(split, rows, wanted=False)
        good = rows[~np.isin(rows, bad)]
        if not len(good):
            return None
        return Images(self.dataset, split, good, np.full(len(good), -1), self.preprocessing, cache)

    def _parted(self) -> tuple[Images, Images]:
        """Open what trains and what validates: the owner's ``val``, or some of ``train``."""
        images = self._open("train")
        if {"val", "test"} <= {*self.dataset.splits}:
            if np.isin(self.data_classes, self.dataset.labels("val")).all():
                return images, self._open("val")
            self.say.note("val lacks a class; some of train are held back to validate instead")
        tracks = resplit.tracks(self.dataset, "train", self.dataset.track)[images.rows]
        away = resplit.held_back(images.labels, tracks, self.validation_share, self.seed)
        for name in self._without(images.labels[~away]):
            raise DataError(f"class {name} needs 2 training images at least: one validates")
        return images.only(~away), images.only(away)

    def _without(self, labels: npt.NDArray[np.int64]) -> list[str]:
        """Name the kept classes that have none of the images."""
        return [name for label, name in enumerate(self.classes.names) if label not in labels]

    def _test(self) -> str:
        return "test" if "test" in self.dataset.splits else "val"

    def _rows(self, split: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """List the images of the kept classes and their labels, (N,) each; none is read."""
        of_data = {data: label for label, data in enumerate(self.data_classes)}
        labels = self.dataset.labels(split)
        rows = np.flatnonzero(np.isin(labels, self.data_classes)).astype(np.int64)
        local = np.array([of_data[int(labels[row])] for row in rows], dtype=np.int64)
        for name in self._without(local):
            raise DataError(f"class {name} has no images in the {split} split")
        return rows, local

    def _open(self, split: str) -> Images:
        rows, local = self._rows(split)
        if split == "train" and self.per_class is not None:
            some = resplit.at_most(local, self.per_class, self.seed)
            rows, local = rows[some], local[some]
        cache, bad = self._decode(split, rows)
        good = ~np.isin(rows, bad)
        images = Images(self.dataset, split, rows[good], local[good], self.preprocessing, cache)
        for name in self._without(images.labels):
            raise DataError(f"class {name} has no readable images in the {split} split")
        return images

    def _decode(
        self, split: str, rows: npt.NDArray[np.int64], *, wanted: bool = True
    ) -> tuple[dict[int, npt.NDArray[np.uint8]], list[int]]:
        """Read every image once: find the bad ones, and keep what fits the memory budget.

        Bad ones of classes that nobody asked for are no reason to stop.
        """
        size = self.preprocessing.height * self.preprocessing.width * 3
        cache, known = self._caches.setdefault(split, {}), self._readable.setdefault(split, {})
        todo = [row for row in map(int, rows) if row not in known]
        began = monotonic()
        tasks = in_order(
            lambda row: pixels.fit(self.dataset.read(split, row), self.preprocessing), todo,
            workers=cores(),
        )  # fmt: skip
        for done, (row, task) in enumerate(tasks, start=1):
            try:
                found = task.result()
            except pixels.BAD:
                known[row] = False
                self._tolerate(self.dataset.describe(split, row), wanted=wanted)
                continue
            known[row] = True
            if size * (1 + sum(map(len, self._caches.values()))) <= self.cache_mib * MIB:
                cache[row] = found
            if done % 100 == 0 or done == len(todo):
                speed = done / max(monotonic() - began, 1e-9)
                self.say.advance(done, len(todo), f"decoding {split}, {speed:.0f} images/s")
        return cache, [row for row in map(int, rows) if not known[row]]

    def _tolerate(self, name: str, *, wanted: bool) -> None:
        if not wanted:
            self.say.note(f"{name} cannot be read; it is of no kept class, and left out")
            return
        self.bad.append(name)
        if len(self.bad) <= self.max_bad:
            many = f"{len(self.bad)} of {self.max_bad} that are tolerated"
            self.say.note(f"{name} cannot be read, and is left out ({many})")
        else:
            raise DataError(
                f"{len(self.bad)} unreadable image{'s' if len(self.bad) > 1 else ''}, "
                f"{self.max_bad} tolerated, last {name}; mend or remove it, or raise "
                "--max-bad-images"
            )


def open_dataset(
    text: str,
    *,
    split: str | None = None,
    group: str | None = None,
    seed: int = 0,
    whole: bool = False,
) -> Dataset:
    """Open ``kind:location``, for example ``folder:images`` or ``digits``.

    Parameters
    ----------
    text : str
        The user's words.
    split : str | None
        ``80/20``, for data without a test split.
    group : str | None
        Regular expression of what must stay on one side of that split.
    seed : int
        Of that split.
    whole : bool
        Unsplit data may stay so; for looking, not for training.

    Returns
    -------
    Dataset
        The opened data set; no image is read yet.

    Raises
    ------
    ConfigError
        If the kind is unknown.
    DataError
        If there is nothing at the location, or not in the expected layout.
    """
    kind, _, location = text.partition(":")
    dataset: Dataset = KINDS.load(kind).open(location)
    unsplit = whole and split is None and group is None
    return dataset if unsplit else resplit.resplit(dataset, split, group, seed=seed)
