"""What the street starts from: preprocessing, and the model with its chosen classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from capdeploy import labels, model, samples, weights
from capdeploy.data import Dataset
from capdeploy.errors import (
    ArchitectureError,
    ClassesError,
    ConfigError,
    MissingDeviceError,
    UntrustedError,
)
from capdeploy.model import Model
from capdeploy.progress import Say
from capdeploy.samples import Samples
from capdeploy.strategies import STRATEGIES
from capdeploy.train import evaluate, head
from capdeploy.values.checkpoint import Architecture, Preprocessing
from capdeploy.values.classes import ClassSubset
from capdeploy.values.recipe import Common, Recipe
from capdeploy.values.training import Origin
from capdeploy.weights import Reading
from capdeploy.zoo import SOURCES

UNEVEN = 3.0  # times more images of the commonest class than of the rarest: worth a word
GLANCE = 256  # images for the look at the head-cut network

IMAGENET = Preprocessing(
    height=224, width=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def preprocessing(recipe: Common, dataset: Dataset, origin: Origin | None = None) -> Preprocessing:
    """Lay the user's words over the checkpoint's own preprocessing, the data's, or ImageNet's."""
    base = (origin.input if origin is not None else None) or dataset.preprocessing or IMAGENET
    given: dict[str, object] = {
        "mean": recipe.mean,
        "std": recipe.std,
        "channel_order": recipe.channel_order,
        "resize": recipe.resize,
        "crop": recipe.crop,
        "interpolation": recipe.interpolation,
    }
    if recipe.input_size is not None:
        given |= dict(zip(("height", "width"), recipe.input_size, strict=True))
    wanted = {key: value for key, value in given.items() if value is not None}
    return Preprocessing.from_plain(base.model_dump() | wanted, source="preprocessing")


def architecture(recipe: Recipe, origin: Origin | None = None) -> Architecture | None:
    """Read which network the weights belong to; None: to be found by their names and shapes."""
    if recipe.arch is None:
        if recipe.arch_args:
            raise ConfigError("--arch-arg is for an architecture that is named; add --arch")
        return stored(Path(recipe.checkpoint), origin, trust=recipe.trust_checkpoint)
    return Architecture.parse(recipe.arch).model_copy(update={"arguments": recipe.arch_args})


def stored(file: Path, origin: Origin | None, *, trust: bool) -> Architecture | None:
    """Read which network a file says its weights belong to; None if it says nothing."""
    if origin is None:
        return None
    if origin.architecture.source == "factory" and not trust:
        # A file may name any code of this machine as its factory.
        raise UntrustedError(
            f"checkpoint {file} says that {origin.architecture} builds its network; "
            "give --arch yourself, or --trust-checkpoint"
        )
    return origin.architecture


def reading(recipe: Recipe) -> Reading:
    """Say where in the checkpoint the weights are, and whether to trust it."""
    return Reading(
        recipe.state_key, recipe.strip_prefix, recipe.trust_checkpoint, recipe.ignore_keys
    )


@dataclass(frozen=True)
class Inputs:
    """What the street works on.

    Parameters
    ----------
    full : Model
        The network as it came, its classes chosen.
    narrow : Model
        The same with its head cut, unless the recipe keeps the head.
    samples : Samples
        Images of the chosen classes.
    """

    full: Model
    narrow: Model
    samples: Samples


def open_inputs(recipe: Recipe, say: Say) -> Inputs:
    """Open checkpoint and data, find the classes, cut the head, and look whether they fit.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    say : Say
        Hears what was found, and what looks wrong.

    Returns
    -------
    Inputs
        Models, on the recipe's device, and images.

    Raises
    ------
    MissingDeviceError
        If a GPU is asked for and there is none.
    ConfigError
        If there is no such strategy, or it has no such option.
    """
    # What is said wrongly is told before images are decoded.
    STRATEGIES.load(recipe.strategy).settle(recipe.strategy_args, name=recipe.strategy)
    device = device_for(recipe)
    dataset = dataset_of(recipe)
    file = Path(recipe.checkpoint)
    origin = weights.read_origin(file)
    wanted = preprocessing(recipe, dataset, origin)
    opened = model.open(file, architecture(recipe, origin), wanted, reading(recipe))
    _tell_opened(recipe, opened, origin, say)
    names = labels.read_names(Path(recipe.labels)) if recipe.labels else None
    if names is None and origin is not None and len(origin.labels) == opened.checkpoint.outputs:
        names = origin.labels
    table = labels.read_map(Path(recipe.label_map)) if recipe.label_map else None
    outputs = opened.checkpoint.outputs
    if names is not None and len(names) < outputs:
        say.note(f"the head has {outputs} outputs, the labels name {len(names)}")
    linked = labels.link(
        dataset.names,
        outputs,
        names,
        table,
        dataset.aliases,
        partial=not (recipe.labels or recipe.label_map),
    )
    _tell_unknown(dataset.names, linked, outputs, say)
    classes, data_classes = labels.choose(
        recipe.classes, linked, outputs, names, dataset.aliases, dataset.names
    )
    images = samples_of(recipe, dataset, data_classes, classes, wanted, say)
    _tell_uneven(images, say)
    say.step("cut the head")
    full = with_classes(opened, classes, names)
    narrow = full if recipe.keep_head else head.cut(full, classes)
    full, narrow = (_brought(each, recipe, device, say) for each in (full, narrow))
    _tell_mismatch(narrow, images, recipe.batch_size, say)
    return Inputs(full, narrow, images)


def _brought(model: Model, recipe: Recipe, device: str, say: Say) -> Model:
    """Bring a network to a device; some can only run on the CPU, where their own tensors are."""
    try:
        return model.on(device)
    except ArchitectureError as error:  # it ran on the CPU, so it is the device
        why = str(error.__cause__ or error).splitlines()[0]
        if recipe.device != "auto":
            raise ArchitectureError(
                f"the network does not run on {device}: {why}; use --device cpu"
            ) from error
        say.note(f"the network does not run on {device}: {why}; it stays on the CPU")
        return model


def device_for(recipe: Common) -> str:
    """Say where networks are scored and trained, ``cpu`` or ``cuda``."""
    here = torch.cuda.is_available()
    if recipe.device == "cuda" and not here:
        raise MissingDeviceError("no such device: torch sees no CUDA GPU here; use --device cpu")
    return "cuda" if here and recipe.device != "cpu" else "cpu"


def dataset_of(recipe: Common) -> Dataset:
    """Open the recipe's data set; no image is read yet.

    Whatever the seed, the test images are the same ones: a network that one seed trained may not
    be judged, with another, by what it was trained on.
    """
    return samples.open_dataset(recipe.data, split=recipe.split, group=recipe.split_group)


def samples_of(
    recipe: Common,
    dataset: Dataset,
    data_classes: tuple[int, ...],
    classes: ClassSubset,
    wanted: Preprocessing,
    say: Say,
) -> Samples:
    """Open the images of the chosen classes."""
    return Samples(
        dataset, data_classes, classes, wanted,
        recipe.validation_share, recipe.max_bad_images, recipe.cache_mib,
        recipe.samples_per_class, recipe.seed, say,
    )  # fmt: skip


def _tell_unknown(names: Sequence[str], linked: Mapping[str, int], outputs: int, say: Say) -> None:
    """Say which classes of the data the head does not know; stop if it knows none."""
    unknown = [name for name in names if name not in linked]
    shown = ", ".join(unknown[:6]) + (", ..." if len(unknown) > 6 else "")
    if not linked:
        raise ClassesError(
            f"none of the data's classes ({shown}) is one that the checkpoint says it knows; give "
            "--labels or --label-map, which say which output each is"
        )
    # Where the data has more classes than the head, that some are unknown is no surprise.
    if unknown and len(names) <= outputs:
        say.note(f"left out, as the checkpoint knows no such class: {shown}")


def _tell_opened(recipe: Recipe, opened: Model, origin: Origin | None, say: Say) -> None:
    found = opened.checkpoint
    if recipe.arch is None:
        how = "said by the checkpoint" if origin is not None else "found by its weights"
        say.note(f"architecture {found.architecture} ({how})")
    for tensors, word in ((found.unused, "not used"), (found.absent, "not in the file, fresh")):
        if tensors:
            say.note(f"{len(tensors)} tensors {word}: {_few(tensors)}")
    known = found.architecture
    heads = SOURCES.load(known.source).auxiliary(known.name)
    with_heads = any(name.startswith(heads) for name in found.unused if heads)
    if with_heads and "transform_input" not in known.arguments:
        # No file tells; torchvision sets it where it fetches the weights itself.
        say.note(
            f"if these are torchvision's own weights, {known.name} wants its input in another "
            f"scale: --arch {known} --arch-arg transform_input=true"
        )


def _few(names: Sequence[str]) -> str:
    places = list(dict.fromkeys(name.partition(".")[0] for name in names))
    return ", ".join(places[:4]) + (", ..." if len(places) > 4 else "")


def _tell_uneven(images: Samples, say: Say) -> None:
    counts = np.bincount(images.train.labels, minlength=len(images.classes))
    if counts.max() >= UNEVEN * counts.min():
        most, least = (images.classes.names[at] for at in (counts.argmax(), counts.argmin()))
        say.note(
            f"classes are uneven: {counts.max()} training images of {most}, {counts.min()} of "
            f"{least}; see --balance and --samples-per-class"
        )


def _tell_mismatch(narrow: Model, images: Samples, batch_size: int, say: Say) -> None:
    """Warn before an hour is spent if the network does not know these images."""
    few = images.validation.take(GLANCE, seed=0)
    found = evaluate.accuracy(narrow, few, stage="", batch_size=batch_size)
    if found.interval[0] <= 1 / len(images.classes):
        say.note(
            f"before any cut the network gets {found.top1:.0%} of {len(few)} validation images "
            "right, little better than guessing; check --mean, --std, --input-size, "
            "--channel-order and which output each class is (--labels, --label-map)"
        )


def with_classes(
    model: Model, classes: ClassSubset, labels: tuple[str, ...] | None = None
) -> Model:
    """Note the chosen classes, and all labels if they are known, on a model with a whole head."""
    checkpoint = model.checkpoint.model_copy(update={"labels": labels})
    return replace(model, checkpoint=checkpoint, classes=classes)
