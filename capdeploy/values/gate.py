"""What a comparison of two artefacts found: exact facts, measured rows, and one verdict."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from capdeploy.values.environment import Environment
from capdeploy.values.noise import Noise
from capdeploy.values.noun import SCHEMA_VERSION, Noun
from capdeploy.values.report import Settings, Skipped
from capdeploy.values.verdict import Verdict

RowVerdict = Literal["faster", "kept", "regressed", "inconclusive", "too noisy"]


class Side(Noun):
    """One of the two that are compared."""

    name: str
    sha256: str = Field(description="of the graph file")


class Fact(Noun):
    """Something that does not vary from run to run, so that it is compared exactly."""

    name: str
    base: str
    head: str
    outcome: Literal["same", "better", "changed", "regressed"]
    finding: str = Field(default="", description="one line, if it is worse or cannot be told")


class Effect(Noun):
    """Head's time over base's: above 1 is slower."""

    ratio: float = Field(gt=0)
    low: float = Field(gt=0, description="lower end of the interval")
    high: float = Field(gt=0)
    level: float = Field(gt=0, lt=1, description="confidence of the interval, 0.95 for 95 %")

    @property
    def half_width(self) -> float:
        """Half the interval's width, as a share."""
        return (self.high - self.low) / (2 * self.ratio)


class Block(Noun):
    """What one process measured: medians of the rounds, base and head next to each other, ms."""

    first: Literal["base", "head"] = Field(description="which was opened first")
    base_wall_ms: tuple[float, ...] = Field(min_length=1)
    head_wall_ms: tuple[float, ...] = Field(min_length=1)
    base_cpu_ms: tuple[float, ...] = Field(min_length=1)
    head_cpu_ms: tuple[float, ...] = Field(min_length=1)
    calls: tuple[int, int] = Field(description="inferences in a round, base and head")
    repeated: int = Field(default=0, ge=0, description="rounds that were disturbed and taken again")
    affinity: tuple[int, ...] = ()
    effective: dict[str, str] = Field(default={}, description="read back from the runtime")


class GateRow(Noun):
    """One way of running both sides, and what came of it."""

    settings: Settings
    judged_by: Literal["wall", "cpu"] = Field(description="the clock whose ratio is judged")
    wall: Effect
    cpu: Effect
    noise: float = Field(ge=0, description="largest deviation of base against itself, a share")
    margin: float = Field(gt=0, description="smallest change that counts, a share")
    verdict: RowVerdict
    reason: str
    blocks: tuple[Block, ...] = Field(min_length=1)
    calibration: tuple[Block, ...] = Field(default=(), description="base against itself")

    @property
    def effect(self) -> Effect:
        """The ratio that is judged."""
        return self.cpu if self.judged_by == "cpu" else self.wall

    @property
    def visible(self) -> float:
        """Smallest slowdown that this row could have called one, as a share."""
        return self.margin + self.effect.half_width


class SkippedRow(Noun):
    """A way of running that is not to be had here."""

    settings: Settings
    result: Skipped
    side: Literal["base", "head"] | None = Field(
        default=None, description="which of the two did not run, if one should have"
    )
    exit_code: int = Field(default=0, ge=0, description="of what went wrong; 0: nothing did")


class GateReport(Noun):
    """One run of ``capdeploy gate``."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    tool_version: str
    base: Side
    head: Side
    profile: str
    environment: Environment
    noise: Noise | None = None
    facts: tuple[Fact, ...]
    rows: tuple[GateRow, ...] = ()
    skipped: tuple[SkippedRow, ...] = ()
    verdict: Annotated[Verdict, Field()]


class CalibratedRow(Noun):
    """One way of running, compared with itself several times."""

    settings: Settings
    ratios: tuple[float, ...] = Field(min_length=1, description="base over base, one a comparison")
    verdicts: tuple[RowVerdict, ...]
    noise: float = Field(ge=0, description="median deviation from itself, a share")
    visible: float = Field(gt=0, description="smallest slowdown it could have called one, a share")

    @property
    def alarms(self) -> int:
        """Comparisons that found a difference where there is none."""
        return sum(verdict in ("regressed", "faster") for verdict in self.verdicts)


class Calibration(Noun):
    """How well this machine can judge: base against base, again and again."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    base: Side
    profile: str
    environment: Environment
    rows: tuple[CalibratedRow, ...]
    skipped: tuple[SkippedRow, ...] = ()
