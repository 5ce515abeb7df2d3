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
from capdeploy.stages.scoring import ground
from capdeploy.stages.search import draw
from capdeploy.stages.training import RECIPE as TRAINING_RECIPE
from capdeploy.stages.training import train

__all__ = [
    "TRAINING_RECIPE", "Inputs", "Made", "architecture", "before", "bench", "dataset_of",
    "draw", "ground", "inspect", "make", "open_inputs", "preprocessing", "reading",
    "rewrite", "train", "with_classes",
]  # fmt: skip
