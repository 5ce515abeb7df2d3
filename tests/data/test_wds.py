"""Shards of WebDataset: images by their place in the tar file, classes in .cls or .json."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from capdeploy import pixels
from capdeploy.errors import DataError
from capdeploy.samples import open_dataset


def picture(number):
    return np.full((4, 5, 3), (number % 256, 3, 9), np.uint8)


def encoded(number, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(picture(number)).save(stream, kind)
    return stream.getvalue()


def shard(file, members, mode="w"):
    """Write members, a mapping from name to content, as they come."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as archive:
        for name, raw in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))


def members(numbers, *, suffix="png", prefix=""):
    made = {}
    for number in numbers:
        made[f"{prefix}{number:06d}.cls"] = b"%d" % (number % 3)
        made[f"{prefix}{number:06d}.{suffix}"] = encoded(
            number, "PPM" if suffix == "ppm" else "PNG"
        )
    return made


def check(data, split, numbers):
    assert data.labels(split).tolist() == [number % 3 for number in numbers]
    for index in np.random.default_rng(0).permutation(len(numbers)):
        assert np.array_equal(data.read(split, int(index)), picture(numbers[index]))


def test_shards_of_each_split(tmp_path):
    shard(tmp_path / "train-000000.tar", members(range(5)))
    shard(tmp_path / "train-000001.tar", members(range(5, 12)))
    shard(tmp_path / "val-000000.tar", members(range(4), suffix="ppm"))
    data = open_dataset(f"wds:{tmp_path}")
    assert data.names == ("0", "1", "2")
    assert data.splits == ("train", "val")
    assert data.preprocessing is None
    check(data, "train", range(12))
    check(data, "val", range(4))
    assert data.describe("train", 6) == f"{tmp_path}/train-000001.tar#000006"


def test_photographs(tmp_path):
    shard(tmp_path / "train.tar", {"a.JPG": encoded(200, "JPEG"), "a.cls": b"0\n"})
    shard(tmp_path / "test.tar", {"a.jpeg": encoded(100, "JPEG"), "a.cls": b"0"})
    data = open_dataset(f"wds:{tmp_path}")
    assert abs(data.read("train", 0).astype(int) - picture(200)).max() <= 3
    assert abs(data.read("test", 0).astype(int) - picture(100)).max() <= 3


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet-train-000000.tar", "train"),
        ("train_0.tar", "train"),
        ("validation/000.tar", "val"),
        ("sets/test/shard-0.tar", "test"),
        ("shard-0.tar", "all"),
    ],
)
def test_the_split_stands_in_the_name_or_the_folder(tmp_path, name, split):
    shard(tmp_path / name, members(range(3)))
    assert open_dataset(f"wds:{tmp_path}", whole=True).splits == (split,)


@pytest.mark.parametrize("name", ["shard-0.tar", "train-0.tar"])
def test_shards_of_one_part_are_split(tmp_path, name):
    shard(tmp_path / name, members(range(30)))
    data = open_dataset(f"wds:{tmp_path}", split="80/20")
    assert np.bincount(data.labels("test")).tolist() == [2, 2, 2]
    assert "#0000" in data.describe("test", 0)


def test_keys_in_folders_and_keys_with_more_than_one_suffix(tmp_path):
    """A key goes to the first dot of the file's name; what follows is its kind."""
    made = {}
    for number, key in enumerate(("a/x", "b/x", "v1.0/x", "./c/y")):
        made[f"{key}.png"] = encoded(number)
        made[f"{key}.mask.png"] = encoded(77)
        made[f"{key}.cls"] = b"%d" % (number % 3)
        made[f"{key}.txt"] = b"words"
    shard(tmp_path / "train.tar", made)
    shard(tmp_path / "test.tar", made)
    data = open_dataset(f"wds:{tmp_path}")
    check(data, "train", range(4))
    assert data.describe("train", 2).endswith("train.tar#v1.0/x")


@pytest.mark.parametrize(
    ("extra", "label"),
    [
        ({"k.json": b'{"label": 2, "more": [1]}'}, 2),
        ({"k.json": b'{"label": "2"}'}, 2),
        ({"k.json": b'{"width": 5}', "k.cls": b"1"}, 1),
        ({"k.json": b'{"label": "tabby"}', "k.cls": b"1"}, 1),
        ({"k.cls": b"1", "k.json": b'{"label": 2}'}, 1),
        ({"k.json": b'{"label": 2}', "k.cls": b"1"}, 1),
        ({"k.json": b"[1, 2]", "k.cls": b"1"}, 1),
    ],
)
def test_a_label_in_json(tmp_path, extra, label):
    shard(tmp_path / "train.tar", {"k.png": encoded(5)} | extra)
    shard(tmp_path / "test.tar", members([5]))
    assert open_dataset(f"wds:{tmp_path}").labels("train").tolist() == [label]


