"""What a device is, how the network will run on it, and what it may cost there."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from capdeploy.values.noun import SCHEMA_VERSION, Noun

Severity = Literal["fail", "warn"]


class Match(Noun):
    """How to tell that this machine is the device; every given field must agree."""

    cpu_model: str | None = Field(default=None, description="regular expression")
    arch: str | None = None
    min_cores: int | None = Field(default=None, ge=1)
    any_host: bool = Field(default=False, description="true only for profiles of this host")


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
    precision: Literal["fp32"] = "fp32"
    threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)
    scenario: Literal["single-stream"] = "single-stream"


class Limit(Noun):
    """One absolute budget."""

    value: float = Field(gt=0)
    severity: Severity = "fail"


class Budgets(Noun):
    """What the network may cost on the device; units are in the names."""

    latency_p50_ms: Limit | None = None
    latency_p90_ms: Limit | None = None
    peak_rss_mib: Limit | None = None
    size_mib: Limit | None = None


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
