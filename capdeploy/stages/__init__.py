"""What each step of the street needs from the recipe, and what it adds to a model's record."""

from capdeploy.stages.finishing import before, bench, rewrite
from capdeploy.stages.inputs import (
    Inputs,
    architecture,
    dataset_of,
    open_inputs,
    preprocessing,
    reading,
    with_classes,
)
from capdeploy.stages.inspecting import inspect
from capdeploy.stages.making import Made, make
from capdeploy.stages.scoring import cache, ground

__all__ = [
    "Inputs", "Made", "architecture", "before", "bench", "cache", "dataset_of", "ground", "inspect",
    "make", "open_inputs", "preprocessing", "reading", "rewrite", "with_classes",
]  # fmt: skip
