"""What is said before the work begins: networks that do not know the images, uneven classes."""

import numpy as np
import pytest
import torch

from capdeploy import stages
from capdeploy.cli import main
from capdeploy.errors import ArchitectureError
from capdeploy.progress import Quiet
from capdeploy.stages.inputs import _brought
from capdeploy.train import finetune
from capdeploy.train.course import Course
from tests import nets
from tests.conftest import recipe, wrap


class Listening(Quiet):
    """Remembers what it hears."""

    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)

    def heard(self, word):
        return [note for note in self.notes if word in note]


def opened(trained, **changes):
    say = Listening()
    inputs = stages.open_inputs(recipe(trained, **changes), say)
    return inputs, say


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
