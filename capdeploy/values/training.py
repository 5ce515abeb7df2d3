"""How networks were trained, and what ``capdeploy train`` leaves behind."""

from __future__ import annotations

from pydantic import Field

from capdeploy.values.accuracy import Accuracy
from capdeploy.values.checkpoint import Architecture, Preprocessing
from capdeploy.values.noun import SCHEMA_VERSION, Noun

FILE, RECIPE = "training.json", "training.toml"
"""What lies beside the weights: the record, and the recipe that repeats it."""
ORIGIN = "capdeploy.origin"
"""Where in the header of a safetensors file an `Origin` stands."""


class Epoch(Noun):
    """One pass over the training images."""

    number: int = Field(ge=1)
    loss: float = Field(description="mean training loss")
    validation_top1: float = Field(ge=0, le=1)
    learning_rate: float = Field(ge=0, description="at the end of the epoch")
    seconds: float = Field(ge=0)


class Training(Noun):
    """How a network was fine-tuned, and whether it was worth it."""

    learning_rate: float = Field(gt=0, description="peak of the schedule")
    rate_found: bool = Field(description="true if a range test chose the learning rate")
    validation_images: int = Field(gt=0)
    start_top1: float = Field(ge=0, le=1, description="on validation, before any step")
    epochs: tuple[Epoch, ...]
    best_epoch: int = Field(ge=0, description="0 is the beginning")
    stopped_early: bool
    diverged: bool = Field(default=False, description="the loss became infinite or NaN")

    @property
    def rolled_back(self) -> bool:
        """True if the kept state is not that of the last epoch."""
        return bool(self.epochs) and self.best_epoch != self.epochs[-1].number

    @property
    def rollback(self) -> str:
        """Say which state is kept instead of the last, and why."""
        why = "the loss diverged" if self.diverged else "later epochs validated worse"
        kept = f"epoch {self.best_epoch}" if self.best_epoch else "the beginning"
        return f"rolled back to {kept}: {why}"


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
