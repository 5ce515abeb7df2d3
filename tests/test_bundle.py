"""The wall: what was packed comes out, what was touched is found."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from capdeploy import bundle, rebuild, workplace
from capdeploy.check_images import CheckImages
from capdeploy.cli import main
from capdeploy.errors import ConfigError, DigestError, OutputExistsError, UsageError
from capdeploy.values.manifest import Manifest
from capdeploy.values.plan import PruningPlan


@pytest.fixture
def copied(run, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(run.bundle, folder)
    return folder


def test_a_whole_bundle_verifies(run):
    for entry in bundle.find(run.folder):
        bundle.verify(entry)
    assert [entry.manifest.role for entry in bundle.find(run.folder)] == ["baseline", "compressed"]


def test_one_flipped_bit_is_found_in_every_file(run, copied):
    names = sorted(path.name for path in copied.iterdir() if path.name != bundle.MANIFEST)
    assert names == sorted(bundle.FILES)
    for name in names:
        path = copied / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DigestError, match=name):
            bundle.verify(bundle.read(copied))
        path.write_bytes(content)
    bundle.verify(bundle.read(copied))


def test_every_flipped_character_of_the_manifest_is_found(copied):
    path = copied / bundle.MANIFEST
    text = path.read_text()
    for at in range(0, len(text), 97):
        if text[at].isspace():
            continue
        other = "1" if text[at] != "1" else "2"
        path.write_text(text[:at] + other + text[at + 1 :])
        with pytest.raises(DigestError):
            bundle.verify(bundle.read(copied))


def test_every_bundle_of_a_run_is_checked_and_named(run, tmp_path, capsys):
    shutil.copytree(run.folder, tmp_path / "run")
    labels = tmp_path / "run" / "baseline" / "labels.txt"
    labels.write_text(labels.read_text() + "\n")
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(tmp_path / "run"), "-f", "json"])
    shown = capsys.readouterr()
    assert stop.value.code == 1
    assert f"{labels}: " in shown.err
    first, second = json.loads(shown.out)["bundles"]
    assert (first["name"], first["ok"]) == ("baseline", False)
    assert first["problem"] in shown.err
    assert (second["name"], second["ok"], "problem" in second) == ("ratio-0.5", True, False)


@pytest.mark.parametrize("damage", [b"{", b"\xff", b""])
def test_a_damaged_manifest_is_a_negative_verdict_and_the_others_are_checked(
    run, tmp_path, capsys, damage
):
    shutil.copytree(run.folder, tmp_path / "run")
    manifest = tmp_path / "run" / "baseline" / bundle.MANIFEST
    manifest.write_bytes(damage + manifest.read_bytes()[1:] if damage else b"")
    broken = manifest.read_bytes()
    manifest.write_bytes(broken[:40] + b"!" + broken[41:])
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(tmp_path / "run"), "-f", "json"])
    shown = capsys.readouterr()
    assert stop.value.code == 1
    assert "was changed after it was sealed" in shown.err
    first, second = json.loads(shown.out)["bundles"]
    assert (first["name"], first["ok"]) == ("baseline", False)
    assert (second["name"], second["ok"]) == ("ratio-0.5", True)


def test_a_run_with_a_lost_manifest_is_not_whole(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / "ratio-0.5" / bundle.MANIFEST).unlink()
    with pytest.raises(UsageError, match=r"it has no manifest\.json"):
        bundle.find(tmp_path / "run")


def test_force_never_deletes_what_we_did_not_make(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("x")
    with (
        pytest.raises(OutputExistsError, match="not the output of an earlier run"),
        workplace.open_workplace(tmp_path / "thesis", force=True),
    ):
        pass
    assert (tmp_path / "thesis" / "thesis.txt").is_file()


def test_folders_that_were_made_on_the_way_go_with_a_run_that_fails(tmp_path):
    """And stay where somebody else has put something into them meanwhile."""
    (tmp_path / "there").mkdir()
    for mark in (None, tmp_path / "there" / "new" / "theirs.txt"):
        output = tmp_path / "there" / "new" / "deep" / "out"
        with pytest.raises(OSError, match="no luck"), workplace.open_workplace(output) as work:
            assert work.parent == output.parent
            if mark is not None:
                mark.write_text("x")
            raise OSError("no luck")
        left = [] if mark is None else [mark.parent, mark]
        assert sorted((tmp_path / "there").rglob("*")) == left


def test_missing_extra_and_linked_files_are_found(copied):
    (copied / "extra.txt").write_text("x")
    with pytest.raises(DigestError, match=r"extra\.txt is not in the manifest"):
        bundle.verify(bundle.read(copied))
    (copied / "extra.txt").unlink()
    labels = (copied / "labels.txt").rename(copied.parent / "labels.txt")
    with pytest.raises(DigestError, match=r"labels\.txt is missing"):
        bundle.verify(bundle.read(copied))
    (copied / "labels.txt").symlink_to(labels)
    with pytest.raises(DigestError, match="not a plain file"):
        bundle.verify(bundle.read(copied))


def test_a_truncated_file_is_told_by_its_size(copied):
    path = copied / bundle.GRAPH
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DigestError, match="bytes, the manifest says"):
        bundle.verify(bundle.read(copied))


def test_a_rebuilt_network_answers_bit_for_bit(run):
    for folder in (run.baseline, run.bundle):
        opened = bundle.read(folder)
        plan = PruningPlan.from_json(opened.path(bundle.PLAN).read_bytes())
        checkpoint = opened.manifest.checkpoint
        network = rebuild.from_plan(
            checkpoint.architecture, checkpoint.outputs, plan, opened.path(bundle.WEIGHTS)
        )
        checks = CheckImages.load(folder)
        inputs = opened.manifest.preprocessing.apply(np.asarray(checks.images))
        with torch.no_grad():
            answers = network(torch.from_numpy(inputs)).numpy()
        assert np.array_equal(answers, checks.logits)


def test_no_pickle_is_written(run):
    for path in run.folder.rglob("*"):
        if path.is_file():
            assert path.suffix in {
                ".json",
                ".toml",
                ".txt",
                ".onnx",
                ".safetensors",
                ".npy",
                ".npz",
            }
    np.load(run.bundle / bundle.ANSWERS, allow_pickle=False)["logits"]


def test_not_a_bundle_says_what_it_is(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        bundle.find(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"it has no manifest\.json"):
        bundle.find(tmp_path)


def test_the_workplace_leaves_all_or_nothing(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), workplace.open_workplace(target) as work:
        (work / "half").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with workplace.open_workplace(target) as work:
        (work / "whole").write_text("x")
        (work / bundle.RECIPE).write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(OutputExistsError, match="add --force"), workplace.open_workplace(target):
        pass
    with pytest.raises(ZeroDivisionError), workplace.open_workplace(target, force=True) as work:
        raise ZeroDivisionError
    assert (target / "whole").is_file()  # a failed run does not cost the old result
    with workplace.open_workplace(target, force=True) as work:
        (work / "new").write_text("x")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


FIELD = """
import json, sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "torch_pruning", "onnx", "onnxscript",
                                      "onnxsim", "safetensors", "sklearn", "PIL"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Wall())
