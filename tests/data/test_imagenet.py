"""ImageNet in folders by WordNet id, whole or in part, with a flat val and the development kit."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from capdeploy import imagenet
from capdeploy.data.imagenet import KIT, PREPROCESSING
from capdeploy.errors import ClassesError, DataError
from capdeploy.labels import choose, link
from capdeploy.samples import open_dataset

TENCH, TABBY, BIRD, MACHINE = "n01440764", "n02123045", "n02012849", "n03126707"
WNIDS = (TENCH, BIRD, TABBY, MACHINE)


def image(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (value, 0, 0)).save(file, format="PNG")


def folders(root, split, wnids=WNIDS, count=2):
    for wnid in wnids:
        for index in range(count):
            image(root / split / wnid / f"{wnid}_{index}.JPEG", imagenet.output_of()[wnid] % 256)


def meta():
    """The development kit's table: ids of its own, which are not the usual outputs."""
    fields = (
        "ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height",
        "num_train_images",
    )  # fmt: skip
    rows = [
        (float(number), wnid, "a, b", "a thing", 0.0, np.zeros((0, 0)), 0.0, 1300.0)
        for number, wnid in enumerate((TABBY, TENCH, MACHINE, BIRD), start=1)
    ]
    rows.append((1001.0, "n00001740", "entity", "all", 2.0, np.array([1.0, 2.0]), 3.0, 0.0))
    table = np.array(rows, dtype=[(name, object) for name in fields]).reshape(-1, 1)
    stream = io.BytesIO()
    savemat(stream, {"synsets": table})
    return stream.getvalue()


TRUTH = (2, 1, 1, 4, 3, 2)  # of the kit's own numbers


def flat(root, *, archive=False, truth=TRUTH, table=None):
    for index in range(len(TRUTH)):
        image(root / "val" / f"ILSVRC2012_val_{index + 1:08d}.JPEG", index)
    files = {
        "meta.mat": meta() if table is None else table,
        "ILSVRC2012_validation_ground_truth.txt": "".join(f"{n}\n" for n in truth).encode(),
    }
    if not archive:
        (root / KIT / "data").mkdir(parents=True)
        for name, raw in files.items():
            (root / KIT / "data" / name).write_bytes(raw)
        return
    with tarfile.open(root / f"{KIT}.tar.gz", "w:gz") as kit:
        for name, raw in files.items():
            entry = tarfile.TarInfo(f"{KIT}/data/{name}")
            entry.size = len(raw)
            kit.addfile(entry, io.BytesIO(raw))


# The table of classes


def test_the_thousand_classes():
    assert len(imagenet.synonyms()) == imagenet.CLASSES
    assert len(set(imagenet.names())) == imagenet.CLASSES
    assert list(imagenet.synonyms()) == sorted(imagenet.synonyms())  # the usual order of outputs
    assert imagenet.output_of()[TABBY] == 281
    assert imagenet.all_known([TENCH, TABBY])
    assert not imagenet.all_known([TENCH, "n00000000"])


def test_the_names_are_torchvision_s():
    from torchvision.models import ResNet18_Weights

    theirs = ResNet18_Weights.DEFAULT.meta["categories"]
    ours = imagenet.synonyms().values()
    same = sum(name in words for name, words in zip(theirs, ours, strict=True))
    assert same >= 990  # of a few, torchvision spells the name otherwise


# Folders


@pytest.mark.parametrize("judged", ["val", "test"])
def test_a_few_classes_find_their_outputs_without_labels(tmp_path, judged):
    folders(tmp_path, "train")
    folders(tmp_path, judged, (TABBY, TENCH), count=1)
    data = open_dataset(f"imagenet:{tmp_path}")
    assert data.splits == ("train", judged)
    assert data.preprocessing == PREPROCESSING
    assert data.names == ("tench", "crane (n02012849)", "tabby", "crane (n03126707)")
    assert data.labels(judged).tolist() == [0, 2]
    assert data.read(judged, 1)[0, 0, 0] == 281 % 256
    linked = link(data.names, 1000, aliases=data.aliases)
    assert list(linked.values()) == [0, 134, 281, 517]


@pytest.mark.parametrize(
    ("word", "output"),
    [("tabby", 281), ("tabby cat", 281), ("Tabby_Cat", 281), (TABBY, 281), ("281", 281),
     ("Tinca tinca", 0), ("crane (n03126707)", 517), (BIRD, 134)],
)  # fmt: skip
def test_names_and_synonyms(tmp_path, word, output):
    folders(tmp_path, "train")
    folders(tmp_path, "val")
    data = open_dataset(f"imagenet:{tmp_path}")
    linked = link(data.names, 1000, aliases=data.aliases)
    other = "tench" if output else "tabby"
    subset, found = choose([word, other], linked, 1000, aliases=data.aliases)
    assert subset.kept[0] == output
    assert list(linked.values())[found[0]] == output


def test_a_word_that_two_classes_share(tmp_path):
    folders(tmp_path, "train")
    folders(tmp_path, "val")
    data = open_dataset(f"imagenet:{tmp_path}")
    linked = link(data.names, 1000, aliases=data.aliases)
    with pytest.raises(ClassesError, match=r"'crane' is ambiguous.*134 \(crane.*517 \(crane"):
        choose(["crane", "tabby"], linked, 1000, aliases=data.aliases)


