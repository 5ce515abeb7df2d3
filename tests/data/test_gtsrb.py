"""The traffic signs as published, as torchvision lays them out, and as class folders."""

import numpy as np
import pytest
from PIL import Image

from capdeploy.data import gtsrb
from capdeploy.errors import DataError
from capdeploy.labels import choose, link
from capdeploy.samples import Samples, open_dataset
from capdeploy.values.checkpoint import Preprocessing
from capdeploy.values.classes import ClassSubset

# Not in the order of the classes, and one file is listed that nobody trained on.
TRUTH = [("00000.ppm", 14), ("00001.ppm", 0), ("00002.ppm", 42)]


def image(file, colour):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (7, 5), colour).save(file)


def training(folder, labels=(0, 14, 42), suffix="ppm"):
    for label in labels:
        for track, frame in ((0, 0), (0, 1), (1, 0)):
            image(
                folder / f"{label:05d}" / f"{track:05d}_{frame:05d}.{suffix}", (label, track, frame)
            )
        (folder / f"{label:05d}" / f"GT-{label:05d}.csv").write_text("Filename;Width\n")


def test_images(folder, table):
    for name, label in TRUTH:
        image(folder / name, (label, 200, 0))
    rows = [f"{name};7;5;1;1;6;4;{label}" for name, label in TRUTH]
    table.parent.mkdir(parents=True, exist_ok=True)
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    table.write_bytes("\r\n".join([head, *rows, ""]).encode())


test_images.__test__ = False

