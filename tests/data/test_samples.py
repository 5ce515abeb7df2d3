"""Samples on real data sets: what is bad is counted, what is drawn is drawn by the seed."""

import numpy as np
import pytest
from PIL import Image

from capdeploy.errors import DataError
from capdeploy.samples import Samples, open_dataset
from capdeploy.values.checkpoint import Preprocessing
from capdeploy.values.classes import ClassSubset
from tests.heard import Listening

RULE = Preprocessing(height=8, width=8, mean=(0,) * 3, std=(1,) * 3)


@pytest.fixture
def root(tmp_path):
    """Three classes of 10 training and 4 test images, of one colour each."""
    for split, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("a", "b", "c")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (9, 7), (label * 80, index * 20, 5)).save(folder / f"{index}.png")
    return tmp_path


def opened(root, kept=(2, 0), bad=0, **options):
    dataset = open_dataset(f"folder:{root}")
    names = tuple(dataset.names[index] for index in kept)
    subset = ClassSubset(kept=kept, names=names, total=3)
    settings = {"validation_share": 0.2, "max_bad": bad, "cache_mib": 1} | options
    return Samples(dataset, kept, subset, RULE, **settings)


def colours(images):
    return images.pixels(np.arange(len(images)))[:, 0, 0]


def test_labels_follow_the_order_of_the_classes(root):
    samples = opened(root)
    for images in (samples.train, samples.validation, samples.open_test()):
        assert np.array_equal(colours(images)[:, 0], np.array([160, 0])[images.labels])
    assert np.bincount(samples.train.labels).tolist() == [8, 8]
    assert sorted(colours(samples.validation)[:, 1]) == [160, 160, 180, 180]  # the last of each


@pytest.mark.parametrize("cache_mib", [0, 1])
def test_batches_are_the_images_in_their_order(root, cache_mib):
    images = opened(root, cache_mib=cache_mib).train
    assert bool(images.workers) is (cache_mib == 0)
    found = [(inputs.numpy(), labels.numpy()) for inputs, labels in images.batches(5)]
    assert [len(labels) for _, labels in found] == [5, 5, 5, 1]
    expected = RULE.apply(images.pixels(np.arange(16)))
    assert np.array_equal(np.concatenate([inputs for inputs, _ in found]), expected)
    assert np.array_equal(np.concatenate([labels for _, labels in found]), images.labels)


def test_at_most_so_many_of_a_class_drawn_by_the_seed(root):
    once, again, other = (
        opened(root, per_class=5, seed=seed).train.rows.tolist() for seed in (0, 0, 1)
    )
    assert once == again != other
    samples = opened(root, per_class=5)
    assert np.bincount(samples.train.labels).tolist() == [4, 4]
    assert np.bincount(samples.validation.labels).tolist() == [1, 1]
    assert len(samples.open_test()) == 8  # judged by all


def test_dropped_classes_come_without_labels(root):
    samples = opened(root)
    assert samples.dropped(0, seed=0) is None
    dropped = samples.dropped(6, seed=0)
    assert dropped.labels.tolist() == [-1] * 6
    assert (colours(dropped)[:, 0] == 80).all()
    assert opened(root, kept=(0, 1, 2)).dropped(6, seed=0) is None


