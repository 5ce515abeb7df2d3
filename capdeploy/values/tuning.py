"""Which channel multiple the kernels of a machine like, and the times that say so."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from capdeploy.values.environment import Environment
from capdeploy.values.noun import SCHEMA_VERSION, Noun


class Effect(Noun):
    """How much slower the widths half-way between two multiples are than a straight line says."""

    multiple: int = Field(ge=2)
    excess: float = Field(description="median over rounds, as a share; 0.1 is 10 % slower")
    low: float = Field(description="lower end of the bootstrap 95 % interval")
    high: float
    verdict: Literal["pays", "does not pay", "unclear"]


class ProbedBlock(Noun):
    """One kind of layer in one runtime."""

    runtime: str
    block: str
    widths: tuple[int, ...]
    latency_ms: tuple[float, ...] = Field(description="of each width, median over rounds")
    rounds: int = Field(ge=1)
    effects: tuple[Effect, ...]

    @property
    def multiple(self) -> int:
        """The largest multiple that pays; 1 if none does."""
        return max((e.multiple for e in self.effects if e.verdict == "pays"), default=1)

    @property
    def unclear(self) -> tuple[int, ...]:
        """Multiples above `multiple` of which the times do not tell whether they pay."""
        return tuple(
            e.multiple
            for e in self.effects
            if e.verdict == "unclear" and e.multiple > self.multiple
        )


class Tuning(Noun):
    """A measured `align`, with everything that it rests on."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    environment: Environment
    threads: int = Field(ge=1)
    align: int = Field(ge=1, description="largest multiple that pays in any runtime")
    probes: tuple[ProbedBlock, ...] = Field(min_length=1)

    @property
    def by_runtime(self) -> dict[str, int]:
        """The largest multiple that pays in each runtime."""
        found: dict[str, int] = {}
        for probe in self.probes:
            found[probe.runtime] = max(found.get(probe.runtime, 1), probe.multiple)
        return found

    @property
    def unclear(self) -> tuple[int, ...]:
        """Multiples above `align` that the measurement could not rule out."""
        return tuple(sorted({m for probe in self.probes for m in probe.unclear if m > self.align}))
