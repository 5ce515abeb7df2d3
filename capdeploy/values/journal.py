"""What a run has finished before it ended: enough to go on from."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from capdeploy.values.artifact import Artifact
from capdeploy.values.classes import ClassSubset
from capdeploy.values.noun import SCHEMA_VERSION, Noun
from capdeploy.values.plan import PruningPlan
from capdeploy.values.recipe import Recipe
from capdeploy.values.sensitivity import Curve
from capdeploy.values.training import Training


class Begun(Noun):
    """A run whose plans are drawn."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    tool_version: str
    checkpoint_sha256: str
    classes: ClassSubset = Field(description="as chosen then: files that name them may change")
    recipe: Recipe
    plans: tuple[PruningPlan, ...] = Field(min_length=1, description="the head's own comes first")
    scored_images: int = Field(ge=0)
    sensitivity: tuple[Curve, ...] = ()
    out_of_reach: tuple[str, ...] = ()


class Finished(Noun):
    """One network of a run that is cut, recovered and exported, but not judged yet."""

    name: str
    plan: PruningPlan
    states: tuple[str, ...] = Field(description="what is kept of it, one file of weights each")
    cut_stage: str = Field(default="cut, no training", description="what its cut state is called")
    digests: dict[str, str] = Field(description="SHA-256 of its graph and of each state's weights")
    training: Training | None = None
    earlier: tuple[Training, ...] = Field(default=(), description="trainings before that")
    artifact: Artifact
    denormals_flushed: int = Field(ge=0)

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        known = ("cut", "recalibrated", "reconstructed", "tuned", "rejecting")
        if "cut" not in self.states or any(state not in known for state in self.states):
            raise ValueError(f"states are cut and some of {', '.join(known[1:])}")
        return self
