"""What each step of the street needs from the recipe, and what it adds to a model's record."""

from capdeploy.stages.finishing import before, bench, rewrite
from capdeploy.stages.inputs import architecture, preprocessing, reading, with_classes
from capdeploy.stages.inspecting import inspect
from capdeploy.stages.making import Made, make
from capdeploy.stages.scoring import cache, ground

__all__ = [
    "Made", "architecture", "before", "bench", "cache", "ground", "inspect", "make",
    "preprocessing", "reading", "rewrite", "with_classes",
]  # fmt: skip
