"""A local folder of Hugging Face datasets: parquet files, or what ``save_to_disk`` wrote.

Nothing is fetched and no script of the folder runs; pyarrow reads the files as they are.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from capdeploy import pixels
from capdeploy.arrays import distinct, numbered
from capdeploy.data import WHOLE, Kind
from capdeploy.errors import DataError

SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}
IMAGES, LABELS = ("image", "img", "jpg", "png"), ("label", "labels", "fine_label", "cls")
GROUPS_KEPT = 8  # row groups in memory, of all shards together

Row = Callable[[int], Any]
Group = Callable[[Any, str, int], Any]


@dataclass(frozen=True)
class Shard:
    """One file: its labels, and a way to its images."""

    labels: npt.NDArray[np.int64]
    image: Row


@dataclass(frozen=True)
class HuggingFace:
    """The shards of each split."""

    root: Path
    names: tuple[str, ...]
    shards: Mapping[str, Sequence[Shard]]
    preprocessing: None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    track: None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are there."""
        return tuple(self.shards)

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Return the data class of every image, shard after shard."""
        return np.concatenate([shard.labels for shard in self.shards[split]])

    def read(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        """Decode one image to RGB."""
        for shard in self.shards[split]:
            if index < len(shard.labels):
                return self._decode(shard.image(index))
            index -= len(shard.labels)
        raise IndexError(index)

    def _decode(self, cell: Any) -> npt.NDArray[np.uint8]:
        if isinstance(cell, bytes):
            return pixels.decode(io.BytesIO(cell))
        if isinstance(cell, dict) and cell.get("bytes"):
            return pixels.decode(io.BytesIO(cell["bytes"]))
        if isinstance(cell, dict) and cell.get("path"):
            return pixels.decode(self.root / cell["path"])
        raise ValueError("the cell holds no image")

    def describe(self, split: str, index: int) -> str:
        """Name one image by its place."""
        return f"{self.root}/{split}/{index}"


def _open(location: str) -> HuggingFace:
    root = Path(location)
    if not location or not root.is_dir():
        raise DataError(f"data folder {location!r} does not exist; give hf:PATH")
    files = sorted([*root.rglob("*.parquet"), *root.rglob("data-*.arrow")])
    if not files:
        raise DataError(f"{root} must hold *.parquet, or what save_to_disk wrote; found neither")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, root), []).append(file)
    try:
        schema, group = _schema(files[0]), _row_groups()
        image, label = _column(schema, IMAGES, root), _column(schema, LABELS, root)
        shards = {
            split: [_shard(file, image, label, group) for file in found]
            for split, found in by_split.items()
        }
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(f"{root} cannot be read: {error}; get it again") from error
    names = _names(schema, label)
    most = {
        split: max(int(shard.labels.max(initial=-1)) for shard in found)
        for split, found in shards.items()
    }
    names = names or numbered(max(most.values()) + 1, root)
    if not 0 <= max(most.values()) < len(names):
        raise DataError(f"{root} has labels up to {max(most.values())} and {len(names)} classes")
    # Where the answers are kept secret, all labels are -1.
    return HuggingFace(root, names, {split: shards[split] for split in shards if most[split] >= 0})


def _split_of(file: Path, root: Path) -> str:
    """Read the split from the file's name (``train-00000-of-00002``) or its folder's."""
    for part in (file.stem, *reversed(file.relative_to(root).parts[:-1])):
        words = part.replace("_", "-").split("-")
        found = next((SPLITS[word] for word in words if word in SPLITS), None)
        if found is not None:
            return found
    return WHOLE


def _schema(file: Path) -> Any:
    if file.suffix == ".parquet":
        return pq.read_schema(file)
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_stream(source).schema


def _column(schema: Any, usual: Sequence[str], root: Path) -> str:
    found = next((name for name in usual if name in schema.names), None)
    if found is None:
        raise DataError(
            f"{root} has columns {', '.join(schema.names)}, expected one of {', '.join(usual)}"
        )
    return found


def _names(schema: Any, label: str) -> tuple[str, ...]:
    """Read the class names from the metadata that the library writes beside the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return distinct([*map(str, features[label]["names"])])
    except (KeyError, TypeError, ValueError):
        return ()


def _shard(file: Path, image: str, label: str, group: Group) -> Shard:
    if file.suffix == ".parquet":
        source = pq.ParquetFile(file, memory_map=True)
        _column(source.schema_arrow, [image], file)
        labels = source.read([label]).column(label)
        return Shard(_targets(labels, file), _by_group(source, image, group))
    # Memory-mapped: a row is read when it is asked for.
    table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all().select([image, label])
    table.validate(full=True)  # pyarrow would end the process over a damaged one
    column = table.column(image)
    return Shard(_targets(table.column(label), file), lambda index: column[index].as_py())


def _row_groups() -> Group:
    """Keep a few row groups; one thread reads at a time, as pyarrow's readers cannot be shared."""
    lock = Lock()

    @lru_cache(GROUPS_KEPT)
    def read(source: Any, image: str, number: int) -> Any:
        return source.read_row_group(number, columns=[image]).column(image)

    def column(source: Any, image: str, number: int) -> Any:
        with lock:
            return read(source, image, number)

    return column


def _by_group(source: Any, image: str, column: Group) -> Row:
    counts = [source.metadata.row_group(group).num_rows for group in range(source.num_row_groups)]
    starts = np.cumsum([0, *counts])

    def row(index: int) -> Any:
        group = int(np.searchsorted(starts, index, side="right")) - 1
        cells, place = column(source, image, group), index - int(starts[group])
        if place >= len(cells):
            raise ValueError("the row group has fewer rows than the file says")
        return cells[place].as_py()

    return row


def _targets(column: Any, file: Path) -> npt.NDArray[np.int64]:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(
            f"{file}: its labels are {column.type}, expected whole numbers for all rows"
        )
    labels: npt.NDArray[np.int64] = column.to_numpy().astype(np.int64)
    return labels


DATASET = Kind(
    open=_open,
    layout="hf:ROOT with train-*.parquet and test-*.parquet, or what save_to_disk wrote",
)
