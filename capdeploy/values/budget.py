"""What to remove: what was asked for, and what to leave alone."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from capdeploy.values.noun import Noun

MIB = 1 << 20


class Limit(Noun):
    """The most that a compressed network may have of something."""

    quantity: Literal["macs", "parameters", "size", "latency", "rss"] = Field(
        description="size: bytes of ONNX, fp32; measured: latency, ms of one image, and rss, MiB "
        "of a process at its peak"
    )
    most: float = Field(gt=0, description="a count, or a share of the head-cut network's")
    share: bool = Field(description="whether `most` is a share, (0, 1]")
    percentile: Literal[50, 90] = Field(default=50, description="of the latency")

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
            ``macs``, ``parameters``, ``size``, ``latency``, ``speedup`` or ``rss``.
        text : str
            ``50%``, or a number with k, M, G (powers of ten) or KiB, MiB, GiB behind it; of a
            latency ``50%``, ``3ms`` or ``p90=3ms``; of a speed-up ``4x``.

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
        >>> Limit.parse("latency", "p90=3ms").percentile, Limit.parse("speedup", "4x").most
        (90, 0.25)
        """
        if quantity in ("latency", "speedup"):
            return cls.from_plain(_time(quantity, text), source=f"{quantity} {text}")
        found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*(%|[kKMG]i?B?|B)?\s*", text)
        if found is None:
            raise ValueError(f"'{text}' is not a limit; expected 50%, 150M, 2.5MiB or the like")
        unit = found[2] or ""
        power = {"": 0, "B": 0, "%": 0, "k": 1, "K": 1, "M": 2, "G": 3}[unit[:1]]
        scale = (1024 if "i" in unit else 1000) ** power
        number = float(found[1]) * (0.01 if unit == "%" else scale)
        if quantity == "rss" and unit != "%":
            if not unit:
                raise ValueError(f"'{text}' has no unit; expected 90MiB or 70%")
            number /= MIB
        return cls.from_plain(
            {"quantity": quantity, "most": number, "share": unit == "%"}, source=f"limit {text}"
        )

    @property
    def measured(self) -> bool:
        """Whether only building and measuring tells if it holds."""
        return self.quantity in ("latency", "rss")

    @property
    def name(self) -> str:
        """A word for folders: ``macs-50pct``, ``size-2M``, ``latency-p90-3ms``, ``rss-90MiB``."""
        if self.quantity == "latency":
            tail = "" if self.percentile == 50 else f"p{self.percentile}-"
            size = f"{self.most * 100:.4g}pct" if self.share else f"{self.most:g}ms"
            return f"latency-{tail}{size}"
        if self.share:
            return f"{self.quantity}-{self.most * 100:g}pct"
        if self.quantity == "rss":
            return f"rss-{self.most:.4g}MiB"
        for unit, step in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if self.most >= step:
                return f"{self.quantity}-{self.most / step:.4g}{unit}"
        return f"{self.quantity}-{self.most:g}"

    def __str__(self) -> str:
        if self.quantity == "latency":
            most = f"{self.most:.4g} of the head-cut network" if self.share else f"{self.most:g} ms"
            return f"p{self.percentile} latency <= {most}"
        if self.quantity == "rss" and not self.share:
            return f"peak RSS <= {self.most:.4g} MiB"
        return f"{self.quantity} <= " + (
            f"{self.most:.4g}" if not self.share else f"{self.most:.4g} of the head-cut network"
        )


def _time(quantity: str, text: str) -> dict[str, object]:
    """Read a latency or a speed-up."""
    pattern, example = (
        (r"(?:(p50|p90)=)?([0-9.]+)(%|us|ms|s)", "3ms, p90=3ms or 50%")
        if quantity == "latency"
        else (r"()([0-9.]+)(x)", "4x")
    )
    found = re.fullmatch(pattern, text.strip())
    if found is None or float(found[2].count(".") > 1) or float(found[2]) == 0:
        raise ValueError(f"'{text}' is not a {quantity}; expected {example}")
    number = float(found[2])
    scale = {"%": 0.01, "us": 1e-3, "ms": 1.0, "s": 1e3, "x": 1.0}[found[3]]
    most = 1 / number if found[3] == "x" else number * scale
    percentile = int((found[1] or "p50")[1:])
    return {
        "quantity": "latency", "most": most, "share": found[3] in "%x", "percentile": percentile,
    }  # fmt: skip


Allocation = Literal["uniform", "global", "sensitivity", "repair", "latency"]


