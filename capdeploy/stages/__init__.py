"""What each step of the street needs from the recipe, and what it adds to a model's record."""

from capdeploy.stages.bits import wanted as wanted_precisions
from capdeploy.stages.finishing import bench
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
from capdeploy.stages.making import Made
from capdeploy.stages.networks import make_all, seal_all
from capdeploy.stages.place import require as require_latency
from capdeploy.stages.planned import Planned
from capdeploy.stages.reach import within_reach
from capdeploy.stages.scoring import as_nouns, ground
from capdeploy.stages.scoring import sensitivity_report as sensitivity
from capdeploy.stages.search import draw
from capdeploy.stages.training import train
from capdeploy.values.training import RECIPE as TRAINING_RECIPE

__all__ = [
    "TRAINING_RECIPE", "Inputs", "Made", "Planned", "architecture", "as_nouns", "bench",
    "dataset_of", "draw", "ground", "inspect", "make_all", "open_inputs", "preprocessing",
    "reading", "require_latency", "seal_all", "sensitivity", "train",
    "wanted_precisions", "with_classes", "within_reach",
]  # fmt: skip
