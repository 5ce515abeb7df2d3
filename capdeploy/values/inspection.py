"""What is known of a checkpoint before anything is done with it."""

from __future__ import annotations

from pydantic import Field

from capdeploy.values.checkpoint import Checkpoint
from capdeploy.values.cost import Cost
from capdeploy.values.noun import SCHEMA_VERSION, Noun


class Whole(Noun):
    """A group of channels that cannot be cut."""

    group: str
    reason: str


class Inspection(Noun):
    """A checkpoint, its network, and what can be cut."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    checkpoint: Checkpoint
    recognised: bool = Field(description="the architecture was found by the weights")
    cost: Cost = Field(description="at the input size")
    groups: int = Field(ge=0, description="coupled groups that can be cut")
    filters: int = Field(ge=0, description="channels of those groups")
    whole: tuple[Whole, ...] = Field(description="groups that cannot be cut, and why")
