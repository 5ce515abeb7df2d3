"""GTSRB, the German traffic signs (Stallkamp et al., Neural Networks 32, 2012), as published.

A horizontal flip changes the meaning of a sign. Training files are named by track and frame;
frames of one track are nearly the same image.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from capdeploy import listing
from capdeploy.data import Kind
from capdeploy.errors import DataError
from capdeploy.listing import Files, Listing
from capdeploy.values.checkpoint import Preprocessing

# The official words, in the order of the class ids.
NAMES = (
    "speed-limit-20", "speed-limit-30", "speed-limit-50", "speed-limit-60", "speed-limit-70",
    "speed-limit-80", "end-of-speed-limit-80", "speed-limit-100", "speed-limit-120",
    "no-passing", "no-passing-trucks", "right-of-way-at-next-crossing", "priority-road", "yield",
    "stop", "no-vehicles", "no-trucks", "no-entry", "danger", "curve-left", "curve-right",
    "double-curve", "bumpy-road", "slippery-road", "road-narrows-right", "road-works",
    "traffic-signals", "pedestrians", "children", "bicycles", "ice-or-snow", "wild-animals",
    "end-of-all-limits", "turn-right", "turn-left", "straight-on", "straight-or-right",
    "straight-or-left", "keep-right", "keep-left", "roundabout", "end-of-no-passing",
    "end-of-no-passing-trucks",
)  # fmt: skip
FOLDERS = tuple(f"{label:05d}" for label in range(len(NAMES)))
PREPROCESSING = Preprocessing(
    height=32, width=32, mean=(0.3337, 0.3064, 0.3171), std=(0.2672, 0.2564, 0.2629)
)
TRAINING = (
    "Final_Training/Images", "GTSRB/Final_Training/Images", "GTSRB/Training", "Training", "train",
)  # fmt: skip
TEST = ("Final_Test/Images", "GTSRB/Final_Test/Images", "test", "val")
TRUTH = "GT-final_test.csv"
TRACK = r"(\d+[/\\]\d+)_\d+\.\w+$"


def _open(location: str) -> Files:
    root = Path(location)
    if not location or not root.is_dir():
        raise DataError(f"data folder {location!r} does not exist; give gtsrb:PATH")
    training, test = _first(root, TRAINING), _first(root, TEST)
    if training is None or test is None:
        raise DataError(
            f"{root} must hold {TRAINING[0]}/00000/*.ppm and {TEST[0]}/*.ppm with {TRUTH}, or "
            "train/00000/* and val/00000/*"
        )
    strange = sorted({*listing.subfolders(training)} - {*FOLDERS})
    if strange:
        raise DataError(f"{training / strange[0]} is not one of 00000..{FOLDERS[-1]}")
    judged = listing.by_class(test, FOLDERS) if listing.subfolders(test) else _flat(root, test)
    aliases = {
        name: (folder, str(label))
        for label, (name, folder) in enumerate(zip(NAMES, FOLDERS, strict=True))
    }
    listings = {"train": listing.by_class(training, FOLDERS), "test": judged}
    return Files(NAMES, listings, PREPROCESSING, aliases, TRACK)


def _first(root: Path, places: tuple[str, ...]) -> Path | None:
    return next((root / place for place in places if (root / place).is_dir()), None)


def _flat(root: Path, folder: Path) -> Listing:
    """List test images that lie in one folder; a table beside or above it has their classes."""
    tables = [place / TRUTH for place in (folder, folder.parent, folder.parent.parent, root)]
    table = next((file for file in tables if file.is_file()), None)
    if table is None:
        raise DataError(f"{folder} has no {TRUTH}, which says the class of each test image; get it")
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = [
                (row["Filename"], int(row["ClassId"]))
                for row in csv.DictReader(stream, delimiter=";")
            ]
    except (KeyError, TypeError, ValueError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{table} must have columns Filename;...;ClassId; {error!r}; the file named "
            "GT-final_test.test.csv has no classes"
        ) from error
    labels = np.array([label for _, label in rows], dtype=np.int64)
    if not len(labels) or labels.min() < 0 or labels.max() >= len(NAMES):
        raise DataError(f"{table} must name classes 0..{len(NAMES) - 1} of its images")
    names = [name for name, _ in rows]
    return Listing((str(folder),), names, np.zeros(len(names), dtype=np.int32), labels)


DATASET = Kind(
    open=_open,
    layout=f"gtsrb:ROOT with {TRAINING[0]}/00000/*.ppm and {TEST[0]}/*.ppm + {TRUTH}",
)
