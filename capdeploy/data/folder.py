"""Class folders: ``ROOT/train/CLASS/*`` and ``ROOT/test`` or ``ROOT/val``; or ``ROOT/CLASS/*``."""

from __future__ import annotations

from pathlib import Path

from capdeploy import listing
from capdeploy.data import WHOLE, Kind
from capdeploy.errors import DataError
from capdeploy.listing import Files


def _open(location: str) -> Files:
    root = Path(location)
    if not location or not root.is_dir():
        raise DataError(f"data folder {location!r} does not exist; give folder:PATH")
    # With images right in it, it is a class of that name, or a test split without labels.
    splits = [
        split for split in ("train", "val", "test")
        if (root / split).is_dir() and not listing.images_in(root / split)
    ]  # fmt: skip
    if len(splits) > 1 and "train" in splits:
        return Files(*listing.split_folders(root, splits=splits))
    classes = () if splits else tuple(listing.subfolders(root))
    if not any(listing.images_in(root / name) for name in classes):
        found = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
        raise DataError(
            f"data folder {root} must hold train/ and val/ (or test/), or class folders of images "
            f"(then give --split), found {found}"
        )
    return Files(classes, {WHOLE: listing.by_class(root, classes)})


DATASET = Kind(
    open=_open,
    layout="folder:ROOT with train/CLASS/* and test/CLASS/*, val/CLASS/* or both; "
    "or CLASS/* (--split)",
)
