"""What a strategy thinks of every filter: higher means keep, always."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from capdeploy.values.noun import Noun


class LayerScores(Noun):
    """One score for each filter of one layer."""

    # Infinities are let through the field check so that the refusal below can name the layer.
    model_config = ConfigDict(allow_inf_nan=True)

    layer: str
    values: tuple[float, ...] = Field(min_length=1, description="higher = keep")

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        bad = [position for position, value in enumerate(self.values) if not math.isfinite(value)]
        if bad:
            raise ValueError(
                f"layer {self.layer}: the score of filter {bad[0]} is {self.values[bad[0]]} "
                f"({len(bad)} of {len(self.values)} are not finite); "
                "look for NaN or infinite weights in the checkpoint"
            )
        return self


class FilterScores(Noun):
    """The scores of every filter-making layer from one pass over the images."""

    strategy: str
    layers: tuple[LayerScores, ...] = Field(min_length=1)
    images: int = Field(ge=0, description="images used; 0 for strategies that need none")
    across: Literal["mean", "max"] = Field(
        default="mean", description="how the scores of coupled layers become one"
    )
    percentile: bool = Field(
        default=False, description="whether a score is a rank percentile within its layer"
    )
    cumulative: bool = Field(
        default=False,
        description="whether a score is the harm done by the time the channel goes, in one unit",
    )
    options: dict[str, float | str] = Field(default_factory=dict)
    seed: int

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        names = [scores.layer for scores in self.layers]
        if len(set(names)) != len(names):
            raise ValueError("a layer is scored twice")
        return self

    def of(self, layer: str) -> tuple[float, ...] | None:
        """Return one layer's scores, or None if the layer makes no filters."""
        return next((scores.values for scores in self.layers if scores.layer == layer), None)
