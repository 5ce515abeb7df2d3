"""One file of arrays, under the names that Keras, MedMNIST and numpy users give them."""

import pickle

import numpy as np
import pytest

from capdeploy.errors import DataError
from capdeploy.samples import open_dataset


def images(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "small.npz", **arrays)
    return f"npz:{tmp_path / 'small.npz'}"


def halves(**changes):
    """Arrays of a sound file; an array that is None is left out."""
    arrays = {
        "x_train": images(6, 5, 4, 3), "y_train": np.arange(6) % 3,
        "x_test": images(3, 5, 4, 3, seed=1), "y_test": np.arange(3),
    }  # fmt: skip
    return {name: array for name, array in (arrays | changes).items() if array is not None}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_keras(tmp_path, save):
    arrays = halves(y_train=(np.arange(6) % 3)[:, None].astype(np.uint8))  # as its CIFAR-10
    save(tmp_path / "small.npz", **arrays)
    data = open_dataset(f"npz:{tmp_path / 'small.npz'}")
    assert data.names == ("0", "1", "2")
    assert data.splits == ("train", "test")
    assert data.preprocessing is None
    assert data.labels("train").tolist() == [0, 1, 2] * 2
    assert data.labels("train").dtype == np.int64
    for split in data.splits:
        for index, image in enumerate(arrays[f"x_{split}"]):
            assert np.array_equal(data.read(split, index), image)
    assert data.describe("test", 2) == "small/test/2"


@pytest.mark.parametrize("colours", [(), (3,)])
def test_medmnist(tmp_path, colours):
    parts = {"train": 6, "val": 2, "test": 4}
    arrays = {f"{name}_images": images(count, 7, 7, *colours) for name, count in parts.items()}
    arrays |= {f"{name}_labels": np.zeros((count, 1), int) + 1 for name, count in parts.items()}
    data = open_dataset(saved(tmp_path, **arrays))
    assert data.splits == ("train", "val", "test")
    assert data.names == ("0", "1")
    assert data.labels("val").tolist() == [1, 1]
    found = data.read("test", 3)
    assert found.shape == (7, 7, 3)
    expected = arrays["test_images"][3].reshape(7, 7, -1)
    assert np.array_equal(found, np.broadcast_to(expected, (7, 7, 3)))


@pytest.mark.parametrize(
    ("front", "back"), [("train_x", "train_y"), ("X_train", "y_train"), ("x_train", "y_train")]
)
def test_other_names(tmp_path, front, back):
    arrays = {front: images(2, 4, 4), back: np.array([0, 1])}
    arrays |= {name.replace("train", "test"): array for name, array in arrays.items()}
    assert open_dataset(saved(tmp_path, **arrays)).labels("test").tolist() == [0, 1]


@pytest.mark.parametrize("planes", [1, 3])
def test_planes_in_front_are_moved_to_the_back(tmp_path, planes):
    front = images(6, planes, 5, 4)
    data = open_dataset(saved(tmp_path, **halves(x_train=front)))
    expected = np.broadcast_to(front[2].transpose(1, 2, 0), (5, 4, 3))
    assert np.array_equal(data.read("train", 2), expected)


def test_one_plane_at_the_back(tmp_path):
    grey = images(6, 5, 4, 1)
    data = open_dataset(saved(tmp_path, **halves(x_train=grey)))
    assert np.array_equal(data.read("train", 1), np.repeat(grey[1], 3, axis=2))


@pytest.mark.parametrize(("x", "y"), [("images", "labels"), ("x", "y"), ("X", "y")])
def test_unsplit_arrays(tmp_path, x, y):
    place = saved(tmp_path, **{x: images(20, 4, 4), y: np.arange(20) % 2})
    with pytest.raises(DataError, match="no test split; say how to split it"):
        open_dataset(place)
    data = open_dataset(place, split="75/25", seed=1)
    assert {split: np.bincount(data.labels(split)).tolist() for split in data.splits} == {
        "train": [8, 8], "test": [2, 2],
    }  # fmt: skip