LAYOUTS = {
    "published": ("Final_Training/Images", "Final_Test/Images", "Final_Test/Images"),
    "published, one above": (
        "GTSRB/Final_Training/Images", "GTSRB/Final_Test/Images", "GTSRB/Final_Test/Images",
    ),
    "published, table beside": ("Final_Training/Images", "Final_Test/Images", "."),
    "torchvision": ("GTSRB/Training", "GTSRB/Final_Test/Images", "."),
    "torchvision, inside": ("Training", "Final_Test/Images", "Final_Test"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_with_a_table_of_the_test_images(tmp_path, layout):
    train, test, table = LAYOUTS[layout]
    training(tmp_path / train)
    test_images(tmp_path / test, tmp_path / table / gtsrb.TRUTH)
    data = open_dataset(f"gtsrb:{tmp_path}")
    assert data.names == gtsrb.NAMES
    assert len(data.names) == 43
    assert data.preprocessing == gtsrb.PREPROCESSING
    assert data.labels("train").tolist() == [0] * 3 + [14] * 3 + [42] * 3
    assert data.labels("test").tolist() == [14, 0, 42]
    assert data.read("train", 4)[0, 0].tolist() == [14, 0, 1]  # track by track, frame by frame
    for index, (name, label) in enumerate(TRUTH):
        assert data.read("test", index)[0, 0].tolist() == [label, 200, 0]
        assert data.describe("test", index) == str(tmp_path / test / name)


@pytest.mark.parametrize("second", ["val", "test"])
def test_class_folders(tmp_path, second):
    training(tmp_path / "train", suffix="png")
    training(tmp_path / second, (14,), suffix="png")
    data = open_dataset(f"gtsrb:{tmp_path}")
    assert data.splits == ("train", "test")
    assert data.labels("test").tolist() == [14] * 3
    assert data.read("test", 2)[0, 0].tolist() == [14, 1, 0]


def test_images_without_a_track_in_their_names_stay_in_order(tmp_path):
    for label in (0, 14):
        for number in range(10):
            image(tmp_path / "train" / f"{label:05d}" / f"{number:05d}.png", (label, number, 0))
    training(tmp_path / "test", (0, 14), suffix="png")
    data = open_dataset(f"gtsrb:{tmp_path}")
    classes = ClassSubset(kept=(0, 14), names=("a", "b"), total=43)
    rule = Preprocessing(height=5, width=7, mean=(0,) * 3, std=(1,) * 3)
    held = Samples(data, (0, 14), classes, rule, 0.2, 0, 1, seed=3).validation
    assert held.pixels(np.arange(4))[:, 0, 0, 1].tolist() == [8, 9, 8, 9]


def test_validation_has_whole_tracks(tmp_path):
    for label in (0, 14):
        for track, frames in ((0, 6), (1, 6), (2, 6)):
            for frame in range(frames):
                name = f"{label:05d}/{track:05d}_{frame:05d}.png"
                image(tmp_path / "train" / name, (label, track, frame))
    image(tmp_path / "train" / "00042" / "00000_00000.png", (42, 0, 0))
    image(tmp_path / "train" / "00042" / "00000_00001.png", (42, 0, 1))  # one track is all it has
    training(tmp_path / "test", suffix="png")
    data = open_dataset(f"gtsrb:{tmp_path}")
    classes = ClassSubset(kept=(0, 14, 42), names=("a", "b", "c"), total=43)
    rule = Preprocessing(height=5, width=7, mean=(0,) * 3, std=(1,) * 3)
    drawn = set()
    for seed in range(6):
        samples = Samples(data, (0, 14, 42), classes, rule, 0.1, 0, 1, seed=seed)
        tracks = []
        for images in (samples.train, samples.validation):
            pixels = images.pixels(np.arange(len(images)))[:, 0, 0]
            tracks.append({(int(label), int(track)) for label, track, _ in pixels})
        assert tracks[0] & tracks[1] == {(42, 0)}
        assert np.bincount(samples.train.labels).tolist() == [12, 12, 1]
        assert np.bincount(samples.validation.labels).tolist() == [6, 6, 1]
        drawn |= tracks[1]
    assert len(drawn) > 3  # not always the same ones


@pytest.mark.parametrize("word", ["stop", "00014", "14", "Stop"])
def test_a_sign_is_known_by_its_name_its_folder_and_its_number(tmp_path, word):
    training(tmp_path / "train")
    training(tmp_path / "val")
    data = open_dataset(f"gtsrb:{tmp_path}")
    linked = link(data.names, 43, aliases=data.aliases)
    subset, found = choose([word, "speed-limit-20"], linked, 43, aliases=data.aliases)
    assert subset.kept == found == (14, 0)


def test_a_head_with_outputs_that_no_sign_has(tmp_path):
    training(tmp_path / "train")
    training(tmp_path / "val")
    data = open_dataset(f"gtsrb:{tmp_path}")
    folders = [f"{label:05d}" for label in range(43)]
    linked = link(data.names, 48, folders, aliases=data.aliases)
    assert list(linked.values()) == list(range(43))
    subset, _ = choose(["yield", "stop"], linked, 48, folders, data.aliases)
    assert (subset.kept, subset.total) == ((13, 14), 48)


# What is missing or damaged


def test_half_of_the_data(tmp_path):
    training(tmp_path / "Final_Training" / "Images")
    with pytest.raises(
        DataError, match=r"must hold Final_Training/Images/00000/\*\.ppm and Final_Test"
    ):
        open_dataset(f"gtsrb:{tmp_path}")


def test_folders_that_are_no_signs(tmp_path):
    training(tmp_path / "train")
    training(tmp_path / "val")
    (tmp_path / "train" / "stop").mkdir()
    with pytest.raises(DataError, match=r"train/stop is not one of 00000\.\.00042"):
        open_dataset(f"gtsrb:{tmp_path}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no GT-final_test.csv, which says the class of each test image"),
        ("Filename;Width\n00000.ppm;7\n", r"must have columns Filename;...;ClassId; KeyError"),
        ("Filename,ClassId\n00000.ppm,1\n", "must have columns"),
        ("Filename;ClassId\n00000.ppm\n", "must have columns"),
        ("Filename;ClassId\n00000.ppm;stop\n", "must have columns"),
        ("Filename;ClassId\n00000.ppm;43\n", r"must name classes 0\.\.42"),
        ("Filename;ClassId\n00000.ppm;-1\n", r"must name classes 0\.\.42"),
        ("Filename;ClassId\n", r"must name classes 0\.\.42"),
        ("", r"must name classes 0\.\.42"),
        (b"\xff\xfe\x00", "must have columns"),
    ],
)
def test_a_table_that_says_nothing(tmp_path, content, words):
    training(tmp_path / "Final_Training" / "Images")
    test_images(tmp_path / "Final_Test" / "Images", tmp_path / "GT-final_test.test.csv")
    if content is not None:
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / gtsrb.TRUTH).write_bytes(raw)
    with pytest.raises(DataError, match=words):
        open_dataset(f"gtsrb:{tmp_path}")


def test_a_listed_image_that_is_not_there_is_a_bad_image(tmp_path):
    from capdeploy import pixels

    training(tmp_path / "Training")
    test_images(tmp_path / "Final_Test" / "Images", tmp_path / gtsrb.TRUTH)
    (tmp_path / "Final_Test" / "Images" / "00001.ppm").unlink()
    data = open_dataset(f"gtsrb:{tmp_path}")
    with pytest.raises(pixels.BAD):
        data.read("test", 1)
    assert np.array_equal(data.labels("test"), [14, 0, 42])
