"""What the street starts from: preprocessing, and the model with its chosen classes."""

from __future__ import annotations

from dataclasses import replace

from capdeploy.data import Dataset
from capdeploy.model import Model
from capdeploy.values.checkpoint import Architecture, Preprocessing
from capdeploy.values.classes import ClassSubset
from capdeploy.values.recipe import Recipe
from capdeploy.weights import Reading

IMAGENET = Preprocessing(
    height=224, width=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def preprocessing(recipe: Recipe, dataset: Dataset) -> Preprocessing:
    """Lay the user's words over the data set's own preprocessing, or over ImageNet's."""
    base = dataset.preprocessing or IMAGENET
    given: dict[str, object] = {
        "mean": recipe.mean,
        "std": recipe.std,
        "channel_order": recipe.channel_order,
    }
    if recipe.input_size is not None:
        given |= dict(zip(("height", "width"), recipe.input_size, strict=True))
    wanted = {key: value for key, value in given.items() if value is not None}
    return Preprocessing.from_plain(base.model_dump() | wanted, source="preprocessing")


def architecture(recipe: Recipe) -> Architecture | None:
    """Read which network the weights belong to; None: to be found by their names and shapes."""
    if recipe.arch is None:
        return None
    return Architecture.parse(recipe.arch).model_copy(update={"arguments": recipe.arch_args})


def reading(recipe: Recipe) -> Reading:
    """Say where in the checkpoint the weights are, and whether to trust it."""
    return Reading(recipe.state_key, recipe.strip_prefix, recipe.trust_checkpoint)


def with_classes(
    model: Model, classes: ClassSubset, labels: tuple[str, ...] | None = None
) -> Model:
    """Note the chosen classes, and all labels if they are known, on a model with a whole head."""
    checkpoint = model.checkpoint.model_copy(update={"labels": labels})
    return replace(model, checkpoint=checkpoint, classes=classes)
