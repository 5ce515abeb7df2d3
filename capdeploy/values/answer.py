"""What a bundle says to one image."""

from __future__ import annotations

from pydantic import Field

from capdeploy.values.noun import Noun


class Answer(Noun):
    """One image's class, and how far to trust it."""

    label: str = Field(description="the likeliest of the kept classes")
    confidence: float = Field(ge=0, le=1, description="its probability among the outputs")
    calibrated: bool = Field(description="whether the confidence was fitted to held-out images")
    score: float = Field(description="how much it looks like any kept class; higher is more")
    rejected: bool = Field(description="true: it looks like none of them")