@pytest.mark.parametrize("key", ["names", "class_names", "classes"])
def test_class_names(tmp_path, key):
    data = open_dataset(saved(tmp_path, **halves(**{key: np.array(["cat", "dog", "emu"])})))
    assert data.names == ("cat", "dog", "emu")
    with pytest.raises(DataError, match=r"labels 0\.\.2 in its train split, expected 0\.\.1"):
        open_dataset(saved(tmp_path, **halves(**{key: np.array(["cat", "dog"])})))


# What is refused


class Trap:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        import os

        return os.mkdir, (self.place,)


def test_objects_stay_pickled(tmp_path):
    trap = np.empty(6, dtype=object)
    trap[:] = [Trap(str(tmp_path / "sprung"))] * 6
    place = saved(tmp_path, **halves(y_train=trap))
    with pytest.raises(
        DataError, match=r"small\.npz is not an \.npz file .* without object arrays"
    ):
        open_dataset(place)
    (tmp_path / "small.npz").write_bytes(pickle.dumps(Trap(str(tmp_path / "sprung"))))
    with pytest.raises(DataError, match=r"small\.npz is not an \.npz file of plain arrays "):
        open_dataset(place)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((6, 5, 4, 3), np.float32)}, "x_train is float32, expected uint8"),
        ({"x_test": np.zeros((3, 5, 4), np.int64)}, "x_test is int64, expected uint8"),
        ({"x_train": images(6, 60)}, r"x_train is \(6, 60\), expected \(N, H, W\)"),
        ({"x_train": images(6, 5, 4, 2)}, r"x_train is \(6, 5, 4, 2\), expected"),
        ({"x_train": images(6, 5, 4, 4)}, r"x_train is \(6, 5, 4, 4\), expected"),
        ({"y_train": np.eye(6, dtype=int)}, r"y_train is \(6, 6\) int64, expected \(N,\) class"),
        ({"y_train": np.zeros(6)}, r"y_train is \(6,\) float64, expected"),
        ({"y_train": np.array(["a"] * 6)}, r"y_train is \(6,\) <U1, expected"),
        ({"y_train": np.arange(5)}, "6 images and 5 labels in its train split; expected as many"),
        ({"y_train": np.full(6, -1)}, r"labels -1\.\.-1 in its train split"),
        ({"y_train": np.full(6, 1 << 40)}, "has labels up to 1099511627776; expected classes"),
        ({"x_train": None}, r"must hold x_train, .* found y_train, x_test, y_test"),
        ({"y_test": None}, "must hold x_train, y_train, x_test and y_test"),
        ({"x_train": None, "x_val": images(2, 4, 4), "y_val": np.arange(2)}, "must hold x_train"),
    ],
)
def test_arrays_that_cannot_be_meant(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        open_dataset(saved(tmp_path, **halves(**changes)))


def test_other_files(tmp_path):
    for place in ("npz:", "npz:nowhere.npz", f"npz:{tmp_path}"):
        with pytest.raises(DataError, match=r"does not exist; give npz:FILE"):
            open_dataset(place)
    np.save(tmp_path / "lone.npy", images(3, 4, 4))
    for name, content in (("empty.npz", b""), ("page.npz", b"<html>"), ("zip.npz", b"PK\3\4rest")):
        (tmp_path / name).write_bytes(content)
    for name in ("lone.npy", "empty.npz", "page.npz", "zip.npz"):
        with pytest.raises(DataError, match=rf"{name} is not an \.npz file of plain arrays"):
            open_dataset(f"npz:{tmp_path / name}")
    with pytest.raises(DataError, match="found nothing"):
        open_dataset(saved(tmp_path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file(tmp_path, save):
    file = tmp_path / "small.npz"
    save(file, **halves())
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:60] + b"\xff" * 40 + whole[100:]):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=r"small\.npz is not an \.npz file of plain arrays"):
            open_dataset(f"npz:{file}")


def test_a_number_of_classes_is_no_list_of_names(tmp_path):
    assert open_dataset(saved(tmp_path, **halves(classes=np.array(3)))).names == ("0", "1", "2")
