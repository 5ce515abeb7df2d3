"""How long a network's layers take at each width, and how a latency budget was met."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, model_validator

from capdeploy.values.noun import SCHEMA_VERSION, Noun

Pair = tuple[int, int]


class LayerShape(Noun):
    """How a layer runs, its widths apart."""

    kind: Literal["conv", "linear"]
    height: int = Field(gt=0, description="rows of its input")
    width: int = Field(gt=0, description="columns of its input")
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    pads: tuple[int, int, int, int] = Field(default=(0, 0, 0, 0), description="as ONNX: t, l, b, r")
    block: Pair | None = Field(
        default=None, description="outputs and inputs of one convolution group; None: one group"
    )

    @property
    def like(self) -> str | None:
        """The probed block whose kernels it has, ``dense`` or ``separable``; None: neither's."""
        if self.kind == "linear" or self.block not in {None, (1, 1)}:
            return None
        return "separable" if self.block or self.kernel == (1, 1) else "dense"

    @property
    def output(self) -> Pair:
        """Rows and columns of its output.

        Examples
        --------
        >>> LayerShape(kind="conv", height=7, width=9, kernel=(3, 3), stride=(2, 2)).output
        (3, 4)
        """
        top, left, bottom, right = self.pads
        rows, columns = self.height + top + bottom, self.width + left + right
        (high, wide), (down, over) = self.kernel, self.dilation
        return (
            (rows - down * (high - 1) - 1) // self.stride[0] + 1,
            (columns - over * (wide - 1) - 1) // self.stride[1] + 1,
        )


class WidthTimes(Noun):
    """One layer's times on a grid of widths."""

    shape: LayerShape
    out_channels: tuple[int, ...] = Field(min_length=1, description="ascending")
    in_channels: tuple[int, ...] = Field(
        min_length=1, description="ascending; a single one where the inputs follow the outputs"
    )
    ms: tuple[tuple[float, ...], ...] = Field(description="a row for each number of outputs")
    grain: int = Field(
        default=1, ge=1, description="outputs that a kernel computes at once: time rises in stairs"
    )
    grain_in: int = Field(default=1, ge=1, description="inputs, likewise")

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if len(self.ms) != len(self.out_channels) or any(
            len(row) != len(self.in_channels) for row in self.ms
        ):
            raise ValueError("the times do not fit the widths")
        return self

    def at(self, out_channels: float, in_channels: float) -> float:
        """Interpolate the time at some widths, in ms, each rounded up to its grain.

        Parameters
        ----------
        out_channels : float
            Output channels; beyond the grid, its edge counts.
        in_channels : float
            Input channels, likewise.

        Returns
        -------
        float
            Bilinear between the measured widths.

        Examples
        --------
        >>> times = WidthTimes(shape=LayerShape(kind="conv", height=1, width=1),
        ...                    out_channels=(8, 16), in_channels=(8,), ms=((1.0,), (3.0,)))
        >>> times.at(12, 8), times.at(4, 8)
        (2.0, 1.0)
        """
        # Plans ask this many thousand times, so no more rows are read than the two beside.
        place, share = _place(_stair(out_channels, self.grain), self.out_channels)
        in_channels = _stair(in_channels, self.grain_in)
        below = _between(in_channels, self.in_channels, self.ms[place])
        if not share:
            return below
        above = _between(in_channels, self.in_channels, self.ms[place + 1])
        return below + share * (above - below)


def _stair(width: float, grain: int) -> float:
    # Widths are sums of shares of groups: 8.000000000000002 are 8 channels.
    return width if grain == 1 else math.ceil(width / grain - 1e-9) * grain


def _place(at: float, grid: Sequence[float]) -> tuple[int, float]:
    """Find the grid's point at or below, and how much of the way to the next is behind."""
    place = bisect_right(grid, at) - 1
    if not 0 <= place < len(grid) - 1:
        return min(max(place, 0), len(grid) - 1), 0.0
    return place, (at - grid[place]) / (grid[place + 1] - grid[place])


def _between(at: float, grid: Sequence[float], values: Sequence[float]) -> float:
    place, share = _place(at, grid)
    below = values[place]
    return below + share * (values[place + 1] - below) if share else below


class LatencyTable(Noun):
    """Every layer of a network at every width, in one runtime on one machine.

    It leaves out what is no convolution and no linear layer; `Search` brings its sums to the scale
    of the whole network.
    """

    runtime: str
    device: str
    threads: int = Field(ge=1)
    start_ms: float = Field(ge=0, description="what starting one layer costs")
    layers: dict[str, WidthTimes]

    @cached_property
    def grain(self) -> int:
        """The widest stair of any layer, in channels."""
        return max((times.grain for times in self.layers.values()), default=1)

    def of(self, layer: str, out_channels: float, in_channels: float) -> float:
        """Estimate a layer's time at some widths, in ms; 0 for layers that are not in the table."""
        times = self.layers.get(layer)
        return 0.0 if times is None else times.at(out_channels, in_channels)


class Trial(Noun):
    """One candidate that was built and measured."""

    macs: int = Field(ge=0)
    parameters: int = Field(ge=0)
    estimated: float = Field(ge=0, description="from the layers' times, or their weights")
    measured: float = Field(gt=0)
    cached: bool = Field(default=False, description="measured by an earlier run on this machine")


class Search(Noun):
    """How a budget was met that has to be measured, a latency or a memory: all candidates."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    runtime: str
    device: str
    threads: int = Field(ge=1)
    precision: str = Field(default="fp32", description="of the candidates; the estimates are fp32")
    unit: Literal["ms", "MiB"] = Field(
        default="ms", description="of all its numbers: latency in ms, peak memory in MiB"
    )
    percentile: float = Field(default=50.0, gt=0, lt=100, description="of a latency")
    emulated: bool = Field(
        default=False, description="measured on a machine that is not the profile's device"
    )
    budget: float = Field(gt=0)
    base: float = Field(gt=0, description="of the head-cut network")
    trials: tuple[Trial, ...] = Field(min_length=1)
    chosen: int = Field(ge=0, description="position among the trials")

    @property
    def result(self) -> Trial:
        """The candidate that was taken."""
        return self.trials[self.chosen]

    @property
    def estimate_error(self) -> float:
        """How far the estimate was from the measurement, as a share of the latter."""
        return self.result.estimated / self.result.measured - 1

    @property
    def quantity(self) -> str:
        """``latency`` or ``memory``."""
        return "latency" if self.unit == "ms" else "memory"

    @property
    def sentence(self) -> str:
        """What was asked, estimated and measured, in one line."""
        found, unit = self.result, self.unit
        bits = "" if self.precision == "fp32" else f" {self.precision}"
        what = f"p{self.percentile:g} latency" if unit == "ms" else "peak RSS"
        return (
            f"{what} in {self.runtime}{bits} on {self.device}, {self.threads} "
            f"thread(s): {found.measured:.3g} {unit} measured, budget {self.budget:.3g} {unit}, "
            f"estimated {found.estimated:.3g} {unit} ({self.estimate_error:+.0%}), head cut "
            f"{self.base:.3g} {unit}; {len(self.trials)} candidate(s) tried"
            + "; measured on a machine that is not the profile's device"
            * self.emulated
        )
