"""What each step of the street needs from the recipe, and what it adds to a model's record."""

from capdeploy.stages.finishing import before, bench, rewrite, trust
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
from capdeploy.stages.place import require as require_latency
from capdeploy.stages.precision import in_fewer_bits
from capdeploy.stages.precision import wanted as wanted_precisions
from capdeploy.stages.scoring import ground
from capdeploy.stages.search import draw
from capdeploy.stages.training import RECIPE as TRAINING_RECIPE
from capdeploy.stages.training import train

__all__ = [
    "TRAINING_RECIPE", "Inputs", "Made", "architecture", "before", "bench", "dataset_of",
    "draw", "ground", "in_fewer_bits", "inspect", "make", "open_inputs", "preprocessing", "reading",
    "require_latency", "rewrite", "train", "trust",
    "wanted_precisions", "with_classes",
]  # fmt: skip
