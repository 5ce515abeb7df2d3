"""What to remove: the budget that was asked for, and the plan that answers it."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from capdeploy.values.cost import Cost
from capdeploy.values.noun import SCHEMA_VERSION, Noun


class Limit(Noun):
    """The most that a compressed network may have of something."""

    quantity: Literal["macs", "parameters", "size"] = Field(description="size: bytes of ONNX, fp32")
    most: float = Field(gt=0, description="a count, or a share of the head-cut network's")
    share: bool = Field(description="whether `most` is a share, (0, 1]")

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if self.share and self.most > 1:
            raise ValueError(f"{self.most:.0%} of the network is more than there is")
        return self

    @classmethod
    def parse(cls, quantity: str, text: str) -> Limit:
        """Read what a user wrote.

        Parameters
        ----------
        quantity : str
            ``macs``, ``parameters`` or ``size``.
        text : str
            ``50%``, or a number with k, M, G (powers of ten) or KiB, MiB, GiB behind it.

        Returns
        -------
        Limit
            The limit.

        Raises
        ------
        ValueError
            If the text is neither.

        Examples
        --------
        >>> Limit.parse("macs", "50%").most, Limit.parse("size", "2MiB").most
        (0.5, 2097152.0)
        """
        found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*(%|[kMG]i?B?|B)?\s*", text)
        if found is None:
            raise ValueError(f"'{text}' is not a limit; expected 50%, 150M, 2.5MiB or the like")
        unit = found[2] or ""
        power = {"": 0, "B": 0, "%": 0, "k": 1, "K": 1, "M": 2, "G": 3}[unit[:1]]
        scale = (1024 if "i" in unit else 1000) ** power
        number = float(found[1]) * (0.01 if unit == "%" else scale)
        return cls.from_plain(
            {"quantity": quantity, "most": number, "share": unit == "%"}, source=f"limit {text}"
        )

    def __str__(self) -> str:
        return f"{self.quantity} <= " + (
            f"{self.most:.4g}" if not self.share else f"{self.most:.4g} of the head-cut network"
        )


class Budget(Noun):
    """How much to remove, and what to leave alone."""

    ratio: float | None = Field(
        default=None, description="share of the filters of the prunable groups to drop, [0, 1)"
    )
    limit: Limit | None = Field(default=None, description="instead of a ratio")
    tolerance: float = Field(
        default=0.02, gt=0, le=1, description="how far below the limit is near enough, a share"
    )
    allocation: Literal["uniform", "global", "sensitivity"] = Field(
        default="uniform",
        description="uniform: the same share of every group; global: where the scores lose least; "
        "sensitivity: where the measured loss grows least",
    )
    align: int = Field(default=8, ge=1, description="kept widths are multiples of this")
    floor: float = Field(default=0.0, ge=0, lt=1, description="share that every group keeps")
    skip_first: int = Field(default=0, ge=0, description="first convolutions left whole")
    protect: tuple[str, ...] = Field(default=(), description="layer name patterns (fnmatch)")
    residual: Literal["keep", "prune"] = Field(
        default="prune", description="keep: layers that feed a residual add stay whole"
    )

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if (self.ratio is None) == (self.limit is None):
            raise ValueError("a budget is either a ratio or a limit")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise ValueError(
                f"ratio {self.ratio:g} is outside [0, 1): 0 cuts the head alone, "
                "0.75 drops three quarters of the filters, 1 would leave nothing"
            )
        return self

    def part(self, step: int, steps: int, has: float) -> Budget:
        """Give the budget of one of several steps that each keep the same share of the last.

        Parameters
        ----------
        step : int
            1..steps; the last one is the budget itself, in absolute terms.
        steps : int
            How many.
        has : float
            What the whole network has of what is limited; unused for a ratio.

        Returns
        -------
        Budget
            Limits of earlier steps are met within any distance.
        """
        share = step / steps
        if self.limit is None:
            ratio = self.ratio or 0.0
            between = ratio if step == steps else 1 - (1 - ratio) ** share
            return self.model_copy(update={"ratio": between})
        most = self.limit.most * has if self.limit.share else self.limit.most
        part = Limit(quantity=self.limit.quantity, most=has * (most / has) ** share, share=False)
        tolerance = self.tolerance if step == steps else 1.0
        return self.model_copy(update={"limit": part, "tolerance": tolerance})

    @property
    def name(self) -> str:
        """What a bundle made for it is called: ``ratio-0.75``, ``macs-50pct``, ``size-2M``."""
        if self.limit is None:
            return f"ratio-{self.ratio:g}"
        most = self.limit.most
        if self.limit.share:
            return f"{self.limit.quantity}-{most * 100:g}pct"
        for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if most >= size:
                return f"{self.limit.quantity}-{most / size:.4g}{unit}"
        return f"{self.limit.quantity}-{most:g}"

    @property
    def cuts(self) -> bool:
        """Whether anything is to be removed."""
        return self.ratio != 0

    def __str__(self) -> str:
        wish = f"ratio {self.ratio:g}" if self.limit is None else str(self.limit)
        return f"{wish}, {self.allocation}"


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
    kept: tuple[int, ...] = Field(min_length=1, description="ascending, of 0..width-1")
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
        groups = tuple(_on_top(before[cut.group], cut) for cut in later.groups)
        width = sum(cut.unit * cut.width for cut in groups)
        remain = sum(cut.unit * len(cut.kept) for cut in groups)
        return later.model_copy(
            update={
                "groups": groups, "layers": layers, "full": self.full, "before": self.before,
                "realised_ratio": 1 - remain / width if width else 0.0,
            }
        )  # fmt: skip


def _on_top(before: GroupCut, later: GroupCut) -> GroupCut:
    kept = tuple(before.kept[index] for index in later.kept)
    whole = later.whole_because if len(kept) == before.width else None
    return later.model_copy(
        update={
            "width": before.width, "kept": kept, "whole_because": whole, "macs": before.macs,
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
