"""How much a network's answers change as one group of it shrinks."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from capdeploy.values.checkpoint import Checkpoint
from capdeploy.values.classes import ClassSubset
from capdeploy.values.noun import SCHEMA_VERSION, Noun

LEVELS = (0.125, 0.25, 0.5, 0.75, 0.9)
"""Shares of a group's channels whose loss is measured; between them the curve is straight."""


class Curve(Noun):
    """The harm of every width of one group, all others whole and nothing trained."""

    group: str
    width: int = Field(gt=0, description="channels of the group")
    harms: tuple[float, ...] = Field(
        description="nats lost by dropping n channels, n = 0..width; never falling"
    )
    estimated: bool = Field(
        default=False,
        description="not measured, but estimated for layers behind that make up for the loss",
    )

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if len(self.harms) != self.width + 1:
            raise ValueError(f"{self.group}: {len(self.harms)} values for {self.width} channels")
        return self

    def at(self, share: float) -> float:
        """Return the harm of dropping a share of the channels, 0..1."""
        return self.harms[round(share * self.width)]


class SensitivityReport(Noun):
    """Every group's curve."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    tool_version: str
    checkpoint: Checkpoint
    classes: ClassSubset
    strategy: str = Field(description="in whose order the channels go")
    images: int = Field(gt=0, description="training images that were shown")
    curves: tuple[Curve, ...]
