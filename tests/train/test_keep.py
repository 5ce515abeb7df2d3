"""Training of our own: what is kept, and that going on is as if nothing had happened."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from capdeploy import recipes, weights
from capdeploy.cli import main
from capdeploy.errors import CheckpointError, ConfigError, OutputExistsError
from capdeploy.progress import Quiet
from capdeploy.stages import train
from capdeploy.train import finetune, keep
from capdeploy.train.augment import augment
from capdeploy.train.course import Course
from capdeploy.values.training import Origin, TrainReport
from tests import nets
from tests.conftest import wrap

SETTINGS = finetune.Settings(
    epochs=3, learning_rate=3e-3, optimizer="adamw", weight_decay=0.01, clip=1.0, warmup=0.1,
    patience=5, batch_size=64, seed=0,
)  # fmt: skip


class Interrupting(keep.Folder):
    """A keeper whose run is interrupted right after an epoch was kept."""

    after = 1

    def keep(self, module, optimizer, progress):
        super().keep(module, optimizer, progress)
        if len(progress.history) == self.after:
            raise KeyboardInterrupt


@pytest.fixture
def origin(residual):
    return Origin(
        architecture=residual.checkpoint.architecture,
        labels=tuple("0123456789"),
        input=residual.preprocessing,
    )


@pytest.fixture
def course(digits):
    return Course(digits.train, digits.validation, augment=("shift", "colour"))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_training_ends_where_the_whole_one_does(
    optimizer, digits, course, origin, tmp_path
):
    settings = finetune.Settings(**{**vars(SETTINGS), "optimizer": optimizer})
    torch.manual_seed(0)
    model = wrap(nets.Residual())
    model = model.with_module(model.module, classes=digits.classes)
    whole, record = finetune.run(model, course, settings, Quiet())
    with pytest.raises(KeyboardInterrupt):
        finetune.run(model, course, settings, Quiet(), Interrupting(tmp_path, origin, "a"))
    folder = keep.Folder(tmp_path, origin, "a")
    resumed, again = finetune.run(model, course, settings, Quiet(), folder)
    state = whole.module.state_dict()
    assert all(
        torch.equal(value, state[name]) for name, value in resumed.module.state_dict().items()
    )
    assert [epoch.loss for epoch in again.epochs] == [epoch.loss for epoch in record.epochs]
    assert again.best_epoch == record.best_epoch
    best = load_file(tmp_path / keep.BEST)
    assert all(torch.equal(value, state[name]) for name, value in best.items())


@pytest.mark.parametrize("rate", [0.5, 1e30])  # all is forgotten; nothing is finite
def test_a_training_that_had_ended_is_not_gone_on_with(
    rate, digits, course, origin, trained, tmp_path
):
    settings = replace(SETTINGS, learning_rate=rate, patience=1, optimizer="sgd", clip=1e30)
    network = nets.Residual()
    network.load_state_dict(weights.read_state(trained))
    model = wrap(network).with_module(network, classes=digits.classes)
    _, record = finetune.run(model, course, settings, Quiet())
    keeper = Interrupting(tmp_path, origin, "a")
    keeper.after = len(record.epochs)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(model, course, settings, Quiet(), keeper)
    _, again = finetune.run(model, course, settings, Quiet(), keep.Folder(tmp_path, origin, "a"))
    assert len(again.epochs) == len(record.epochs) < settings.epochs
    assert (again.diverged, again.stopped_early) == (record.diverged, record.stopped_early)
    assert record.diverged or record.stopped_early


def test_progress_of_another_recipe_or_damaged_is_refused(
    digits, course, origin, tmp_path, residual
):
    model = residual.with_module(residual.copy_module(), classes=digits.classes)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(model, course, SETTINGS, Quiet(), Interrupting(tmp_path, origin, "a"))
    keep.Folder(tmp_path, origin, "a").require_same()
    with pytest.raises(ConfigError, match="kept by another recipe"):
        keep.Folder(tmp_path, origin, "b").require_same()
    file = tmp_path / keep.RESUME
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"resume.safetensors is damaged .* --force"):
        finetune.run(model, course, SETTINGS, Quiet(), keep.Folder(tmp_path, origin, "a"))


def run(tmp_path, *words):
    with pytest.raises(SystemExit) as stop:
        main([*words])
    return stop.value.code


def train_words(output, *more):
    return (
        "train", "--arch", "cifar_resnet:resnet20", "--data", "digits", "--classes", "0,3,6,8",
        "--samples-per-class", "40", "--input-size", "16", "--epochs", "2", "--lr", "0.003",
        "--optimizer", "adamw", "--batch-size", "32", "-o", str(output), *more,
    )  # fmt: skip


def test_the_command_makes_a_checkpoint_that_compress_takes_as_it_is(tmp_path, capsys):
    output = tmp_path / "trained"
    assert run(tmp_path, *train_words(output)) == 0
    shown = capsys.readouterr().out
    assert "test accuracy" in shown
    report = TrainReport.from_json((output / "training.json").read_bytes())
    assert report.test.images == sum(entry.images for entry in report.test.classes)
    assert len(report.training.epochs) == 2
    assert run(tmp_path, "report", str(output)) == 0
    assert "<svg" in (output / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert run(tmp_path, "report", str(output), "-f", "md") == 0
    written = capsys.readouterr().out
    assert f"{report.test.top1 * 100:.1f} %" in written
    assert f"| {report.test.worst.name} | " in written
    origin = weights.read_origin(output / "best.safetensors")
    assert origin.labels == ("0", "3", "6", "8")
    assert (origin.input.height, origin.architecture.name) == (16, "resnet20")
    # Neither architecture nor size nor labels are said again.
    best = str(output / "best.safetensors")
    assert run(tmp_path, "inspect", best) == 0
    assert "MACs at 16x16" in capsys.readouterr().out
    words = ("compress", best, "--data", "digits", "--ratio", "0.5", "--classes", "id:3,id:1")
    assert run(tmp_path, *words, "--dry-run") == 0
    told = capsys.readouterr()
    assert "resnet20 (said by the checkpoint)" in told.err
    assert "layer1.0.conv1" in told.out


def test_an_existing_run_is_gone_on_with_only_if_asked(tmp_path, capsys, monkeypatch):
    output = tmp_path / "trained"
    assert run(tmp_path, *train_words(output)) == 0
    assert run(tmp_path, *train_words(output)) == 2
    assert "--resume or --force" in capsys.readouterr().err
    assert run(tmp_path, *train_words(output, "--resume")) == 0  # nothing is left to do
    before = (output / "training.toml").read_bytes()
    assert run(tmp_path, *train_words(output, "--resume", "--seed", "7")) == 2
    assert "another recipe" in capsys.readouterr().err
    assert (output / "training.toml").read_bytes() == before
    assert run(tmp_path, *train_words(output, "--resume", "--force")) == 2
    assert "leave one of them out" in capsys.readouterr().err
    assert (output / "training.toml").read_bytes() == before
    with monkeypatch.context() as inside:
        inside.chdir(output)
        assert run(tmp_path, *train_words(Path.cwd(), "--force")) == 2
    assert "cannot be replaced, it is the folder that this runs in" in capsys.readouterr().err
    empty = tmp_path / "volume"
    empty.mkdir()
    assert run(tmp_path, *train_words(empty)) == 0
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    assert run(tmp_path, *train_words(foreign, "--force")) == 2
    assert (foreign / "notes.txt").read_text() == "mine"
    capsys.readouterr()
    # Neither command replaces the other's folder, nor one that holds what it begins with.
    best = output / "best.safetensors"
    words = ("compress", str(best), "--data", "digits", "-o", str(output), "--force")
    assert run(tmp_path, *words) == 2
    assert "is not the output of an earlier run" in capsys.readouterr().err
    assert run(tmp_path, *train_words(output, "--force", "--init", str(best))) == 2
    assert "which --force would delete" in capsys.readouterr().err
    (foreign / "recipe.toml").write_text("")
    assert run(tmp_path, *train_words(foreign, "--force")) == 2
    assert best.is_file()
    assert (foreign / "notes.txt").is_file()


def test_fine_tuning_begins_at_a_checkpoint_of_another_width(trained, tmp_path):
    settings = [
        "arch=tests.nets:Residual", "data=digits", f"init={trained}", "classes=0,3,6,8",
        "epochs=1", "lr=1e-5", "samples_per_class=40", "optimizer=adamw", "batch_size=32",
        "input_size=16,16",
    ]  # fmt: skip
    recipe = recipes.resolve_training(None, {}, settings, {})
    heard = Listening()
    train(recipe, tmp_path, heard)
    assert any("begins fresh" in note for note in heard.notes)
    before, after = weights.read_state(trained), weights.read_state(tmp_path / "best.safetensors")
    name = next(name for name in before if name.endswith("weight"))
    assert torch.allclose(before[name], after[name], atol=1e-2)


class Listening(Quiet):
    """Remembers what it hears."""

    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def test_a_factory_that_a_file_names_is_not_called_unasked(residual, tmp_path, capsys):
    origin = Origin(
        architecture=residual.checkpoint.architecture,
        labels=("a", "b"),
        input=residual.preprocessing,
    )
    file = tmp_path / "named.safetensors"
    save_file(residual.module.state_dict(), file, {"capdeploy.origin": origin.model_dump_json()})
    code = run(tmp_path, "compress", str(file), "--data", "digits", "--dry-run")
    assert code == UNTRUSTED
    assert "give --arch yourself, or --trust-checkpoint" in capsys.readouterr().err


UNTRUSTED = OutputExistsError.exit_code


@pytest.mark.parametrize(
    "kinds", [("crop",), ("shift",), ("flip",), ("colour",), ("crop", "shift", "flip", "colour")]
)
def test_augmentation_changes_images_and_nothing_else(kinds):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    before = pixels.copy()
    found = augment(pixels, kinds, np.random.default_rng(1))
    assert (found.shape, found.dtype) == (pixels.shape, np.uint8)
    assert not np.array_equal(found, pixels)
    assert np.array_equal(pixels, before)
    assert np.array_equal(found, augment(pixels, kinds, np.random.default_rng(1)))


def test_a_crop_is_at_least_half_of_an_image_enlarged():
    rows, columns = np.mgrid[0:128, 0:128]
    ramps = np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint8)
    found = augment(np.stack([ramps] * 100), ("crop",), np.random.default_rng(0)).astype(int)
    # On a ramp, what is left of the span says how much of the side was kept.
    tall = (found[:, -1, 64, 0] - found[:, 0, 64, 0]) / 127
    wide = (found[:, 64, -1, 1] - found[:, 64, 0, 1]) / 127
    assert 0.48 < (tall * wide).min() < 0.6
    assert 0.9 < (tall * wide).max() <= 1.0
    assert 0.75 < (wide / tall).min() < 0.85
    assert 1.2 < (wide / tall).max() < 1.3
    assert len(np.unique(found[:, 0, 0, :2], axis=0)) > 50


def test_a_flip_mirrors_whole_images_about_half_of_the_time():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), dtype=np.uint8)
    found = augment(pixels, ("flip",), np.random.default_rng(0))
    kinds = [
        "same" if np.array_equal(a, b) else "mirror" if np.array_equal(a, b[:, ::-1]) else "?"
        for a, b in zip(found, pixels, strict=True)
    ]
    assert {*kinds} == {"same", "mirror"}
    assert 70 <= kinds.count("mirror") <= 130


def test_a_balanced_loss_counts_rare_classes_more(digits):
    counts = np.bincount(digits.train.labels)
    course = Course(digits.train, digits.validation, balance=True)
    model = wrap(nets.Residual())
    model = model.with_module(model.module, classes=digits.classes)
    found = course.weights(model)
    kept = found[list(digits.classes.kept)]
    assert torch.allclose(kept * torch.from_numpy(counts), torch.full((3,), counts.sum() / 3))
    assert Course(digits.train, digits.validation).weights(model) is None


def test_orders_of_an_epoch_do_not_depend_on_augmentation_threads(course, digits):
    model = wrap(nets.Residual())
    model = model.with_module(model.module, classes=digits.classes)
    uncached = Course(
        type(course.train)(*list(vars(course.train).values())[:5], {}), course.validation,
        augment=course.augment,
    )  # fmt: skip
    one, two = (
        list(itertools.islice(each.batches(model, 32, np.random.default_rng(3)), 4))
        for each in (course, uncached)
    )
    for (images, targets), (others, again) in zip(one, two, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(targets, again)