@pytest.mark.parametrize("wnid", [BIRD, MACHINE])
def test_a_label_that_stands_twice_is_not_guessed(tmp_path, wnid):
    """Lists of ImageNet's labels, torchvision's too, say 'crane' twice."""
    folders(tmp_path, "train", (TENCH, wnid))
    folders(tmp_path, "val", (TENCH, wnid))
    data = open_dataset(f"imagenet:{tmp_path}")
    labels = [words[0] for words in imagenet.synonyms().values()]
    with pytest.raises(ClassesError, match="'crane' stands more than once in the labels; use"):
        link(data.names, 1000, labels, aliases=data.aliases)
    mapped = link(data.names, 1000, labels, {"tench": 0, data.names[1]: 3}, data.aliases)
    assert list(mapped.values()) == [0, 3]


def test_labels_that_are_wordnet_ids_or_other_synonyms(tmp_path):
    folders(tmp_path, "train", (TENCH, TABBY))
    folders(tmp_path, "val", (TENCH, TABBY))
    data = open_dataset(f"imagenet:{tmp_path}")
    for labels in ([TABBY, TENCH], ["tabby cat", "Tinca tinca"], ["tabby", "tench"]):
        assert link(data.names, 2, labels, aliases=data.aliases) == {"tench": 1, "tabby": 0}


def test_class_folders_by_wordnet_id_are_known_to_the_folder_kind_too(tmp_path):
    folders(tmp_path, "train", (TENCH, TABBY))
    folders(tmp_path, "val", (TENCH, TABBY))
    data = open_dataset(f"folder:{tmp_path}")
    assert link(data.names, 1000) == {TENCH: 0, TABBY: 281}


# A flat val


@pytest.mark.parametrize("archive", [False, True])
def test_a_flat_val_is_judged_by_the_kit(tmp_path, archive):
    folders(tmp_path, "train")
    flat(tmp_path, archive=archive)
    data = open_dataset(f"imagenet:{tmp_path}")
    wnids = [TENCH, TABBY, TABBY, BIRD, MACHINE, TENCH]
    assert [WNIDS[label] for label in data.labels("val")] == wnids
    assert [data.read("val", index)[0, 0, 0] for index in range(6)] == list(range(6))


def test_only_the_chosen_classes_of_a_flat_val(tmp_path):
    folders(tmp_path, "train", (BIRD, TABBY))
    flat(tmp_path)
    data = open_dataset(f"imagenet:{tmp_path}")
    assert data.labels("val").tolist() == [1, 1, 0]
    assert [data.read("val", index)[0, 0, 0] for index in range(3)] == [1, 2, 3]
    assert data.describe("val", 2).endswith("ILSVRC2012_val_00000004.JPEG")


def test_a_flat_val_that_is_not_whole(tmp_path):
    folders(tmp_path, "train")
    flat(tmp_path)
    (tmp_path / "val" / "ILSVRC2012_val_00000003.JPEG").unlink()
    with pytest.raises(DataError, match="val holds 5 images, the kit knows 6"):
        open_dataset(f"imagenet:{tmp_path}")


def test_a_flat_val_without_the_kit(tmp_path):
    folders(tmp_path, "train")
    image(tmp_path / "val" / "a.JPEG", 0)
    with pytest.raises(DataError, match=rf"must hold {KIT} \(or its \.tar\.gz\), which says"):
        open_dataset(f"imagenet:{tmp_path}")


def other(**tables):
    stream = io.BytesIO()
    savemat(stream, tables)
    return stream.getvalue()


@pytest.mark.parametrize(
    "table",
    [b"", b"<html>not found</html>", meta()[:600], other(x=[1.0]), other(synsets=[1.0, 2.0])],
    ids=["empty", "page", "half", "another table", "numbers"],
)
def test_a_damaged_kit(tmp_path, table):
    folders(tmp_path, "train")
    flat(tmp_path, table=table)
    with pytest.raises(DataError, match=f"{KIT} is damaged: .*; get it again"):
        open_dataset(f"imagenet:{tmp_path}")


@pytest.mark.parametrize("truth", [(1, 2, 3, 4, 1, 99), ("one",) * 6])
def test_a_kit_that_contradicts_itself(tmp_path, truth):
    folders(tmp_path, "train")
    flat(tmp_path, truth=truth)
    with pytest.raises(DataError, match=f"{KIT} is damaged"):
        open_dataset(f"imagenet:{tmp_path}")


@pytest.mark.parametrize("keep", [0, 10, 400, -30])
def test_half_an_archive_of_the_kit(tmp_path, keep):
    folders(tmp_path, "train")
    flat(tmp_path, archive=True)
    file = tmp_path / f"{KIT}.tar.gz"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"{KIT}.* is damaged"):
        open_dataset(f"imagenet:{tmp_path}")


# Other folders


def test_folders_that_are_not_imagenet_s(tmp_path):
    with pytest.raises(DataError, match=r"must hold train/WNID/\* and val/WNID/\*"):
        open_dataset(f"imagenet:{tmp_path}")
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(
        DataError, match="train holds no folders, expected folders named by WordNet"
    ):
        open_dataset(f"imagenet:{tmp_path}")
    image(tmp_path / "train" / "cat" / "0.png", 0)
    with pytest.raises(DataError, match=r"train holds cat, expected .* opened with folder:PATH"):
        open_dataset(f"imagenet:{tmp_path}")


def test_a_class_of_val_that_train_does_not_have(tmp_path):
    folders(tmp_path, "train", (TENCH,))
    folders(tmp_path, "val", (TENCH, TABBY))
    with pytest.raises(DataError, match=f"val/{TABBY} has no counterpart"):
        open_dataset(f"imagenet:{tmp_path}")
