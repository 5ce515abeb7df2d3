"""What a device is, how the network will run on it, and what it may cost there."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from capdeploy.values.noun import SCHEMA_VERSION, Noun

OFFLINE_BATCH = 32
Severity = Literal["fail", "warn"]
Scenario = Literal["single-stream", "offline"]
Kind = Literal["absolute", "relative"]


class Match(Noun):
    """How to tell that this machine is the device; every given field must agree."""

    cpu_model: str | None = Field(default=None, description="regular expression")
    arch: str | None = None
    min_cores: int | None = Field(default=None, ge=1)
    any_host: bool = Field(default=False, description="true only for profiles of this host")

    @field_validator("cpu_model")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern


class Device(Noun):
    """The silicon."""

    description: str = ""
    arch: str = Field(description="x86_64, aarch64 or any")
    isa: tuple[str, ...] = ()
    cores: int | None = Field(default=None, ge=1)
    memory_mib: int | None = Field(default=None, ge=1)
    align: int = Field(default=8, ge=1, description="channel multiple that its kernels like")


class RuntimeSettings(Noun):
    """How the network is run on the device."""

    runtimes: tuple[str, ...] = ("pytorch", "onnxruntime", "openvino")
    devices: tuple[str, ...] = ("cpu", "cuda", "gpu")
    precision: Literal["fp32", "fp16", "int8"] = Field(
        default="fp32", description="that is shipped: made besides fp32, and a latency counts in it"
    )
    threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)
    scenario: Scenario = Field(
        default="single-stream",
        description="MLPerf's words: one image at a time, or as many a second as there can be",
    )

    @property
    def images_at_once(self) -> int:
        """The batch that is run: offline, one image would measure the calls and not the network."""
        return OFFLINE_BATCH if self.scenario == "offline" and self.batch == 1 else self.batch


class Limit(Noun):
    """One budget, in the unit that its name says."""

    value: float = Field(gt=0)
    severity: Severity = "fail"


class PointsLimit(Noun):
    """One budget in percentage points; 0 accepts no loss at all."""

    value: float = Field(ge=0, le=100)
    severity: Severity = "fail"


_RELATIVE: dict[str, Any] = {"kind": "relative"}


class Budgets(Noun):
    """What the network may cost; units are in the names.

    Absolute budgets are of the device. Relative ones compare with the head-cut baseline in the
    same runtime; they are ratios and differences, so they count on any host.
    """

    latency_p50_ms: Limit | None = None
    latency_p90_ms: Limit | None = None
    peak_rss_mib: Limit | None = None
    size_mib: Limit | None = None
    latency_ratio: Limit | None = Field(
        default=None,
        description="at most this share of the baseline's",
        json_schema_extra=_RELATIVE,
    )
    min_speed_up: Limit | None = Field(
        default=None, description="at least so many times faster", json_schema_extra=_RELATIVE
    )
    accuracy_drop_points: PointsLimit | None = Field(
        default=None, description="top-1 points lost, at most", json_schema_extra=_RELATIVE
    )

    @classmethod
    def kind(cls, budget: str) -> Kind:
        """Tell whether a budget is absolute or relative to the baseline."""
        return "relative" if cls.model_fields[budget].json_schema_extra else "absolute"


# The only budget that is a floor; all others are ceilings.
FLOORS = frozenset({"min_speed_up"})


class Gate(Noun):
    """When a difference counts, for each row of a comparison; all are shares."""

    min_effect: float = Field(default=0.05, gt=0, lt=1, description="smallest change that counts")
    max_noise: float = Field(default=0.15, gt=0, lt=1, description="noisier machines do not judge")
    max_drop: float = Field(default=0.0, ge=0, lt=1, description="top-1 accuracy it may lose")
    max_growth: float = Field(default=0.0, ge=0, description="share a file or count may grow by")
    min_effect_of: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default={}, description="min_effect of a runtime that needs another"
    )

    def effect_of(self, runtime: str) -> float:
        """Tell the smallest change that counts in a runtime."""
        return self.min_effect_of.get(runtime, self.min_effect)


class HardwareProfile(Noun):
    """A device, how the network runs on it, and its budgets."""

    schema_version: int = Field(default=SCHEMA_VERSION, alias="schema", ge=1, le=SCHEMA_VERSION)
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    inherits: str | None = None
    match: Match = Match()
    device: Device
    runtime: RuntimeSettings = RuntimeSettings()
    transport: Literal["local"] = "local"
    budgets: Budgets = Budgets()
    gate: Gate = Gate()


def overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Lay one nested table over another; lists and plain values are replaced whole.

    Parameters
    ----------
    base : dict[str, Any]
        The table underneath.
    top : dict[str, Any]
        The table that wins.

    Returns
    -------
    dict[str, Any]
        A new table.

    Examples
    --------
    >>> overlay({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    """
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = overlay(below, value) if both else value  # type: ignore[arg-type]
    return merged
