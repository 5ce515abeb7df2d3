"""What each step of the street needs from the recipe, and what it adds to a model's record."""

from capdeploy.stages.finishing import before, bench, rewrite
from capdeploy.stages.inputs import preprocessing, with_classes
from capdeploy.stages.making import Made, make
from capdeploy.stages.scoring import cache, ground

__all__ = [
    "Made", "before", "bench", "cache", "ground", "make", "preprocessing", "rewrite",
    "with_classes",
]  # fmt: skip
