"""CIFAR as its owner publishes it, pickled and binary, and as folders of images."""

import os
import pickle
import tarfile
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from capdeploy.data.cifar10 import EDITION as TEN
from capdeploy.data.cifar100 import EDITION as HUNDRED
from capdeploy.errors import DataError
from capdeploy.samples import open_dataset

EACH = 4  # images in a batch


class Python2(pickle._Pickler):
    """Writes what Python 2 did: its strings are bytes, and so Python 3 can read them as bytes."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, text):
        raw = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
        self.memoize(text)

    dispatch[bytes] = save_bytes
    dispatch[str] = save_bytes


def images(seed, count=EACH):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def planes(pictures):
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)).reshape(len(pictures), -1)


def batches(edition):
    """(split, file name, images, labels) of every batch, in order."""
    files = [(split, name) for split, names in edition.batches.items() for name in names]
    for seed, (split, name) in enumerate(files):
        labels = [(seed * EACH + index) % len(edition.names) for index in range(EACH)]
        yield split, name, images(seed), labels


def pickled(folder, edition, protocol=2):
    folder.mkdir(parents=True)
    for _, name, pictures, labels in batches(edition):
        batch = {
            "batch_label": name, "filenames": ["a.png"] * EACH, "data": planes(pictures),
            edition.key.decode(): labels, "coarse_labels": [0] * EACH,
        }  # fmt: skip
        with (folder / name).open("wb") as stream:
            Python2(stream, protocol).dump(batch)
    return folder


def binary(folder, edition):
    folder.mkdir(parents=True)
    for _, name, pictures, labels in batches(edition):
        before = np.zeros((EACH, edition.label_bytes), np.uint8)
        before[:, -1] = labels
        rows = np.hstack([before, planes(pictures)])
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


def check(data, edition):
    assert data.names == edition.names
    assert data.splits == ("train", "test")
    assert data.preprocessing == edition.preprocessing
    for split in data.splits:
        found = [batch for batch in batches(edition) if batch[0] == split]
        pictures = np.concatenate([batch[2] for batch in found])
        assert data.labels(split).tolist() == [label for batch in found for label in batch[3]]
        for index, picture in enumerate(pictures):
            assert np.array_equal(data.read(split, index), picture)


@pytest.mark.parametrize("edition", [TEN, HUNDRED], ids=lambda edition: edition.title)
@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("write", [pickled, binary])
def test_the_owner_s_files(tmp_path, edition, above, write):
    name = edition.python if write is pickled else edition.binary
    folder = write(tmp_path / name, edition)
    check(open_dataset(f"{edition.title}:{tmp_path if above else folder}"), edition)


def test_a_batch_is_written_as_python_2_did(tmp_path):
    file = pickled(tmp_path / "x", TEN) / "test_batch"
    with file.open("rb") as stream:
        batch = pickle.load(stream, encoding="bytes")  # noqa: TID251 - our own
    assert set(batch) > {b"data", b"labels", b"filenames"}
    assert b"_codecs" not in file.read_bytes()


def test_a_pickle_written_by_python_3_is_read_too(tmp_path):
    folder = pickled(tmp_path / "x", TEN)
    for _, name, pictures, labels in batches(TEN):
        batch = {b"data": planes(pictures), b"labels": np.array(labels)}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    check(open_dataset(f"cifar10:{folder}"), TEN)


def test_names_are_the_alphabet_s_and_all_there():
    assert len(TEN.names) == 10
    assert len(HUNDRED.names) == 100
    assert TEN.names[3] == "cat"
    assert HUNDRED.names[99] == "worm"
    assert HUNDRED.names == tuple(sorted(HUNDRED.names))


@pytest.mark.parametrize("second", ["val", "test"])
def test_folders_of_images(tmp_path, second):
    for split in ("train", second):
        for name in ("truck", "airplane"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(images(TEN.names.index(name), 1)[0]).save(
                tmp_path / split / name / "0.png"
            )
    data = open_dataset(f"cifar10:{tmp_path}")
    assert data.names == TEN.names  # classes keep their numbers although eight are not there
    assert data.splits == ("train", second)
    assert data.preprocessing == TEN.preprocessing
    assert data.labels("train").tolist() == [0, 9]
    assert np.array_equal(data.read(second, 1), images(9, 1)[0])
    (tmp_path / second / "lorry").mkdir()
    with pytest.raises(DataError, match="lorry has no counterpart in the data set's classes"):
        open_dataset(f"cifar10:{tmp_path}")


# Nothing of a stranger's runs


class Payload:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("call", "words"),
    [(os.mkdir, r"(posix|nt)\.mkdir"), (exec, r"\w+\.exec"), (np.save, r"numpy\.save")],
)
def test_code_in_a_pickle_does_not_run(tmp_path, call, words, place):
    trap = tmp_path / "sprung"
    arguments = (f"import os; os.mkdir({str(trap)!r})",) if call is exec else (str(trap),)
    arguments += (1,) if call is np.save else ()
    folder = pickled(tmp_path / TEN.python, TEN)
    payload = Payload(call, *arguments)
    pickle.loads(pickle.dumps(payload, protocol=2))  # noqa: TID251 - it is a live one
    sprung = next(tmp_path.glob("sprung*"))
    sprung.rmdir() if sprung.is_dir() else sprung.unlink()
    batch = {b"data": planes(images(0)), b"labels": [0] * EACH, b"more": payload}
    (folder / "data_batch_2").write_bytes(pickle.dumps((payload, batch)[place], protocol=2))
    with pytest.raises(
        DataError, match=rf"data_batch_2 is not a batch of cifar10: it names {words}"
    ):
        open_dataset(f"cifar10:{tmp_path}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [TEN.python]


# What is damaged or mislaid


def test_damage_is_named(tmp_path):
    folder = pickled(tmp_path / TEN.python, TEN)
    file = folder / "data_batch_3"
    whole = file.read_bytes()
    for broken in (b"", whole[:1000], b"<html>", pickle.dumps([1]), pickle.dumps({b"data": 1})):
        file.write_bytes(broken)
        with pytest.raises(DataError, match="data_batch_3 is not a batch of cifar10: "):
            open_dataset(f"cifar10:{tmp_path}")
    file.unlink()
    with pytest.raises(DataError, match=r"data_batch_3 is not a batch .* No such file"):
        open_dataset(f"cifar10:{tmp_path}")
    file.write_bytes(pickle.dumps({b"data": planes(images(0)), b"labels": [0, 1, 2, 10]}))
    with pytest.raises(DataError, match=r"labels 0\.\.10 in its train split, expected 0\.\.9"):
        open_dataset(f"cifar10:{tmp_path}")
    file.write_bytes(pickle.dumps({b"data": planes(images(0)), b"labels": [0, 1, 2]}))
    with pytest.raises(DataError, match="20 images and 19 labels in its train split"):
        open_dataset(f"cifar10:{tmp_path}")


@pytest.mark.parametrize("broken", [b"", b"<html>", bytes(3073 * 3 - 1)])
def test_half_a_binary_file(tmp_path, broken):
    file = binary(tmp_path / TEN.binary, TEN) / "data_batch_1.bin"
    file.write_bytes(broken)
    words = f"data_batch_1.bin has {len(broken)} bytes, expected a multiple of 3073; get it again"
    with pytest.raises(DataError, match=words):
        open_dataset(f"cifar10:{tmp_path}")


def test_a_binary_file_is_missing(tmp_path):
    (binary(tmp_path / TEN.binary, TEN) / "data_batch_5.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_5\.bin cannot be read"):
        open_dataset(f"cifar10:{tmp_path}")


def test_an_archive_is_to_be_unpacked_first(tmp_path):
    with pytest.raises(DataError, match=r"must hold cifar-100-python, .*; found none of them"):
        open_dataset(f"cifar100:{tmp_path}")
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"found cifar-100-python\.tar\.gz, unpack it first"):
        open_dataset(f"cifar100:{tmp_path}")
