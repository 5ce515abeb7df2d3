"""Class folders of images, split by their owner or not."""

import sys

import numpy as np
import pytest
from PIL import Image

from capdeploy.cli import list_
from capdeploy.errors import ConfigError, DataError, MissingExtraError
from capdeploy.samples import open_dataset


def draw(root, *classes, count=2):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            image = Image.new("RGB", (4, 3), (label, index, 7))
            image.save(root / name / f"{index}.png")


def test_train_val_and_test(tmp_path):
    draw(tmp_path / "train", "dog", "cat", "emu")
    draw(tmp_path / "val", "dog", "cat")
    draw(tmp_path / "test", "emu", count=1)
    data = open_dataset(f"folder:{tmp_path}")
    assert data.names == ("cat", "dog", "emu")
    assert data.splits == ("train", "val", "test")
    assert data.preprocessing is None
    assert data.labels("train").tolist() == [0, 0, 1, 1, 2, 2]
    assert data.labels("test").tolist() == [2]
    assert np.array_equal(data.read("train", 2), np.full((3, 4, 3), (0, 0, 7)))  # the first dog
    assert data.describe("train", 3) == str(tmp_path / "train" / "dog" / "1.png")


def test_unsplit_class_folders(tmp_path):
    draw(tmp_path, "a", "b", count=10)
    whole = open_dataset(f"folder:{tmp_path}", whole=True)
    assert whole.splits == ("all",)
    with pytest.raises(DataError, match=r"no test split; say how to split it, .* --split 80/20"):
        open_dataset(f"folder:{tmp_path}")
    data = open_dataset(f"folder:{tmp_path}", split="80/20")
    assert data.names == ("a", "b")
    assert np.bincount(data.labels("train")).tolist() == [8, 8]
    assert np.bincount(data.labels("test")).tolist() == [2, 2]
    for split in data.splits:
        for index, label in enumerate(data.labels(split)):
            assert data.read(split, index)[0, 0, 0] == label
            assert f"/{data.names[label]}/" in data.describe(split, index)


@pytest.mark.parametrize("splits", [(), ("train",), ("val", "test")])
def test_what_is_missing_is_named(tmp_path, splits):
    for split in splits:
        draw(tmp_path / split, "a", "b")
    found = ", ".join(sorted(splits)) or "nothing"
    with pytest.raises(DataError, match=rf"must hold train/ and val/ .*, found {found}"):
        open_dataset(f"folder:{tmp_path}")


def test_images_without_class_folders(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"class folders of images .* found a\.png"):
        open_dataset(f"folder:{tmp_path}", split="80/20")


@pytest.mark.parametrize(
    "kind", ["folder", "gtsrb", "imagenet", "cifar10", "cifar100", "hf", "wds"]
)
@pytest.mark.parametrize("place", ["", "nowhere"])
def test_a_place_that_is_not_there(kind, place):
    with pytest.raises(DataError, match=f"data folder '{place}' does not exist; give {kind}:PATH"):
        open_dataset(f"{kind}:{place}")


def test_an_unknown_kind_offers_the_nearest():
    with pytest.raises(ConfigError, match="unknown kind of data set 'foldr'; did you mean folder"):
        open_dataset("foldr:x")


def test_the_embedded_digits_are_split_by_writer():
    data = open_dataset("digits")
    assert {split: len(data.labels(split)) for split in data.splits} == {"train": 1297, "test": 500}
    assert data.names == tuple("0123456789")
    image = data.read("train", 0)
    assert image.shape == (8, 8, 3)
    assert (image.min(), image.max()) == (0, 239)  # 15 of 16, the largest of this image
    with pytest.raises(DataError, match="takes no location, found 'here'"):
        open_dataset("digits:here")


def test_a_missing_library_is_a_missing_extra(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "capdeploy.data.hf", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pyarrow .* pip install 'capdeploy\[hf\]'"):
        open_dataset(f"hf:{tmp_path}")


def test_kinds_of_data_are_listed_without_what_some_of_them_need(monkeypatch):
    monkeypatch.delitem(sys.modules, "capdeploy.data.hf", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    _, rows = list_._rows("data")
    found = dict(rows)
    assert "capdeploy[hf]" in found["hf"]
    assert found["folder"].startswith("folder:ROOT")


def test_test_images_without_labels_are_no_test_split(tmp_path):
    """Competitions hand them out so: what counts is the validation part then."""
    draw(tmp_path / "train", "cat", "dog")
    draw(tmp_path / "val", "cat", "dog", count=1)
    draw(tmp_path, "test", count=3)
    data = open_dataset(f"folder:{tmp_path}")
    assert (data.names, data.splits) == (("cat", "dog"), ("train", "val"))


def test_a_class_may_be_called_train(tmp_path):
    draw(tmp_path, "bus", "train", "tram", count=10)
    data = open_dataset(f"folder:{tmp_path}", split="80/20")
    assert data.names == ("bus", "train", "tram")
