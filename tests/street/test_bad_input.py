"""The matrix of bad input: what is given, the exit code, and the one line that comes back.

Every row goes through the command line, in this process so that there can be many; the street's
tests show the same in processes of their own.
"""

import csv
import json
import os
import pickle
import re
import sys
import tarfile
import types

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from capdeploy.cli import main
from tests import nets

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


def emptied(file, split):
    """Remove all images of a class in a split."""
    for each in file.parent.iterdir() if split in file.parts else ():
        each.unlink()


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


@pytest.fixture(scope="module")
def broken(trained, tmp_path_factory):
    """Every checkpoint that can be wrong, by name."""
    made = tmp_path_factory.mktemp("checkpoints")
    content = trained.read_bytes()
    (made / "truncated.safetensors").write_bytes(content[: len(content) // 2])
    state = load_file(trained)
    torch.save(state, made / "whole.pth")
    whole = (made / "whole.pth").read_bytes()
    (made / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    (made / "empty.pth").write_bytes(b"")
    (made / "page.pth").write_text("<!DOCTYPE html><html>Not Found</html>")
    (made / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"model": Evil()}, made / "evilzip.pth")
    torch.save(nets.Residual(), made / "module.pth")
    torch.save({"epoch": 3}, made / "nothing.pth")
    wrong = {name: value for name, value in state.items() if not name.startswith("stem")}
    wrong["extra.weight"] = torch.zeros(2)
    wrong["conv1.weight"] = torch.zeros(3, 3)
    save_file(wrong, made / "wrong.safetensors")
    (made / "folder").mkdir()
    (made / "lfs.pth").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123\n"
    )
    # A file that the system lets nobody read from its beginning, whoever runs the tests.
    (made / "unreadable.pth").symlink_to("/proc/self/mem")
    (made / "noise.pth").write_bytes(np.random.default_rng(0).bytes(4096))
    nan = dict(state)
    nan["conv1.weight"] = torch.full_like(state["conv1.weight"], float("nan"))
    save_file(nan, made / "nan.safetensors")
    return made


BAD_CHECKPOINTS = [
    ("missing.pth", "does not exist"),
    ("truncated.safetensors", "not a whole safetensors file"),
    ("truncated.pth", "truncated or not a torch"),
    ("empty.pth", "is empty"),
    ("folder", "is a folder; name the file"),
    ("page.pth", "is an HTML page; the download failed"),
    ("evil.pth", "would run code: .*system"),
    ("evilzip.pth", "would run code: .*system"),
    ("module.pth", "would run code: .*tests.nets.Residual"),
    ("nothing.pth", "holds no weights: found keys epoch"),
    ("wrong.safetensors", "missing, first stem.weight.*unexpected, first extra.weight.*conv1"),
    ("nan.safetensors", "conv1.weight holds values that are not finite"),
    ("lfs.pth", "Git LFS pointer"),
    ("noise.pth", "is no file of weights; expected a state_dict"),
    ("unreadable.pth", "cannot be read: Input/output error"),
]

BAD_REQUESTS = [
    (("--arch", "resnet81"), 2, "unknown architecture 'resnet81': did you mean"),
    (
        ("--arch", "resnet18"),
        2,
        r"does not fit resnet18: .*missing, first layer1\.0\.conv1\.weight",
    ),
    (("--arch", "tests.nets:Nothing"), 2, "has no callable 'Nothing'"),
    (("--arch", "tests.nowhere:Net"), 2, "cannot import tests.nowhere"),
    (("--arch", "tests.nets:not_a_network"), 2, "returned int, expected a torch.nn.Module"),
    (("--arch-arg", "wdith=3"), 2, "unexpected keyword argument 'wdith'; check --arch-arg"),
    (("--arch", "resnet18", "--arch-arg", "groups=2"), 2, "groups=1.*check --arch-arg"),
    (("--classes", "7,1,sevn"), 2, "unknown class 'sevn': known: 0, 1, 2"),
    (("--classes", "7,1,7"), 2, "class 7 is chosen more than once"),
    (("--classes", "7"), 2, "1 class chosen, at least 2"),
    (("--classes", "7,10"), 2, "unknown class '10'"),
    (("--ratio", "1"), 2, "ratio.*less than 1"),
    (("--ratio", "1.5"), 2, "ratio.*less than 1"),
    (("--ratio", "-0.1"), 2, "ratio.*greater than or equal to 0"),
    (("--ratio", "abc"), 2, "'abc' is not a number"),
    (("--ratio", "0.9", "--floor", "0.5"), 2, "ratio 0.9 leaves 0.1 .* floor 0.5 keeps more"),
    (("--runtime", "onnxrntime"), 2, "unknown runtime 'onnxrntime'; did you mean onnxruntime"),
    (("--max-macs", "half"), 2, "'half' is not a limit; expected 50%"),
    (("--max-macs", "1%"), 2, "cannot be met: .* remain with every group at its floor"),
    (("--max-macs", "50%,50%"), 2, "a budget is given twice"),
    (("--max-params", "150%"), 2, "more than there is"),
    (("--allocation", "fair"), 2, "'fair' is not one of"),
    (("--steps", "0"), 2, "steps.*greater than or equal to 1"),
    (("--strategy-arg", "slope"), 2, "expected key=value"),
    (("--strategy", "ocap", "--strategy-arg", "slop=1"), 2, "no option 'slop'; did you mean slope"),
    (("--strategy", "ocap", "--strategy-arg", "slope=steep"), 2, "expected a number from 0 to 1"),
    (("--strategy", "ocpa"), 2, "unknown strategy 'ocpa'; did you mean ocap"),
    (("--data", "digitz"), 2, "unknown kind of data set 'digitz'; did you mean digits"),
    (("--data", "folder:/nowhere"), 2, "does not exist"),
    (("--profile", "raspberry"), 2, "unknown profile 'raspberry'"),
    (("--input-size", "0"), 2, "height.*greater than 0"),
    (("--input-size", "1,2,3"), 2, "expected 1 or 2 numbers"),
    (("--labels", "/nowhere"), 2, "cannot be read"),
    (("--set", "nonsense=1"), 2, "unknown recipe key"),
    (("--epochs", "-1"), 2, "epochs.*greater than or equal to 0"),
    (("--no-such-flag",), 2, "No such option"),
    (("--runtimes", "tensorrt"), 2, "unknown runtime 'tensorrt'"),
    (("--runtimes", "onnxruntime,pytorch", "--devices", "cpu,gpu"), 2, "none of onnxruntime, pyt"),
    (("--bn-images", "1"), 2, "bn_images is 1, which has no variance: give 0"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Every data set that can be wrong, by name."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)

    def images(folder, count=3, damage=None):
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
        if damage is not None:
            damage(folder / "0.png")

    def classes(name, names=("7", "1", "4"), splits=("train", "val"), damage=None):
        for split in splits:
            for label in names:
                images(root / name / split / label, damage=damage if label == "7" else None)

    classes("good")
    classes("twelve", names=tuple(map(str, range(12))))
    classes("no-test", splits=("train",))
    classes("truncated", damage=lambda file: file.write_bytes(file.read_bytes()[:60]))
    classes("zero-byte", damage=lambda file: file.write_bytes(b""))
    classes("page", damage=lambda file: file.write_text("<html>404</html>"))
    classes("float", damage=lambda file: file.rename(file.with_suffix(".gone")))
    for split in ("train", "val"):
        depth = np.zeros((8, 8), dtype=np.float32)
        Image.fromarray(depth).save(root / "float" / split / "7" / "0.tiff")
    classes("strange")
    images(root / "strange" / "val" / "unheard-of")
    classes("empty-train", damage=lambda file: emptied(file, "train"))
    classes("empty-val", damage=lambda file: emptied(file, "val"))
    for label in ("7", "1"):
        images(root / "unsplit" / label, count=10)
    (root / "nothing").mkdir()
    (root / "file.txt").write_text("no data")
    for place in ("cifar", "tarball", "wds", "wds-bare", "hf", "gtsrb", "imagenet"):
        (root / place).mkdir()
    (root / "cifar" / "test_batch").write_bytes(pickle.dumps({b"data": Evil()}))
    (root / "tarball" / "cifar-10-python.tar.gz").write_bytes(b"")
    (root / "wds" / "train-0.tar").write_bytes(b"not a tar at all" * 100)
    with tarfile.open(root / "wds-bare" / "train-0.tar", "w") as shard:
        shard.add(root / "good" / "train" / "7" / "0.png", "a.png")
    (root / "hf" / "train-0.parquet").write_bytes(b"PAR1 and no more")
    images(root / "gtsrb" / "Final_Training" / "Images" / "00000")
    images(root / "gtsrb" / "Final_Test" / "Images")
    with (root / "gtsrb" / "Final_Test" / "Images" / "GT-final_test.csv").open("w") as stream:
        csv.writer(stream, delimiter=";").writerows([["Filename", "Width"], ["0.png", "20"]])
    images(root / "imagenet" / "train" / "tench")
    images(root / "imagenet" / "val" / "tench")
    np.savez(root / "float.npz", images=np.zeros((4, 8, 8)), labels=np.zeros(4, dtype=int))
    np.savez(root / "strange.npz", pictures=np.zeros((4, 8, 8), dtype=np.uint8))
    np.savez(root / "objects.npz", images=np.array([Evil()]), labels=np.zeros(1, dtype=int))
    (root / "labels.txt").write_text("a\nb\n" * 6)
    (root / "map.json").write_text("[1, 2]")
    (root / "classes.txt").write_text("7\nnobody\n")
    return root


# What --data takes, {} is the folder of all; further words; the line.
BAD_DATA = [
    ("folder:{}/none", (), "does not exist; give folder:PATH"),
    ("folder:", (), "does not exist; give folder:PATH"),
    ("folder:{}/nothing", (), "must hold train/ and val/ .* found nothing"),
    ("folder:{}/no-test", (), "must hold train/ and val/ .* found train"),
    ("folder:{}/twelve", (), "the data has 12 classes, the head 10 outputs; say which"),
    ("folder:{}/truncated", (), r"1 unreadable image, 0 tolerated, last .*7/0\.png"),
    ("folder:{}/zero-byte", (), r"1 unreadable image, 0 tolerated, last .*7/0\.png"),
    ("folder:{}/page", (), r"1 unreadable image, 0 tolerated, last .*7/0\.png"),
    ("folder:{}/float", (), r"1 unreadable image, 0 tolerated, last .*7/0\.tiff"),
    ("folder:{}/empty-train", (), "class 7 has no images in the train split"),
    ("folder:{}/empty-val", (), "class 7 has no images in the val split"),
    ("folder:{}/strange", (), "unheard-of has no counterpart in"),
    ("folder:{}/unsplit", (), "the data has no test split; say how to split it"),
    ("folder:{}/unsplit", ("--split", "80/30"), "expected two shares that add up to 100"),
    ("folder:{}/unsplit", ("--split", "most"), "expected two shares that add up to 100"),
    ("folder:{}/unsplit", ("--split", "80/20", "--split-group", "("), "not a regular expression"),
    ("folder:{}/unsplit", ("--split", "80/20", "--split-group", "track"), "finds nothing in"),
    ("folder:{}/good", ("--split", "80/20"), "has splits already .train, val.; leave --split"),
    ("folder:{}/good", ("--crop", "0"), "crop.*greater than 0"),
    ("folder:{}/good", ("--interpolation", "cubic"), "'cubic' is not one of"),
    ("folder:{}/good", ("--samples-per-class", "1"), "greater than or equal to 2"),
    ("folder:{}/good", ("--augment", "rotate"), "augment.*'crop', 'shift', 'flip' or 'colour'"),
    ("folder:{}/good", ("--labels", "{}/labels.txt"), "has 12 names, the head 10 outputs"),
    ("folder:{}/good", ("--label-map", "{}/map.json"), "must be a table from data class"),
    ("folder:{}/good", ("--label-map", "{}/file.txt"), "is not valid JSON or TOML"),
    ("digits:here", (), "takes no location, found 'here'"),
    ("digits", ("--classes", "@{}/none.txt"), "none.txt cannot be read"),
    ("digits", ("--classes", "@{}/classes.txt"), "unknown class 'nobody'"),
    ("digits", ("--classes", "9" * 5000), "unknown class '999"),
    ("digits", ("--classes", f"1-{'9' * 5000}"), "unknown class '1-999"),
    ("digits", ("--classes", "0-12"), "range '0-12': expected ids within 0-9"),
    ("digits", ("--classes", "5-2"), "range '5-2': expected ids within 0-9, the smaller first"),
    ("digits", ("--classes", "id:10,1"), "expected ids within 0-9"),
    ("digits", ("--classes", "x*"), r"no class fits the pattern 'x\*'"),
    ("cifar10:{}/nothing", (), "must hold cifar-10-batches-py"),
    ("cifar10:{}/tarball", (), "found cifar-10-python.tar.gz, unpack it first"),
    ("cifar10:{}/cifar", (), "is not a batch of cifar10|cannot be read"),
    ("cifar100:{}/nothing", (), "must hold cifar-100-python"),
    ("gtsrb:{}/nothing", (), "must hold Final_Training/Images"),
    ("gtsrb:{}/gtsrb", (), "must have columns Filename;...;ClassId"),
    ("imagenet:{}/nothing", (), "must hold train/WNID"),
    ("imagenet:{}/imagenet", (), "holds tench, expected folders named by WordNet id"),
    ("npz:{}/none.npz", (), "does not exist; give npz:FILE"),
    ("npz:{}/file.txt", (), "is not an .npz file of plain arrays"),
    ("npz:{}/float.npz", (), "images is float64, expected uint8"),
    ("npz:{}/strange.npz", (), "must hold x_train, .* found pictures"),
    ("npz:{}/objects.npz", (), "is not an .npz file of plain arrays"),
    ("hf:{}/nothing", (), "must hold .*parquet"),
    ("hf:{}/hf", (), "cannot be read"),
    ("wds:{}/nothing", (), "must hold shards"),
    ("wds:{}/wds", (), r"shard .*train-0\.tar cannot be read"),
    ("wds:{}/wds-bare", (), "a has no .cls and no number as label in a .json"),
]


def ended(capsys, words, code):
    """Run the command to its end, by an exit code; what it wrote."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    shown = capsys.readouterr()
    assert stop.value.code == code, shown.err
    return shown


def refused(capsys, words, code, line):
    """Run the command: the exit code, one line besides the progress, nothing on stdout."""
    shown = ended(capsys, words, code)
    lines = [text for text in shown.err.splitlines() if not text.startswith(("[", " "))]
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("capdeploy: ")
    assert re.search(line, lines[0]), lines[0]
    assert shown.out == ""


def words_of(checkpoint, data="digits"):
    return (
        "compress", checkpoint, "--arch", "tests.nets:Residual", "--data", data,
        "--input-size", 16, "--epochs", 0, "--strategy", "ln_norm",
    )  # fmt: skip


@pytest.mark.parametrize(("name", "line"), BAD_CHECKPOINTS)
def test_bad_checkpoints(broken, tmp_path, monkeypatch, capsys, name, line):
    monkeypatch.setenv("OLDPWD", str(tmp_path))
    refused(capsys, (*words_of(broken / name), "-o", tmp_path / "out"), 2, line)
    assert not list(tmp_path.iterdir())
    assert not os.path.exists("pwned")


@pytest.mark.parametrize(("arguments", "code", "line"), BAD_REQUESTS)
def test_bad_requests(trained, tmp_path, capsys, arguments, code, line):
    request = (*words_of(trained), "--classes", "7,1,4", *arguments, "-o", tmp_path / "out")
    refused(capsys, request, code, line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("data", "arguments", "line"), BAD_DATA)
def test_bad_data(trained, places, tmp_path, capsys, data, arguments, line):
    more = [word.replace("{}", str(places)) for word in arguments]
    mapped = places / "map.toml"
    mapped.write_text("7 = 7\n1 = 1\n4 = 4\nunheard-of = 2\n")
    given = data.startswith("folder") and "twelve" not in data
    if given and not {"--labels", "--label-map"} & {*more} and "unsplit" not in data:
        more += ["--label-map", str(mapped)]
    request = (*words_of(trained, data.replace("{}", str(places))), *more, "-o", tmp_path / "out")
    refused(capsys, request, 2, line)
    assert not list(tmp_path.iterdir())
    assert not os.path.exists("pwned")


def test_a_trusted_checkpoint_may_name_code_that_is_not_here(tmp_path, capsys):
    class Elsewhere:
        pass

    Elsewhere.__module__, Elsewhere.__qualname__ = "their_networks", "Elsewhere"
    package = types.ModuleType("their_networks")
    package.Elsewhere = Elsewhere
    sys.modules["their_networks"] = package
    torch.save({"model": Elsewhere()}, tmp_path / "theirs.pth")
    del sys.modules["their_networks"]
    request = (*words_of(tmp_path / "theirs.pth"), "--trust-checkpoint", "--dry-run")
    refused(capsys, request, 2, "No module named 'their_networks'.*install that package")


def test_an_output_that_cannot_be_made_is_told_before_the_work(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    request = (*words_of(trained), "--classes", "7,1,4", "-o", tmp_path / "file" / "new" / "out")
    told = ended(capsys, request, 2).err
    assert re.fullmatch(r"capdeploy: .*out cannot be made: .*file is no folder\n", told)


def test_tolerated_images_are_named_and_counted(trained, places, tmp_path, capsys):
    mapped = tmp_path / "map.toml"
    mapped.write_text("7 = 7\n1 = 1\n4 = 4\n")
    request = (
        *words_of(trained, f"folder:{places / 'truncated'}"), "--label-map", mapped,
        "--max-bad-images", 2, "--no-bench", "-o", tmp_path / "out",
    )  # fmt: skip
    told = ended(capsys, request, 0).err
    assert re.search(r"train/7/0\.png cannot be read, and is left out \(1 of 2 that", told)
    assert re.search(r"val/7/0\.png cannot be read, and is left out \(2 of 2 that", told)


def test_the_head_cut_alone_is_a_run(trained, tmp_path, capsys):
    request = (
        *words_of(trained), "--classes", "7,1,4", "--ratio", 0, "--no-bench", "-f", "json",
        "-o", tmp_path / "out",
    )  # fmt: skip
    (only,) = json.loads(ended(capsys, request, 0).out)["models"]
    assert only["name"] == "baseline"
    assert (tmp_path / "out" / "baseline" / "model.onnx").is_file()


def test_a_message_writes_nothing_to_the_terminal_in_our_name(capsys):
    told = ended(capsys, ["\x1b[31mcompres"], 2).err
    assert "\x1b" not in told
    assert "\\x1b[31mcompres" in told


def test_nothing_measured_is_no_success(trained, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here, and rows on it are measured")
    request = (
        *words_of(trained), "--classes", "7,1,4", "--runtimes", "pytorch", "--devices", "cuda",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert "nothing was measured" in ended(capsys, request, 3).err
    assert (tmp_path / "out" / "ratio-0.5" / "manifest.json").is_file()


BAD_TRAINING = [
    (("--data", "digits"), "--arch is missing"),
    (("--arch", "cifar_resnet:resnet20"), "--data is missing"),
    (("--arch", "resnet81", "--data", "digits"), "unknown architecture 'resnet81'"),
    (("--arch", "timm:resnet81", "--data", "digits"), "unknown architecture 'timm:resnet81'"),
    (("--arch", "none.py:make", "--data", "digits"), "cannot import none.py: there is no such"),
    (("--arch", "resnet18", "--data", "digits", "--epochs", "0"), "epochs.*greater than or equal"),
    (("--arch", "resnet18", "--data", "digits", "--init", "none.pth"), "none.pth does not exist"),
    (("--arch", "vit_b_16", "--data", "digits"), "has self-attention|cannot take an input"),
]


@pytest.mark.parametrize(("arguments", "line"), BAD_TRAINING)
def test_bad_training(tmp_path, capsys, arguments, line):
    refused(capsys, ("train", *arguments, "-o", tmp_path / "out"), 2, line)
    assert not (tmp_path / "out").exists()


def test_the_matrix_is_as_large_as_it_says():
    assert len(BAD_CHECKPOINTS) + len(BAD_REQUESTS) + len(BAD_DATA) + len(BAD_TRAINING) >= 60
