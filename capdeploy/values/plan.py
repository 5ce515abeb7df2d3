"""What is removed: the plan that answers a budget."""

from __future__ import annotations

from typing import Self

from pydantic import Field, computed_field, model_validator

from capdeploy.values.budget import Budget
from capdeploy.values.cost import Cost
from capdeploy.values.group import Block
from capdeploy.values.latency import Search
from capdeploy.values.noun import SCHEMA_VERSION, Noun, TellingNoun


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
    unit: int = Field(default=1, gt=0, description="filters that go with one of the width")
    kept: tuple[int, ...] = Field(
        description="ascending, of 0..width-1; none if all its layers go with a removed block"
    )
    macs: int = Field(default=0, ge=0, description="of the layers that make it, before")
    macs_left: int = Field(default=0, ge=0, description="of the same layers, after")
    whole_because: str | None = Field(default=None, description="why nothing could be removed")
    nominal_ratio: float | None = Field(
        default=None,
        description="OCAP's union: the share that one image alone drops to end at this width",
    )

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if list(self.kept) != sorted(set(self.kept)):
            raise ValueError(f"group {self.group}: kept indices must ascend without repeats")
        if self.kept and (self.kept[0] < 0 or self.kept[-1] >= self.width):
            raise ValueError(f"group {self.group}: a kept index is outside 0..{self.width - 1}")
        return self


class PruningPlan(TellingNoun):
    """Everything that separates the original network from the compressed one."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    strategy: str
    budget: Budget
    groups: tuple[GroupCut, ...]
    layers: tuple[LayerCut, ...] = Field(description="the head's cut included, in class order")
    removed: tuple[Block, ...] = Field(
        default=(), description="residual blocks that are removed whole, in order of execution"
    )
    realised_ratio: float = Field(ge=0, lt=1, description="share of prunable filters removed")
    full: Cost = Field(description="the original network")
    before: Cost = Field(description="head cut, nothing else")
    after: Cost = Field(description="head cut and groups cut")
    search: Search | None = Field(default=None, description="how a budget that is measured was met")

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        names = [cut.layer for cut in self.layers]
        if len(set(names)) != len(names):
            raise ValueError("a layer is cut twice")
        if lost := sorted(self.gone & set(names)):
            raise ValueError(f"layer {lost[0]} is cut, and removed with its block")
        emptied = [cut.group for cut in self.groups if not cut.kept and cut.group not in self.gone]
        if emptied:
            raise ValueError(f"group {emptied[0]} would lose every channel, its block stays")
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def shares(self) -> dict[str, tuple[float, float]]:
        """By group: which share of the network's MACs its layers compute, before and after."""
        before, after = max(1, self.before.macs), max(1, self.after.macs)
        return {cut.group: (cut.macs / before, cut.macs_left / after) for cut in self.groups}

    @property
    def gone(self) -> frozenset[str]:
        """Layers that are removed with their block."""
        return frozenset(layer for block in self.removed for layer in block.layers)

    def left_whole(self) -> tuple[GroupCut, ...]:
        """List the groups that lose nothing although the budget asks for it."""
        return tuple(cut for cut in self.groups if cut.whole_because is not None)

    def then(self, later: PruningPlan) -> PruningPlan:
        """Put a further cut of the network that this plan makes on top of this one.

        Parameters
        ----------
        later : PruningPlan
            Its indices count what this plan keeps.

        Returns
        -------
        PruningPlan
            Both at once, with indices into the original network and the later budget.
        """
        first = {cut.layer: cut for cut in self.layers}
        names = dict.fromkeys([*first, *(cut.layer for cut in later.layers)])
        second = {cut.layer: cut for cut in later.layers}
        layers = tuple(
            LayerCut(
                layer=name,
                kept_out=_within(_side(first, name, "out"), _side(second, name, "out")),
                kept_in=_within(_side(first, name, "in"), _side(second, name, "in")),
            )
            for name in names
        )
        before = {cut.group: cut for cut in self.groups}
        further = {cut.group: _on_top(before[cut.group], cut) for cut in later.groups}
        # What went with a block is not there for the later plan to see.
        groups = tuple(further.get(name, cut) for name, cut in before.items())
        width = sum(cut.unit * cut.width for cut in groups)
        remain = sum(cut.unit * len(cut.kept) for cut in groups)
        return later.model_copy(
            update={
                "groups": groups, "full": self.full, "before": self.before,
                "layers": tuple(cut for cut in layers if cut.layer not in later.gone),
                "removed": (*self.removed, *later.removed),
                "realised_ratio": 1 - remain / width if width else 0.0,
            }
        )  # fmt: skip


def _on_top(before: GroupCut, later: GroupCut) -> GroupCut:
    kept = tuple(before.kept[index] for index in later.kept)
    whole = later.whole_because if len(kept) == before.width else None
    # What one image alone has to drop is known of each step, and of both together only if one cut.
    cut = [each for each in (before, later) if len(each.kept) < each.width]
    nominal = cut[0].nominal_ratio if len(cut) == 1 else None
    return later.model_copy(
        update={
            "width": before.width, "kept": kept, "whole_because": whole, "macs": before.macs,
            "nominal_ratio": nominal,
        }
    )  # fmt: skip


def _side(cuts: dict[str, LayerCut], name: str, side: str) -> tuple[int, ...] | None:
    cut = cuts.get(name)
    if cut is None:
        return None
    return cut.kept_out if side == "out" else cut.kept_in


def _within(outer: tuple[int, ...] | None, inner: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Read inner indices, which count what outer keeps, as original indices."""
    if outer is None or inner is None:
        return inner if outer is None else outer
    return tuple(outer[index] for index in inner)
