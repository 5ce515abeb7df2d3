"""What was done and what was measured."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capdeploy.errors import BudgetError
from capdeploy.values.accuracy import Accuracy, Confusion, Difference
from capdeploy.values.artifact import Artifact, Parity, Quantized
from capdeploy.values.checkpoint import Checkpoint
from capdeploy.values.classes import ClassSubset
from capdeploy.values.cost import Cost
from capdeploy.values.environment import Environment
from capdeploy.values.latency import Search
from capdeploy.values.noise import Noise
from capdeploy.values.noun import SCHEMA_VERSION, Noun
from capdeploy.values.profile import Scenario
from capdeploy.values.sensitivity import Curve
from capdeploy.values.training import Training
from capdeploy.values.trust import Trust

ROUNDING = 1e-9  # points by which sums of shares are off without meaning it


class Metrics(Noun):
    """Everything known about one compressed network, on the workshop side."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    name: str
    requested: str = Field(description="the budget, in words")
    realised_ratio: float = Field(ge=0, lt=1)
    full: Cost
    before: Cost
    after: Cost
    accuracy: tuple[Accuracy, ...] = Field(description="stages in order; the last is the result")
    lost: Difference | None = Field(
        default=None, description="top-1 points lost against the head cut, on the same test images"
    )
    max_accuracy_drop: float | None = Field(
        default=None, ge=0, description="points that may be lost; None: any"
    )
    max_bytes: int | None = Field(default=None, ge=0, description="that the graph may have")
    confusion: Confusion = Field(default=(), description="of the result, test split; or empty")
    training: Training | None = None
    earlier: tuple[Training, ...] = Field(default=(), description="trainings before that")
    search: Search | None = Field(default=None, description="how a budget that is measured was met")
    denormals_flushed: int = Field(default=0, ge=0)
    artifact: Artifact
    quantized: tuple[Quantized, ...] = Field(default=(), description="rejected ones too")
    trust: Trust | None = Field(default=None, description="None if the head is whole")

    @property
    def start(self) -> Accuracy:
        """What it is compared with: the head cut, or where that is whole, the full head."""
        stages = {entry.stage: entry for entry in self.accuracy}
        return stages.get("head cut") or stages.get("full head") or self.accuracy[0]

    @property
    def missed(self) -> str | None:
        """What is lost, in a line, if that is more than may be."""
        lost, most = self.lost, self.max_accuracy_drop
        if lost is None or most is None or lost.points <= most:
            return None
        return (
            f"{self.name} loses {lost.points:.1f} points of top-1 [{lost.low:+.1f}, "
            f"{lost.high:+.1f}] on {lost.images} test images, --max-accuracy-drop allows {most:g}"
        )

    def missed_in(self, each: Quantized) -> str | None:
        """Say the same of the network in fewer bits; what was rejected loses nobody anything."""
        lost, most = self.lost, self.max_accuracy_drop
        if lost is None or most is None or each.after is None or each.rejected is not None:
            return None
        points = lost.points + 100 * (self.accuracy[-1].top1 - each.after.top1)
        if points <= most + ROUNDING:
            return None
        return (
            f"{self.name} in {each.precision} ({each.runtime}) loses {points:.1f} points of top-1 "
            f"on {lost.images} test images, --max-accuracy-drop allows {most:g}"
        )

    @property
    def unmet(self) -> str | None:
        """Say it if a limit was met in a precision that the network is not wholly shipped in.

        Or if the graph is larger than was asked for: planning knows its size to some bytes.
        """
        search, size, most = self.search, self.artifact.size_bytes, self.max_bytes
        if most is not None and size > most:
            return f"{self.name} has {size:,} bytes, {most:,} are allowed; ask for a little less"
        if search is None or search.precision == "fp32":
            return None
        made = [
            each for each in self.quantized
            if (each.precision, each.runtime) == (search.precision, search.runtime)
        ]  # fmt: skip
        kept = [each for each in made if each.rejected is None]
        if any(not each.in_fp32 for each in kept):
            return None
        why = f"which is not shipped: {made[0].rejected}" if made else "which is not shipped"
        if kept:
            why = f"and {len(kept[0].in_fp32)} layers of the shipped graph are in fp32"
        return (
            f"{self.name} meets its {search.quantity} in {search.precision} ({search.runtime}), "
            f"{why}; raise --max-drop, or name fp32 first in --precision"
        )

    @property
    def misses(self) -> tuple[str, ...]:
        """What is lost and more than may be, a line for each precision, and limits not met."""
        lines = (self.missed, *map(self.missed_in, self.quantized), self.unmet)
        return tuple(line for line in lines if line is not None)