class Budget(Noun):
    """How much to remove, and what to leave alone."""

    ratio: float | None = Field(
        default=None, description="share of the filters of the prunable groups to drop, [0, 1)"
    )
    limit: Limit | None = Field(default=None, description="instead of a ratio")
    also: tuple[Limit, ...] = Field(
        default=(), description="limits that have to hold besides; of counts, not of latency"
    )
    tolerance: float = Field(
        default=0.02, gt=0, le=1, description="how far below the limit is near enough, a share"
    )
    allocation: Allocation = Field(
        default="uniform",
        description="uniform: the same share of every group; global: where the scores lose least; "
        "sensitivity: where the measured loss grows least; repair: where the layers behind can "
        "best make up for it; latency: the same for the time that is saved",
    )
    align: int = Field(default=8, ge=1, description="kept widths are multiples of this")
    floor: float = Field(default=0.0, ge=0, lt=1, description="share that every group keeps")
    skip_first: int = Field(default=0, ge=0, description="first convolutions left whole")
    protect: tuple[str, ...] = Field(default=(), description="layer name patterns (fnmatch)")
    residual: Literal["keep", "prune"] = Field(
        default="prune", description="keep: layers that feed a residual add stay whole"
    )
    depth: Literal["keep", "prune"] = Field(
        default="keep",
        description="prune: a residual block is removed whole where that harms least for what it "
        "saves",
    )

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if (self.ratio is None) == (self.limit is None):
            raise ValueError("a budget is either a ratio or a limit")
        if self.also and self.limit is None:
            raise ValueError("a ratio and limits cannot be met together; leave out one of them")
        if self.depth == "prune" and self.allocation == "uniform" and self.cuts:
            raise ValueError(
                "with --depth prune what harms least goes first; the allocation uniform weighs "
                "no harm: take repair, global, sensitivity or latency"
            )
        quantities = [each.quantity for each in (self.limit, *self.also) if each is not None]
        if len(set(quantities)) != len(quantities) or any(each.measured for each in self.also):
            raise ValueError(
                "limits that are met together are of different things, and one of them is "
                "measured at most (a latency or a memory)"
            )
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise ValueError(
                f"ratio {self.ratio:g} is outside [0, 1): 0 cuts the head alone, "
                "0.75 drops three quarters of the filters, 1 would leave nothing"
            )
        if self.ratio is not None and self.floor > 1 - self.ratio + 1e-9:
            raise ValueError(
                f"ratio {self.ratio:g} leaves {1 - self.ratio:g} of the filters, and floor "
                f"{self.floor:g} keeps more of every group; lower one of them (a ratio that is not "
                "given is 0.5)"
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
            Limits of earlier steps are met anywhere above the last one, which is still to come.
        """
        share = step / steps
        if self.limit is None:
            ratio = self.ratio or 0.0
            between = ratio if step == steps else 1 - (1 - ratio) ** share
            return self.model_copy(update={"ratio": between})
        most = self.limit.most * has if self.limit.share else self.limit.most
        part = Limit(quantity=self.limit.quantity, most=has * (most / has) ** share, share=False)
        # From here the last step may have nothing left to cut, but never too much is gone.
        tolerance = max(self.tolerance, 1.0 - (most / has) ** (1.0 - share))
        return self.model_copy(update={"limit": part, "tolerance": tolerance})

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All that have to hold; none for a ratio."""
        return (self.limit, *self.also) if self.limit is not None else ()

    @property
    def name(self) -> str:
        """What a bundle made for it is called: ``ratio-0.75``, ``macs-50pct-and-size-2M``."""
        if self.limit is None:
            return f"ratio-{self.ratio:g}"
        return "-and-".join(limit.name for limit in self.limits)

    @property
    def measured(self) -> bool:
        """Whether candidates have to be measured for it."""
        return self.limit is not None and self.limit.measured

    @property
    def of_latency(self) -> bool:
        """Whether the layers' times are needed to plan for it."""
        limited = self.limit is not None and self.limit.quantity == "latency"
        return limited or self.allocation == "latency"

    @property
    def by_repair(self) -> bool:
        """Whether it takes channels where the layers behind can best make up for them."""
        return self.allocation in ("repair", "latency")

    @property
    def cuts(self) -> bool:
        """Whether anything is to be removed."""
        return self.ratio != 0

    def __str__(self) -> str:
        limits = " and ".join(map(str, self.limits))
        wish = f"ratio {self.ratio:g}" if self.limit is None else limits
        return f"{wish}, {self.allocation}"
