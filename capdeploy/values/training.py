"""What ``capdeploy train`` leaves behind."""

from __future__ import annotations

from pydantic import Field

from capdeploy.values.accuracy import Accuracy
from capdeploy.values.checkpoint import Architecture, Preprocessing
from capdeploy.values.noun import SCHEMA_VERSION, Noun
from capdeploy.values.report import Training

FILE, RECIPE = "training.json", "training.toml"
"""What lies beside the weights: the record, and the recipe that repeats it."""
ORIGIN = "capdeploy.origin"
"""Where in the header of a safetensors file an `Origin` stands."""


class Origin(Noun):
    """What a safetensors file of ours says about itself, in its header."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    architecture: Architecture
    labels: tuple[str, ...] = Field(min_length=2, description="names in output order")
    input: Preprocessing


class TrainReport(Noun):
    """How a network was trained, and what it can do."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    tool_version: str
    origin: Origin
    training: Training
    test: Accuracy = Field(description="of the best state, on the test split, opened once")
    device: str
    seconds: float = Field(ge=0)