class Settings(Noun):
    """What a row of the benchmark runs: a bundle, in a runtime, on a device."""

    bundle: str
    runtime: str
    device: str
    precision: str = "fp32"
    threads: int = Field(ge=1)
    batch: int = Field(default=1, ge=1)
    scenario: Scenario = "single-stream"

    @property
    def engine(self) -> str:
        """The runtime and the precision; single precision goes without saying."""
        return self.runtime if self.precision == "fp32" else f"{self.runtime} {self.precision}"

    @property
    def exact(self) -> bool:
        """Whether it has to answer as the network does: fewer bits answer otherwise by design.

        Their accuracy is judged where they are made. An NPU has no single precision.
        """
        return self.precision == "fp32" and self.device != "npu"

    @property
    def row(self) -> str:
        """The row in words."""
        return f"{self.bundle} in {self.engine} on {self.device}"


class Skipped(Noun):
    """A row that could not run, and why."""

    kind: Literal["skipped"] = "skipped"
    reason: str = Field(min_length=1)
    scope: Literal["row", "machine", "trust"] = Field(
        default="row",
        description="machine: true of every bundle on this machine; trust: a flag allows it",
    )
    failed: bool = Field(default=False, description="it should have run, and broke")
    error: str | None = Field(
        default=None, description="the kind of error that it broke with; None: its process died"
    )


class SpeedUp(Noun):
    """Baseline latency over this latency, from interleaved rounds in one process."""

    ratio: float = Field(gt=0, description="above 1: faster than the baseline")
    low: float = Field(gt=0, description="lower end of the bootstrap 95 % interval")
    high: float = Field(gt=0)
    rounds: int = Field(gt=0)
    baseline_ms: tuple[float, ...] = Field(description="median latency of each round, baseline")
    bundle_ms: tuple[float, ...] = Field(description="median latency of each round, this bundle")


class Measured(Noun):
    """A row that ran: raw values, warm-ups apart."""

    kind: Literal["measured"] = "measured"
    effective: dict[str, str] = Field(description="settings read back from the runtime")
    load_ms: float = Field(gt=0)
    first_ms: float = Field(gt=0)
    warmup_ms: tuple[float, ...]
    latency_ms: tuple[float, ...] = Field(min_length=1, description="steady, one per inference")
    cpu_ms_per_inference: float | None = Field(
        default=None, ge=0, description="CPU time of all threads in the steady phase"
    )
    device_ms: tuple[float, ...] = Field(
        default=(),
        description="by the own clock of a GPU or of the runtime, where it has one; a few",
    )
    peak_rss_mib: float = Field(gt=0, description="of the process, before the baseline is loaded")
    size_bytes: int = Field(gt=0)
    accuracy: Accuracy | None = Field(default=None, description="of the bundle's check images")
    parity: Parity | None = None
    speed_up: SpeedUp | None = None
    baseline_accuracy: Accuracy | None = Field(
        default=None, description="of the head-cut network in the same place, in fp32"
    )

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        if min(self.latency_ms) <= 0:
            raise ValueError("a latency is not above zero")
        return self


class Row(Noun):
    """One line of the benchmark."""

    settings: Settings
    result: Annotated[Measured | Skipped, Field(discriminator="kind")]


class BudgetOutcome(Noun):
    """One absolute budget against one row, or why it was not looked at."""

    settings: Settings
    budget: str
    limit: float
    value: float | None = None
    outcome: Literal["kept", "missed", "inconclusive", "not evaluated on this host"]
    severity: Literal["fail", "warn"]


class BenchmarkReport(Noun):
    """All rows of one benchmark."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    profile: str
    emulated: bool = Field(description="true if this machine is not the profile's device")
    environment: Environment
    includes: str = Field(description="what one inference includes")
    rows: tuple[Row, ...] = Field(min_length=1)
    missing: tuple[Settings, ...] = Field(
        default=(), description="rows that an interrupt left unmeasured"
    )
    budgets: tuple[BudgetOutcome, ...] = ()
    noise: Noise | None = Field(default=None, description="of this machine while it measured")

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        seen = [row.settings for row in self.rows]
        if len(set(seen)) != len(seen):
            raise ValueError("two rows have the same settings")
        return self


class RunReport(Noun):
    """One run of ``capdeploy compress``."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    tool_version: str
    checkpoint: Checkpoint
    classes: ClassSubset
    strategy: str
    scored_images: int = Field(ge=0)
    bad_images: tuple[str, ...] = ()
    models: tuple[Metrics, ...] = Field(min_length=1, description="the first is the baseline")
    out_of_reach: tuple[str, ...] = Field(
        default=(), description="limits that no network meets, and why; no bundle is made for them"
    )
    sensitivity: tuple[Curve, ...] = Field(
        default=(), description="what the allocation went by, if it went by curves"
    )
    benchmark: Annotated[BenchmarkReport | Skipped, Field()]

    @property
    def misses(self) -> tuple[str, ...]:
        """What no network meets, what is lost and more than may be, and limits not met."""
        return (*self.out_of_reach, *(line for each in self.models for line in each.misses))

    def require_budgets(self) -> None:
        """Turn losses beyond the bound, and limits not met, into an error, after they were shown.

        Raises
        ------
        BudgetError
            If no network meets a limit, or one loses more than ``max_accuracy_drop`` points, or was
            searched for in a precision that it is not wholly shipped in.
        """
        if self.misses:
            raise BudgetError("; ".join(self.misses))
