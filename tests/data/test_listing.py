"""Class folders are listed in name order, and without opening an image."""

import os
import sys
import tracemalloc

import pytest

from capdeploy import listing
from capdeploy.errors import DataError

OPENED = []


def touch(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def watch(event, arguments):
    """Note what is opened while `OPENED` is a list that holds something."""
    if OPENED and event == "open":
        OPENED.append(str(arguments[0]))


def test_twenty_thousand_images_are_listed_without_opening_one(tmp_path):
    (tmp_path / "empty").touch()
    for label in range(10):
        folder = tmp_path / "train" / f"class{label}"
        folder.mkdir(parents=True)
        for index in range(2000):
            os.link(tmp_path / "empty", folder / f"{index:05d}.jpg")  # faster than making one
    sys.addaudithook(watch)  # cannot be taken away again; it sleeps
    OPENED.append("watching")
    tracemalloc.start()
    try:
        names, splits = listing.split_folders(tmp_path)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        opened = OPENED[1:]
        OPENED.clear()
    assert not [path for path in opened if path.endswith(".jpg")]
    assert names == tuple(f"class{label}" for label in range(10))
    assert len(splits["train"].labels) == 20_000
    assert splits["train"].path(19_999) == str(tmp_path / "train" / "class9" / "01999.jpg")
    assert used / 20_000 < 200  # bytes an image


def test_name_order_suffixes_and_hidden_files(tmp_path):
    names = ("b.PNG", "a.jpeg", "10.webp", "9.tiff", ".hidden.png", "notes.txt", "Thumbs.db", "png")
    touch(*(tmp_path / "cat" / name for name in names))
    assert listing.images_in(tmp_path / "cat") == ["10.webp", "9.tiff", "a.jpeg", "b.PNG"]
    touch(tmp_path / ".cache" / "x", tmp_path / "file.png")
    assert listing.subfolders(tmp_path) == ["cat"]


def test_labels_follow_the_given_classes(tmp_path):
    touch(tmp_path / "b" / "1.png", tmp_path / "a" / "2.png", tmp_path / "a" / "1.png")
    found = listing.by_class(tmp_path, ["b", "missing", "a"])
    assert found.labels.tolist() == [0, 2, 2]
    assert [found.path(index) for index in range(3)] == [
        str(tmp_path / name) for name in ("b/1.png", "a/1.png", "a/2.png")
    ]


def test_a_class_may_lack_images_in_a_split_but_may_not_be_new(tmp_path):
    touch(tmp_path / "train" / "a" / "1.png", tmp_path / "train" / "b" / "1.png")
    touch(tmp_path / "val" / "b" / "1.png")
    names, splits = listing.split_folders(tmp_path)
    assert names == ("a", "b")
    assert splits["val"].labels.tolist() == [1]
    touch(tmp_path / "val" / "c" / "1.png")
    with pytest.raises(DataError, match=r"val/c has no counterpart in .*train"):
        listing.split_folders(tmp_path)
    with pytest.raises(DataError, match=r"train/b has no counterpart in the data set's classes"):
        listing.split_folders(tmp_path, names=("a",))


def test_a_split_without_class_folders(tmp_path):
    touch(tmp_path / "train" / "1.png", tmp_path / "val" / "a" / "1.png")
    with pytest.raises(DataError, match=r"train holds no class folders; expected train/CLASS"):
        listing.split_folders(tmp_path)