from capdeploy.cli import main
main(json.loads(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["verify", "BUNDLE"], 0),
        (["inspect", "BUNDLE"], 0),
        (["profiles", "list"], 0),
        (["list", "runtimes"], 0),
        (
            [
                "bench",
                "BUNDLE",
                "--runtimes",
                "onnxruntime",
                "--devices",
                "cpu",
                "--seconds",
                "0.3",
            ],
            0,
        ),
        (["compress", "x.pth", "--arch", "resnet18", "--data", "digits", "-o", "o"], 3),
    ],
)
def test_the_field_side_works_without_torch(run, arguments, code, tmp_path):
    """On a device there is no torch: everything but `compress` answers, and `compress` says why."""
    words = [str(run.bundle) if word == "BUNDLE" else word for word in arguments]
    done = subprocess.run(
        [sys.executable, "-c", FIELD, json.dumps(words)],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    if code == 3:
        assert "pip install 'capdeploy[compress]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_other_folders_in_a_run_are_left_alone(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    for name in (".ipynb_checkpoints", "plots"):
        (tmp_path / "run" / name).mkdir()
    found = bundle.find(tmp_path / "run")
    assert [entry.folder.name for entry in found] == ["baseline", "ratio-0.5"]


def test_a_graph_that_the_manifest_does_not_list_is_refused(copied):
    """Else it would be opened, from wherever it lies, and no digest would be asked for."""
    data = json.loads((copied / bundle.MANIFEST).read_text())
    data["artifact"]["file"] = "../elsewhere/model.onnx"
    with pytest.raises(ConfigError, match=r"'../elsewhere/model.onnx' is not among its files"):
        Manifest.from_plain(data, source="manifest.json")


@pytest.mark.parametrize("name", [bundle.METRICS, bundle.PLAN])
def test_a_bundle_that_lacks_a_document_is_no_failed_step(copied, name, capsys):
    (copied / name).unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", str(copied)])
    assert stopped.value.code == 1
    assert f"{name} is missing; copy the bundle again" in capsys.readouterr().err
