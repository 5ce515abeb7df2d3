"""WebDataset shards: tar files whose members share a key, ``KEY.jpg`` and ``KEY.cls``.

The tables of contents are read once and images by their place in the file, so a shuffled epoch
costs no more than one in order. The class is a number in ``.cls``, or ``label`` in ``.json``.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capdeploy import pixels
from capdeploy.arrays import distinct, numbered
from capdeploy.data import WHOLE, Kind
from capdeploy.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "ppm", "webp", "bmp", "tif", "tiff")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Place:
    """Where one image is."""

    shard: Path
    key: str
    offset: int
    size: int


@dataclass(frozen=True)
class Shards:
    """The images of each split, by their places."""

    names: tuple[str, ...]
    places: Mapping[str, tuple[Place, ...]]
    targets: Mapping[str, npt.NDArray[np.int64]]
    preprocessing: None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    track: None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are there."""
        return tuple(self.places)

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Return the data class of every image, shard after shard."""
        return self.targets[split]

    def read(self, split: str, index: int) -> npt.NDArray[np.uint8]:
        """Decode one image to RGB."""
        place = self.places[split][index]
        with place.shard.open("rb") as stream:
            stream.seek(place.offset)
            return pixels.decode(io.BytesIO(stream.read(place.size)))

    def describe(self, split: str, index: int) -> str:
        """Name one image by its shard and key."""
        place = self.places[split][index]
        return f"{place.shard}#{place.key}"


def _open(location: str) -> Shards:
    root = Path(location)
    if not location or not root.is_dir():
        raise DataError(f"data folder {location!r} does not exist; give wds:PATH")
    shards = sorted(root.rglob("*.tar"))
    if not shards:
        raise DataError(f"{root} must hold shards such as train-000000.tar, found none")
    places: dict[str, list[Place]] = {}
    targets: dict[str, list[int]] = {}
    for shard in shards:
        split = _split_of(shard, root)
        for place, label in _contents(shard):
            places.setdefault(split, []).append(place)
            targets.setdefault(split, []).append(label)
    if not places:
        raise DataError(f"{root}: its shards hold no KEY.jpg with a KEY.cls or KEY.json beside it")
    most = max(max(labels) for labels in targets.values())
    return Shards(
        _names(root, most + 1),
        {split: tuple(found) for split, found in places.items()},
        {split: np.array(labels, dtype=np.int64) for split, labels in targets.items()},
    )


def _split_of(shard: Path, root: Path) -> str:
    for part in (shard.stem, *reversed(shard.relative_to(root).parts[:-1])):
        words = part.replace("_", "-").split("-")
        found = next((SPLITS[word] for word in words if word in SPLITS), None)
        if found is not None:
            return found
    return WHOLE


def _contents(shard: Path) -> list[tuple[Place, int]]:
    """List the images of a shard with their classes."""
    images: dict[str, Place] = {}
    labels: dict[str, int] = {}
    try:
        # Not compressed: places in the file are what is kept.
        with shard.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                folder, name = os.path.split(member.name)
                stem, _, suffix = name.partition(".")
                key, suffix = os.path.join(folder, stem), suffix.lower()
                if suffix in IMAGES and member.isfile():
                    images[key] = Place(shard, key, member.offset_data, member.size)
                elif suffix in ("cls", "json") and member.isfile():
                    found = archive.extractfile(member)
                    raw = found.read() if found is not None else b""
                    label = _label(suffix, raw)
                    if label is not None and (suffix == "cls" or key not in labels):
                        labels[key] = label
            stream.seek(archive.offset)
            if stream.read(1).strip(b"\0"):  # tarfile stops there and says nothing
                raise tarfile.ReadError(f"no header at byte {archive.offset}")
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(
            f"shard {shard} cannot be read: {error!r}; expected a whole .tar, not compressed"
        ) from error
    bare = [key for key in images if key not in labels]
    if bare:
        raise DataError(f"shard {shard}: {bare[0]} has no .cls and no number as label in a .json")
    if any(label < 0 for label in labels.values()):
        raise DataError(f"shard {shard} has a class below 0")
    return [(place, labels[key]) for key, place in images.items()]


def _label(suffix: str, raw: bytes) -> int | None:
    """Read the class; a .json may hold other things, or words, beside a .cls."""
    if suffix == "cls":
        return int(raw)
    found = json.loads(raw)
    label = str(found.get("label")) if isinstance(found, dict) else ""
    return int(label) if label.isdecimal() else None


def _names(root: Path, classes: int) -> tuple[str, ...]:
    """Read ``classnames.txt`` if there is one, a name a line; else classes are called by number."""
    file = root / "classnames.txt"
    if not file.is_file():
        return numbered(classes, root)
    try:
        names = tuple(file.read_text(encoding="utf-8-sig").rstrip().split("\n"))
    except ValueError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}") from error
    if len(names) < classes:
        raise DataError(f"{file} has {len(names)} names, the shards {classes} classes")
    return distinct(names)


DATASET = Kind(
    open=_open,
    layout="wds:ROOT with train-*.tar and val-*.tar of KEY.jpg and KEY.cls (classnames.txt)",
)
