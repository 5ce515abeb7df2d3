"""ImageNet (ILSVRC 2012) in folders by WordNet id, whole or a few classes of it.

``val`` may be one flat folder as the archive unpacks it; then the development kit beside it
(``ILSVRC2012_devkit_t12``, or its archive) says the class of each image.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from capdeploy import imagenet, listing
from capdeploy.data import Kind
from capdeploy.errors import DataError
from capdeploy.listing import Files, Listing
from capdeploy.values.checkpoint import Preprocessing

KIT = "ILSVRC2012_devkit_t12"
PREPROCESSING = Preprocessing(
    height=224, width=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
DAMAGED = (
    OSError, EOFError, ValueError, KeyError, IndexError, TypeError, NotImplementedError,
    zlib.error, tarfile.TarError, MatReadError,
)  # fmt: skip


def _open(location: str) -> Files:
    root = Path(location)
    if not location or not root.is_dir():
        raise DataError(f"data folder {location!r} does not exist; give imagenet:PATH")
    judged = next((split for split in ("val", "test") if (root / split).is_dir()), None)
    if not (root / "train").is_dir() or judged is None:
        raise DataError(f"{root} must hold train/WNID/* and val/WNID/* (or a flat val/ with {KIT})")
    wnids = tuple(listing.subfolders(root / "train"))
    strange = [wnid for wnid in wnids if wnid not in imagenet.output_of()]
    if strange or not wnids:
        raise DataError(
            f"{root / 'train'} holds {strange[0] if strange else 'no folders'}, expected folders "
            "named by WordNet id such as n01440764; other class folders are opened with folder:PATH"
        )
    if listing.subfolders(root / judged):
        _, listings = listing.split_folders(root, wnids, ("train", judged))
    else:
        listings = {
            "train": listing.by_class(root / "train", wnids),
            judged: _flat(root, root / judged, wnids),
        }
    names = {wnid: imagenet.names()[imagenet.output_of()[wnid]] for wnid in wnids}
    aliases = {names[wnid]: (wnid, *imagenet.synonyms()[wnid]) for wnid in wnids}
    return Files(tuple(names.values()), listings, PREPROCESSING, aliases)


def _flat(root: Path, folder: Path, wnids: tuple[str, ...]) -> Listing:
    """List the validation images of the chosen classes by the development kit's ground truth."""
    images = listing.images_in(folder)
    truth = _ground_truth(root)
    if len(images) != len(truth):
        raise DataError(f"{folder} holds {len(images)} images, the kit knows {len(truth)}")
    position = {wnid: label for label, wnid in enumerate(wnids)}
    labels = np.array([position.get(wnid, -1) for wnid in truth], dtype=np.int64)
    chosen = np.flatnonzero(labels >= 0)
    names = [images[index] for index in chosen]
    return Listing((str(folder),), names, np.zeros(len(names), dtype=np.int32), labels[chosen])


def _ground_truth(root: Path) -> list[str]:
    """Read the WordNet id of every validation image, in the order of their names."""
    try:
        ids = [int(line) for line in _kit(root, "ILSVRC2012_validation_ground_truth.txt").split()]
        table = loadmat(io.BytesIO(_kit(root, "meta.mat")), squeeze_me=True)["synsets"]
        wnid_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(table)}
        return [wnid_of[number] for number in ids]
    except DAMAGED as error:
        raise DataError(f"{root / KIT} is damaged: {error!r}; get it again") from error


def _kit(root: Path, name: str) -> bytes:
    place, archive = root / KIT / "data" / name, root / f"{KIT}.tar.gz"
    if place.is_file():
        return place.read_bytes()
    if archive.is_file():
        with tarfile.open(archive) as kit:
            found = kit.extractfile(f"{KIT}/data/{name}")
            if found is not None:
                return found.read()
    raise DataError(f"{root} must hold {KIT} (or its .tar.gz), which says the class of each image")


DATASET = Kind(
    open=_open,
    layout=f"imagenet:ROOT with train/WNID/* and val/WNID/*, or a flat val/ and {KIT}",
)
