"""What the datasets library writes, parquet and arrow, read without it."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capdeploy import pixels
from capdeploy.errors import DataError
from capdeploy.samples import open_dataset

NAMES = ("cat", "dog", "emu")


def picture(number):
    return np.full((4, 5, 3), (number % 256, number // 256, 9), np.uint8)


def png(number):
    stream = io.BytesIO()
    Image.fromarray(picture(number)).save(stream, "PNG")
    return stream.getvalue()


def table(numbers, *, image="image", label="label", names=NAMES, labels=None, cells=None):
    """A table as the library makes it: a struct of bytes and path, names in the metadata."""
    cells = cells or [{"bytes": png(number), "path": f"{number}.png"} for number in numbers]
    labels = labels if labels is not None else [number % 3 for number in numbers]
    made = pa.table({
        image: pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        label: pa.array(labels, pa.int64()) if isinstance(labels, list) else labels,
    })  # fmt: skip
    if names is None:
        return made
    features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
    about = json.dumps({"info": {"features": features}})
    return made.replace_schema_metadata({"huggingface": about})


def parquet(file, made, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, file, **options)


def arrow(file, made, rows=2):
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as stream:
        stream.write_table(made, max_chunksize=rows)


def check(data, split, numbers):
    assert data.labels(split).tolist() == [number % 3 for number in numbers]
    for index, number in enumerate(numbers):
        assert np.array_equal(data.read(split, index), picture(number))
    with pytest.raises(IndexError):
        data.read(split, len(numbers))


def test_parquet_of_one_file_a_split(tmp_path):
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", table(range(7)))
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", table(range(7, 10)))
    data = open_dataset(f"hf:{tmp_path}")
    assert data.names == NAMES
    assert set(data.splits) == {"train", "test"}
    assert data.preprocessing is None
    check(data, "train", range(7))
    check(data, "test", range(7, 10))
    assert data.describe("test", 2) == f"{tmp_path}/test/2"


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_shards_and_row_groups_in_any_order(tmp_path, compression):
    for shard in range(3):
        parquet(
            tmp_path / f"train-{shard:05d}-of-00003.parquet",
            table(range(50 * shard, 50 * shard + 50)), row_group_size=3, compression=compression,
        )  # fmt: skip
    parquet(tmp_path / "validation-00000-of-00001.parquet", table(range(4)))
    data = open_dataset(f"hf:{tmp_path}")
    assert set(data.splits) == {"train", "val"}
    check(data, "train", range(150))
    order = np.concatenate([np.random.default_rng(seed).permutation(150) for seed in range(3)])
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda index: data.read("train", int(index)), order)
        for index, image in zip(order, found, strict=True):
            assert np.array_equal(image, picture(index))


def test_what_save_to_disk_writes(tmp_path):
    arrow(tmp_path / "train" / "data-00000-of-00002.arrow", table(range(9)))
    arrow(tmp_path / "train" / "data-00001-of-00002.arrow", table(range(9, 14)))
    arrow(tmp_path / "test" / "data-00000-of-00001.arrow", table(range(3)))
    arrow(tmp_path / "train" / "cache-0123456789abcdef.arrow", table(range(50)))  # of the library
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    data = open_dataset(f"hf:{tmp_path}")
    assert data.names == NAMES
    check(data, "train", range(14))
    check(data, "test", range(3))


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "train.parquet", "0000.parquet"])
def test_a_data_set_of_one_part_is_split(tmp_path, name):
    write = arrow if name.endswith("arrow") else parquet
    write(tmp_path / name, table(range(30)))
    with pytest.raises(DataError, match="the data has no test split; say how"):
        open_dataset(f"hf:{tmp_path}")
    data = open_dataset(f"hf:{tmp_path}", split="80/20")
    assert data.splits == ("train", "test")
    assert np.bincount(data.labels("test")).tolist() == [2, 2, 2]
    seen = {data.read(s, i)[0, 0, 0] for s in data.splits for i in range(len(data.labels(s)))}
    assert seen == set(range(30))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("default/train/0000.parquet", "train"),
        ("default/validation/0000.parquet", "val"),
        ("birds-test.parquet", "test"),
        ("valid_00.parquet", "val"),
        ("train-test/train.parquet", "train"),
    ],
)
def test_the_split_stands_in_the_name_or_the_folder(tmp_path, name, split):
    parquet(tmp_path / name, table(range(4)))
    assert open_dataset(f"hf:{tmp_path}", whole=True).splits == (split,)


@pytest.mark.parametrize(("image", "label"), [("img", "fine_label"), ("jpg", "cls")])
def test_other_columns(tmp_path, image, label):
    made = table(range(4), image=image, label=label)
    made = made.append_column("coarse_label", pa.array([9] * 4))
    parquet(tmp_path / "train.parquet", made)
    parquet(tmp_path / "test.parquet", made)
    data = open_dataset(f"hf:{tmp_path}")
    assert data.names == NAMES
    check(data, "test", range(4))


def test_plain_bytes_and_paths(tmp_path):
    plain = pa.table({"image": [png(0), png(1)], "label": pa.array([0, 1], pa.uint8())})
    parquet(tmp_path / "train.parquet", plain)
    Image.fromarray(picture(7)).save(tmp_path / "seven.png")
    cells = [{"bytes": None, "path": "seven.png"}, {"bytes": png(4), "path": None}]
    parquet(tmp_path / "test.parquet", table([7, 4], cells=cells, names=None))
    data = open_dataset(f"hf:{tmp_path}")
    assert data.names == ("0", "1")  # nobody says how they are called
    check(data, "train", range(2))
    check(data, "test", [7, 4])


def test_secret_answers_are_no_split(tmp_path):
    """As of ImageNet on the hub, whose test labels are all -1."""
    parquet(tmp_path / "train.parquet", table(range(4)))
    parquet(tmp_path / "validation.parquet", table(range(4)))
    parquet(tmp_path / "test.parquet", table(range(4), labels=[-1] * 4))
    assert set(open_dataset(f"hf:{tmp_path}").splits) == {"train", "val"}


def test_a_bad_cell_is_a_bad_image(tmp_path):
    cells = [
        {"bytes": png(0), "path": None}, {"bytes": png(1)[:50], "path": None},
        {"bytes": b"", "path": None}, {"bytes": None, "path": "nowhere.png"}, None,
    ]  # fmt: skip
    made = table(range(5), cells=cells)
    parquet(tmp_path / "train.parquet", made)
    parquet(tmp_path / "test.parquet", made)
    data = open_dataset(f"hf:{tmp_path}")
    assert data.read("train", 0).shape == (4, 5, 3)
    for index in range(1, 5):
        with pytest.raises(pixels.BAD):
            data.read("train", index)


# What is refused


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (table(range(3), image="picture"), r"has columns picture, label, expected one of image"),
        (table(range(3), label="kind"), r"has columns image, kind, expected one of label"),
        (
            table(range(3), labels=pa.array(["a", "b", "c"])),
            "its labels are string, expected whole",
        ),
        (table(range(3), labels=pa.array([0.0, 1.0, 2.0])), "its labels are double"),
        (table(range(3), labels=pa.array([[0], [1], [2]])), "its labels are list<"),
        (table(range(3), labels=[0, None, 1]), "its labels are int64, expected whole .* all rows"),
        (table(range(3), labels=[0, 1, 3]), "has labels up to 3 and 3 classes"),
        (table(range(3), labels=[-1] * 3), "has labels up to -1"),
        (table([]), "has labels up to -1"),
        (table(range(3), labels=[0, 1, 1 << 60], names=None), "expected classes counted from 0"),
    ],
)
@pytest.mark.parametrize("write", [parquet, arrow])
def test_tables_that_cannot_be_meant(tmp_path, made, words, write):
    write(tmp_path / ("data-0.arrow" if write is arrow else "train.parquet"), made)
    with pytest.raises(DataError, match=words):
        open_dataset(f"hf:{tmp_path}", split="80/20")


@pytest.mark.parametrize("column", ["image", "label"])
@pytest.mark.parametrize("write", [parquet, arrow])
def test_a_shard_that_lacks_a_column(tmp_path, column, write):
    suffix = "arrow" if write is arrow else "parquet"
    write(tmp_path / f"data-0-train.{suffix}", table(range(4)))
    write(tmp_path / f"data-1-train.{suffix}", table(range(4)).drop_columns([column]))
    with pytest.raises(DataError, match=column):
        open_dataset(f"hf:{tmp_path}", split="80/20")


@pytest.mark.parametrize("name", ["train.parquet", "data-0.arrow"])
@pytest.mark.parametrize("keep", [0, 40, -100])
def test_a_damaged_file(tmp_path, name, keep):
    (arrow if name.endswith("arrow") else parquet)(tmp_path / name, table(range(9)))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cannot be read: .*; get it again"):
        open_dataset(f"hf:{tmp_path}", split="80/20")


def test_a_folder_without_either(tmp_path):
    (tmp_path / "train.csv").touch()
    with pytest.raises(DataError, match=r"must hold \*\.parquet, or what save_to_disk wrote"):
        open_dataset(f"hf:{tmp_path}")


def test_splits_without_any_to_train_with(tmp_path):
    for name in ("test", "validation"):
        parquet(tmp_path / f"{name}.parquet", table(range(4)))
    with pytest.raises(DataError, match="has splits test, val; expected train, and test or val"):
        open_dataset(f"hf:{tmp_path}")