@pytest.mark.parametrize(
    "text",
    [
        "cat\nfire truck\nemu", "cat\nfire truck\nemu\n", "cat\nfire truck\nemu\n\n",
        "cat\r\nfire truck\r\nemu\r\n", "\ufeffcat\nfire truck\nemu\n",
    ],
)  # fmt: skip
def test_class_names(tmp_path, text):
    shard(tmp_path / "train.tar", members(range(3)))
    shard(tmp_path / "test.tar", members(range(2)))
    (tmp_path / "classnames.txt").write_bytes(text.encode())
    assert open_dataset(f"wds:{tmp_path}").names == ("cat", "fire truck", "emu")


def test_class_names_that_do_not_fit(tmp_path):
    shard(tmp_path / "train.tar", members(range(3)))
    shard(tmp_path / "test.tar", members(range(2)))
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"classnames\.txt has 2 names, the shards 3 classes"):
        open_dataset(f"wds:{tmp_path}")
    (tmp_path / "classnames.txt").write_bytes(b"\xff\xfec\x00")
    with pytest.raises(DataError, match=r"classnames\.txt is not UTF-8 text"):
        open_dataset(f"wds:{tmp_path}")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_kind_of_tar(tmp_path, form):
    key = "/".join(["long" * 20] * 2) + "/x"
    for name in ("train", "test"):
        with tarfile.open(tmp_path / f"{name}.tar", "w", format=form) as archive:
            for suffix, raw in (("png", encoded(4)), ("cls", b"1")):
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(raw)
                archive.addfile(entry, io.BytesIO(raw))
    check(open_dataset(f"wds:{tmp_path}"), "train", [4])


# What is refused


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"k.png": encoded(0)}, r"train\.tar: k has no \.cls and no number as label in a \.json"),
        ({"k.png": encoded(0), "k.json": b"{}"}, r"k has no \.cls"),
        ({"k.png": encoded(0), "k.json": b'{"label": "tabby"}'}, r"k has no \.cls"),
        ({"k.png": encoded(0), "k.cls": b"-1"}, r"train\.tar has a class below 0"),
        ({"k.png": encoded(0), "k.cls": b"tabby"}, r"train\.tar cannot be read: .*'tabby'"),
        ({"k.png": encoded(0), "k.cls": b""}, r"train\.tar cannot be read: "),
        ({"k.png": encoded(0), "k.json": b"{"}, r"train\.tar cannot be read: JSONDecodeError"),
        ({"k.png": encoded(0), "k.cls": b"%d" % (1 << 60)}, "expected classes counted from 0"),
        ({"k.cls": b"1", "k.txt": b"words"}, "hold no KEY.jpg with a KEY.cls or KEY.json"),
        ({}, "hold no KEY.jpg"),
    ],
)
def test_shards_that_cannot_be_meant(tmp_path, made, words):
    shard(tmp_path / "train.tar", made)
    with pytest.raises(DataError, match=words):
        open_dataset(f"wds:{tmp_path}", split="80/20")


def broken(whole):
    yield "empty", b""
    yield "a page", b"<html>not found</html>"
    yield "within an image", whole[: 5 * 512 + 40]
    yield "within a header", whole[: 3 * 1024 + 100]
    for name, block in (("first header", 0), ("a later header", 8 * 512)):
        assert whole[block : block + 6].isdigit()
        yield name, whole[:block] + b"\xff" * 300 + whole[block + 300 :]


def test_a_damaged_shard(tmp_path):
    file = tmp_path / "train-0.tar"
    shard(file, members(range(9)))
    for name, content in broken(file.read_bytes()):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"shard .*train-0\.tar cannot be read: "):
            open_dataset(f"wds:{tmp_path}", split="80/20")
            pytest.fail(name)


def test_a_compressed_shard(tmp_path):
    shard(tmp_path / "train-0.tar", members(range(9)), mode="w:gz")
    with pytest.raises(DataError, match=r"expected a whole \.tar, not compressed"):
        open_dataset(f"wds:{tmp_path}", split="80/20")


def test_a_bad_image_is_found_when_it_is_read(tmp_path):
    shard(tmp_path / "train.tar", {"a.png": encoded(0)[:40], "a.cls": b"0"} | members([1]))
    shard(tmp_path / "test.tar", members([1]))
    data = open_dataset(f"wds:{tmp_path}")
    with pytest.raises(pixels.BAD):
        data.read("train", 0)
    assert np.array_equal(data.read("train", 1), picture(1))


def test_a_folder_without_shards(tmp_path):
    (tmp_path / "train.tar.gz").touch()
    with pytest.raises(DataError, match=r"must hold shards such as train-000000\.tar, found none"):
        open_dataset(f"wds:{tmp_path}")
