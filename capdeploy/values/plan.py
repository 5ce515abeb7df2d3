"""What to remove: the budget that was asked for, and the plan that answers it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from capdeploy.values.cost import Cost
from capdeploy.values.noun import SCHEMA_VERSION, Noun


class Budget(Noun):
    """How much to remove, and what to leave alone."""

    ratio: float = Field(description="share of the filters to drop in every prunable group, [0, 1)")
    align: int = Field(default=8, ge=1, description="kept widths are multiples of this")
    skip_first: int = Field(default=0, ge=0, description="first convolutions left whole")
    protect: tuple[str, ...] = Field(default=(), description="layer name patterns (fnmatch)")
    residual: Literal["keep", "prune"] = Field(
        default="prune", description="keep: layers that feed a residual add stay whole"
    )

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if not 0 <= self.ratio < 1:
            raise ValueError(
                f"ratio {self.ratio:g} is outside [0, 1): 0 cuts the head alone, "
                "0.75 drops three quarters of the filters, 1 would leave nothing"
            )
        return self


class LayerCut(Noun):
    """What remains of one layer, as indices into the original network."""

    layer: str
    kept_out: tuple[int, ...] | None = Field(default=None, description="None: all outputs")
    kept_in: tuple[int, ...] | None = Field(default=None, description="None: all inputs")

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        for side, kept in (("output", self.kept_out), ("input", self.kept_in)):
            if kept is None:
                continue
            if not kept:
                raise ValueError(f"layer {self.layer} would lose every {side} channel")
            if min(kept) < 0 or len(set(kept)) != len(kept):
                raise ValueError(f"layer {self.layer}: {side} indices repeat or are negative")
        return self


class GroupCut(Noun):
    """One coupled group: all its members, its width, and the channels it keeps."""

    group: str = Field(description="the group's first filter-making layer")
    members: tuple[str, ...] = Field(min_length=1, description="layer:out and layer:in")
    width: int = Field(gt=0)
    kept: tuple[int, ...] = Field(min_length=1, description="ascending, of 0..width-1")
    whole_because: str | None = Field(default=None, description="why nothing was removed")

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if list(self.kept) != sorted(set(self.kept)):
            raise ValueError(f"group {self.group}: kept indices must ascend without repeats")
        if self.kept[0] < 0 or self.kept[-1] >= self.width:
            raise ValueError(f"group {self.group}: a kept index is outside 0..{self.width - 1}")
        return self


class PruningPlan(Noun):
    """Everything that separates the original network from the compressed one."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    strategy: str
    budget: Budget
    groups: tuple[GroupCut, ...]
    layers: tuple[LayerCut, ...] = Field(description="the head's cut included, in class order")
    realised_ratio: float = Field(ge=0, lt=1, description="share of prunable filters removed")
    full: Cost = Field(description="the original network")
    before: Cost = Field(description="head cut, nothing else")
    after: Cost = Field(description="head cut and groups cut")

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        names = [cut.layer for cut in self.layers]
        if len(set(names)) != len(names):
            raise ValueError("a layer is cut twice")
        return self

    def left_whole(self) -> tuple[GroupCut, ...]:
        """List the groups that lose nothing although the budget asks for it."""
        return tuple(cut for cut in self.groups if cut.whole_because is not None)
