"""``capdeploy train``: a checkpoint of our own from an architecture and a data set."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch

from capdeploy import (
    __version__,
    bundle,
    fit,
    gpu,
    heap,
    labels,
    model,
    rebuild,
    recipes,
    weights,
    workplace,
)
from capdeploy.model import Model
from capdeploy.observe.trace import trace
from capdeploy.progress import Say
from capdeploy.stages.inputs import dataset_of, device_for, preprocessing, samples_of
from capdeploy.stages.making import settings_of
from capdeploy.train import evaluate, finetune, keep
from capdeploy.train.course import Course
from capdeploy.values.checkpoint import Architecture, Checkpoint, Preprocessing
from capdeploy.values.classes import ClassSubset
from capdeploy.values.recipe import TrainRecipe
from capdeploy.values.training import FILE, RECIPE, Origin, TrainReport


@heap.kept()
@gpu.exact()
def train(recipe: TrainRecipe, folder: Path, say: Say, *, anew: bool = False) -> TrainReport:
    """Train a network and leave its best and last states in a folder; go on if it was begun.

    Parameters
    ----------
    recipe : TrainRecipe
        What to do.
    folder : Path
        Gets ``best.safetensors``, ``last.safetensors``, ``resume.safetensors`` after every epoch,
        and ``training.json`` at the end; it is made when all else is in order.
    say : Say
        Hears loss, accuracy, images per second and time left.
    anew : bool
        Delete what an earlier run left in the folder.

    Returns
    -------
    TrainReport
        Curve, and accuracy of the best state on the test split.

    Raises
    ------
    MissingDeviceError
        If a GPU is asked for and there is none.
    OutputExistsError
        If beginning anew would delete the checkpoint that it begins with, or the data.
    """
    device = device_for(recipe)
    for needed in (recipe.init, recipe.data.partition(":")[2]) if anew else ():
        if needed:
            workplace.refuse_losing(folder, Path(needed))
    began = time.monotonic()
    say.step("open the data")
    dataset = dataset_of(recipe)
    wanted = preprocessing(recipe, dataset)
    linked = {name: index for index, name in enumerate(dataset.names)}
    classes, chosen = labels.choose(recipe.classes, linked, len(linked), aliases=dataset.aliases)
    # Before images are decoded, which takes longer.
    fresh = begin(recipe, classes, wanted, say).on(device)
    images = samples_of(recipe, dataset, chosen, classes, wanted, say)
    origin = Origin(architecture=fresh.checkpoint.architecture, labels=classes.names, input=wanted)
    say.step(f"train {recipe.arch} on {device}, {len(images.train)} images")
    words = recipes.to_toml(recipe)
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    keeper = keep.Folder(folder, origin, words)
    keeper.require_same()
    (folder / RECIPE).write_text(words, encoding="utf-8")
    course = Course(images.train, images.validation, balance=recipe.balance, augment=recipe.augment)
    amp = device == "cuda" and torch.cuda.is_bf16_supported() if recipe.amp is None else recipe.amp
    settings = replace(settings_of(recipe, recipe.epochs), amp=amp)
    best, record = finetune.run(fresh, course, settings, say, keeper)
    say.step("judge on the test split")
    test = evaluate.accuracy(
        best, images.open_test(), stage="trained", batch_size=recipe.batch_size
    )
    report = TrainReport(
        tool_version=__version__, origin=origin, training=record, test=test, device=device,
        seconds=time.monotonic() - began,
    )  # fmt: skip
    (folder / FILE).write_text(report.to_json(), encoding="utf-8")
    return report


def begin(recipe: TrainRecipe, classes: ClassSubset, wanted: Preprocessing, say: Say) -> Model:
    """Build the network with an output for each class, fresh or from a checkpoint."""
    architecture = Architecture.parse(recipe.arch).model_copy(
        update={"arguments": recipe.arch_args}
    )
    outputs = len(classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module = rebuild.build(architecture, outputs)
    seen = trace(module, model.example(wanted))
    digest = "0" * 64  # of no file
    if recipe.init is not None:
        file = Path(recipe.init)
        state = weights.read_state(file)
        left = fit.load(module, state, architecture, file, ignored=(f"{seen.head}.*",))
        digest = bundle.digest(file)
        if left:
            say.note(f"the head ({seen.head}) begins fresh: it has another width in {file.name}")
    # The classes are the outputs, in their order: nothing is to be cut from this head.
    ours = ClassSubset(kept=tuple(range(outputs)), names=classes.names, total=outputs)
    checkpoint = Checkpoint(
        file=Path(recipe.init or "fresh").name, sha256=digest, architecture=architecture,
        outputs=outputs, stored_dtype="float32", input=wanted, labels=classes.names,
    )  # fmt: skip
    return Model(module, checkpoint, wanted, seen, ours, head_cut=True)
