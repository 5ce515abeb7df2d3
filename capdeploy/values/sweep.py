"""Many runs beside each other: what varies, what each gave, and which of them are worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from capdeploy.values.accuracy import Accuracy
from capdeploy.values.cost import Cost
from capdeploy.values.noun import SCHEMA_VERSION, Noun


class Axis(Noun):
    """One thing that varies in a sweep, and its points in order."""

    name: str = Field(min_length=1)
    points: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if len(set(self.points)) != len(self.points):
            raise ValueError(f"axis {self.name} has a point twice")
        return self


class Timing(Noun):
    """Latency of one network where latency counts."""

    runtime: str
    device: str
    threads: int = Field(ge=1)
    p50_ms: float = Field(gt=0)
    p90_ms: float = Field(gt=0)
    speed_up: float | None = Field(
        default=None, gt=0, description="against the head-cut network, interleaved"
    )


class SweepRow(Noun):
    """One network of a sweep."""

    run: str = Field(description="its run's folder under runs/")
    point: dict[str, str] = Field(description="axis -> point")
    bundle: str
    precision: str = "fp32"
    baseline: bool = Field(description="whether it is the head-cut network")
    accuracy: Accuracy = Field(description="on the test split")
    cost: Cost
    size_bytes: int = Field(gt=0, description="of the graph in this precision")
    timing: Timing | None = Field(default=None, description="None: not measured")
    dominated: bool = Field(
        default=False, description="another is at least as good in everything, better in something"
    )
    missed: str | None = Field(
        default=None,
        description="in a line: what it loses, if that is more than may be; a limit not met",
    )

    @property
    def best(self) -> bool:
        """Whether it is on the Pareto front of what may be chosen."""
        return not self.dominated and self.missed is None


class Failure(Noun):
    """What a run could not make."""

    run: str
    point: dict[str, str]
    error: str


class SweepReport(Noun):
    """A sweep: every network, compared with those of the same axes that ask the same question."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    tool_version: str
    axes: tuple[Axis, ...]
    question: tuple[str, ...] = Field(
        description="axes whose points are not alternatives, such as classes: each has its front"
    )
    rows: tuple[SweepRow, ...]
    failures: tuple[Failure, ...] = ()
    missing: tuple[str, ...] = Field(default=(), description="runs that are not made yet")
    out_of_reach: tuple[Failure, ...] = Field(
        default=(), description="limits that no network of a finished run meets, and why"
    )


def dominated(merits: Sequence[tuple[float, ...]]) -> list[bool]:
    """Tell which of several candidates are never the best choice.

    Parameters
    ----------
    merits : Sequence[tuple[float, ...]]
        Each candidate's values, higher is better, the same number of each.

    Returns
    -------
    list[bool]
        True where another candidate is at least as good in every value and better in one; what is
        left is the Pareto front. Of equal candidates none dominates the other.

    Examples
    --------
    >>> dominated([(0.9, -2.0), (0.8, -1.0), (0.8, -2.0), (0.9, -2.0)])
    [False, False, True, False]
    """
    return [
        any(
            other != mine and all(a >= b for a, b in zip(other, mine, strict=True))
            for other in merits
        )
        for mine in merits
    ]