def test_bad_images_are_counted_over_all_splits(root):
    (root / "train" / "a" / "3.png").write_bytes(b"")
    (root / "train" / "b" / "3.png").write_bytes(b"")  # of a class that nobody asked for
    (root / "test" / "c" / "0.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"1 unreadable image, 0 tolerated, last .*train/a/3\.png"):
        opened(root)
    samples = opened(root, bad=1)
    assert len(samples.train) + len(samples.validation) == 19
    with pytest.raises(DataError, match=r"2 unreadable images, 1 tolerated, .*test/c/0\.png; mend"):
        samples.open_test()
    samples = opened(root, bad=2)
    assert len(samples.open_test()) == 7
    assert len(samples.bad) == 2
    assert len(samples.open_test()) == 7  # the same image is not counted again
    assert len(samples.bad) == 2


def test_an_image_too_thin_to_crop_is_a_bad_image(root):
    Image.new("RGB", (3_000_000, 1)).save(root / "train" / "a" / "3.png")
    with pytest.raises(DataError, match=r"1 unreadable image, .*train/a/3\.png"):
        opened(root)


def test_a_class_without_images(root):
    for file in (root / "train" / "a").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="class a has no readable images in the train split"):
        opened(root, bad=99)
    for file in sorted((root / "train" / "a").iterdir())[1:]:
        file.unlink()
    Image.new("RGB", (8, 8)).save(root / "train" / "a" / "0.png")
    with pytest.raises(DataError, match="class a needs 2 training images at least"):
        opened(root)
    for name in ("b", "c"):
        for file in sorted((root / "train" / name).iterdir())[1:]:
            file.unlink()
    with pytest.raises(DataError, match="class c needs 2 training images at least"):
        opened(root)  # of no class is there more than one
    (root / "train" / "a" / "0.png").unlink()
    with pytest.raises(DataError, match="class a has no images in the train split"):
        opened(root)


def test_the_test_split_is_val_if_there_is_no_other(root):
    (root / "test").rename(root / "val")
    assert opened(root).open_test().split == "val"


def test_memory_for_decoded_images_is_one_budget_for_all_splits(root):
    size = 8 * 8 * 3
    whole = opened(root, kept=(2, 0), cache_mib=1)
    parts = (whole.train, whole.open_test(), whole.dropped(4, seed=0))
    # Both parts of the training split share theirs.
    assert [len(part.cache) for part in parts] == [24, 8, 24]
    few = opened(root, kept=(2, 0), cache_mib=23 * size / (1 << 20))
    test, others = few.open_test(), few.dropped(4, seed=0)
    assert (len(test.cache), len(others.cache)) == (3, 20)
    assert np.array_equal(colours(test), colours(whole.open_test()))


def test_what_was_decoded_is_not_decoded_again(root, monkeypatch):
    """The images are the same either way, so reading is counted; what it reads does not matter."""
    samples, read = opened(root), []
    monkeypatch.setattr(
        type(samples.dataset), "read",
        lambda self, split, row: read.append(row) or np.zeros((8, 8, 3), np.uint8),
    )  # fmt: skip
    few, more = samples.dropped(4, seed=0), samples.dropped(6, seed=0)
    assert more.rows[:4].tolist() == few.rows.tolist()
    assert len(read) == 6
    samples.dropped(6, seed=0)
    assert len(read) == 6


def test_a_bad_image_of_a_dropped_class_costs_no_run(root):
    samples = opened(root)
    (root / "train" / "b" / "3.png").write_bytes(b"no image")
    others = samples.dropped(10, seed=0)
    assert (len(others), samples.bad) == (9, [])


def with_val(root, names=("a", "b", "c")):
    for label, name in enumerate(names):
        folder = root / "val" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (9, 7), (label * 80, 250, 5)).save(folder / "v.png")


def test_images_that_the_owner_set_apart_validate(root):
    with_val(root)
    samples = opened(root)
    assert colours(samples.validation)[:, 1].tolist() == [250, 250]
    assert np.bincount(samples.train.labels).tolist() == [10, 10]  # nothing is held back
    assert len(samples.open_test()) == 8


def test_where_the_owner_set_none_apart_some_are_held_back(root):
    with_val(root, ("a", "b"))
    said = Listening()
    samples = opened(root, say=said)
    assert sorted(colours(samples.validation)[:, 1]) == [160, 160, 180, 180]
    assert "val lacks a class; some of train are held back to validate instead" in said.notes


def test_uneven_classes_are_mixed_to_the_end(root):
    """Batch statistics come from batches: one of a single class lacks what is between classes."""
    for split, count in (("train", 90),):
        for index in range(10, 10 + count):
            Image.new("RGB", (9, 7), (0, index, 5)).save(root / split / "a" / f"{index}.png")
    shown = opened(root).train.take(70, seed=0)
    assert np.bincount(shown.labels).tolist() == [8, 62]
    assert 0 in shown.labels[-35:]  # were they dealt in turn, the last 54 would be of one class
    even = opened(root, kept=(1, 2)).train.take(16, seed=0).labels
    assert even.tolist() == [0, 1] * 8
