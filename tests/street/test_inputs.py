"""What is said before the work begins: networks that do not know the images, uneven classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from capdeploy import stages
from capdeploy.cli import main
from capdeploy.errors import ArchitectureError, ClassesError, UntrustedError
from capdeploy.progress import Quiet
from capdeploy.stages import inputs
from capdeploy.stages.inputs import _brought, _tell_unknown
from capdeploy.train import finetune
from capdeploy.train.course import Course
from capdeploy.values.training import ORIGIN, Origin
from capdeploy.weights import Reading, read_state
from tests import nets
from tests.conftest import recipe, wrap
from tests.heard import Listening


def opened(trained, **changes):
    say = Listening()
    return stages.open_inputs(recipe(trained, **changes), say), say


def test_a_network_that_knows_the_images_is_not_doubted(trained):
    _, say = opened(trained)
    assert not say.heard("guessing")
    assert not say.heard("uneven")


@pytest.mark.parametrize(
    "changes", [{"mean": (9.0, 9.0, 9.0)}, {"std": (1e-4, 1e-4, 1e-4), "mean": (0.9, 0.1, 0.5)}]
)
def test_a_wrong_preprocessing_is_noticed_before_an_hour_is_spent(trained, changes):
    _, say = opened(trained, **changes)
    (note,) = say.heard("little better than guessing")
    assert "check --mean" in note


def test_a_wrong_map_of_labels_is_noticed(trained, tmp_path):
    file = tmp_path / "map.json"
    turned = ",".join(f'"{digit}": {(digit + 1) % 10}' for digit in range(10))
    file.write_text(f"{{{turned}}}")
    _, say = opened(trained, label_map=str(file), classes=())
    assert say.heard("which output each class is")


def test_the_seed_does_not_draw_other_test_images(trained, image_folder):
    """Else a network would be judged by images that another seed has trained it on."""
    changes = {"data": f"folder:{image_folder / 'train'}", "split": "50/50"}
    first, second = (inputs.dataset_of(recipe(trained, seed=seed, **changes)) for seed in (0, 7))
    for split in ("train", "test"):
        shown = [
            [each.describe(split, row) for row in range(len(each.labels(split)))]
            for each in (first, second)
        ]
        assert shown[0] == shown[1]
        assert shown[0]


def test_uneven_classes_are_said_and_samples_per_class_evens_them(trained, image_folder):
    for image in sorted((image_folder / "train" / "cat").iterdir())[2:]:
        image.unlink()
    (image_folder / "map.toml").write_text("cat = 7\ndog = 2\n")
    file = str(image_folder / "map.toml")
    changes = {"data": f"folder:{image_folder}", "label_map": file, "classes": ()}
    _, say = opened(trained, **changes)
    (note,) = say.heard("uneven")
    assert "5 training images of dog, 1 of cat" in note
    inputs, say = opened(trained, **changes, samples_per_class=2)
    assert not say.heard("uneven")
    assert np.bincount(inputs.samples.train.labels).tolist() == [1, 1]


def test_mixed_precision_trains_too(digits):
    settings = finetune.Settings(
        epochs=2, learning_rate=3e-3, optimizer="adamw", weight_decay=0.0, clip=1.0, warmup=0.1,
        patience=3, batch_size=32, seed=0, amp=True,
    )  # fmt: skip
    model = wrap(nets.Residual())
    model = model.with_module(model.module, classes=digits.classes)
    tuned, record = finetune.run(model, Course(digits.train, digits.validation), settings, Quiet())
    assert record.epochs[-1].loss < record.epochs[0].loss
    assert {str(value.dtype) for value in tuned.module.parameters()} == {"torch.float32"}


class Homesick(nets.Residual):
    """A network with a tensor that stays on the CPU wherever the others go."""

    def __init__(self):
        super().__init__()
        self.gain = torch.ones(10)

    def forward(self, images):
        return super().forward(images) * self.gain


def test_a_network_that_runs_on_the_cpu_alone_stays_there_or_is_refused(trained):
    say = Listening()
    wanted = recipe(trained)
    # "meta" is the one other device that every machine has.
    free = _brought(wrap(nets.Residual()), wanted, "meta", say)
    assert free.device.type == "meta"
    assert not say.notes
    model = wrap(Homesick())
    assert _brought(model, wanted, "meta", say) is model
    (note,) = say.heard("it stays on the CPU")
    assert note.startswith("the network does not run on meta: ")
    with pytest.raises(ArchitectureError, match="; use --device cpu"):
        _brought(model, wanted.model_copy(update={"device": "cuda"}), "meta", say)


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="a machine with a GPU has no reason to refuse it"
)
def test_a_gpu_that_is_not_there_is_said_before_the_work_begins(trained, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["compress", str(trained), "--arch", "tests.nets:Residual", "--data", "digits",
              "--input-size", "16", "--device", "cuda", "-o", str(out)])  # fmt: skip
    assert stop.value.code == 3
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "no such device: torch sees no CUDA GPU here; use --device cpu" in line
    assert not out.exists()


def test_classes_that_the_checkpoint_does_not_know_are_said():
    say = Listening()
    _tell_unknown(("cat", "dog", "Ship"), {"cat": 0, "dog": 1}, 3, say)
    assert say.notes == ["left out, as the checkpoint knows no such class: Ship"]
    _tell_unknown(("cat", "dog", "Ship"), {"cat": 0, "dog": 1}, 2, say)  # no surprise
    _tell_unknown(("cat", "dog"), {"cat": 0, "dog": 1}, 3, say)
    assert len(say.notes) == 1
    with pytest.raises(ClassesError, match=r"none of the data's classes \(a, b\) is one that"):
        _tell_unknown(("a", "b"), {}, 2, say)


def test_a_file_that_says_what_it_is_is_inspected_as_that(trained, tmp_path):
    """Many networks have the same names and shapes; a factory's has none that we know."""
    state = read_state(Path(recipe(trained).checkpoint))
    known = stages.open_inputs(recipe(trained), Quiet()).full.checkpoint
    origin = Origin(architecture=known.architecture, input=known.input, labels=tuple("0123456789"))
    file = tmp_path / "best.safetensors"
    save_file(state, file, metadata={ORIGIN: origin.model_dump_json()})
    found = stages.inspect(file, None, None, Reading(trust=True))
    assert (found.checkpoint.architecture, found.recognised) == (known.architecture, False)
    with pytest.raises(UntrustedError, match="--trust-checkpoint"):
        stages.inspect(file, None, None, Reading())
