"""What a look at this machine found: what works, what is missing, and what that means."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from capdeploy.values.environment import Environment
from capdeploy.values.noun import SCHEMA_VERSION, Noun


class RuntimeState(Noun):
    """One runtime of the shelf, as it was found."""

    name: str
    title: str
    state: Literal["works", "missing", "broken"]
    version: str | None = Field(default=None, description="as its package says, where one is known")
    devices: tuple[str, ...] = Field(default=(), description="on which it runs here")
    problem: str = Field(default="", description="why it does not work, and what to do")


class ExtraState(Noun):
    """One optional part of capdeploy."""

    name: str
    missing: tuple[str, ...] = Field(default=(), description="its packages that are not installed")

    @property
    def command(self) -> str:
        """The command that installs it."""
        return f"pip install 'capdeploy[{self.name}]'"


class InstructionSet(Noun):
    """A part of the instruction set that decides how fast a network can be."""

    name: str
    present: bool
    meaning: str = Field(description="what it does; where it is missing, what that costs")


class Examination(Noun):
    """Everything that ``capdeploy doctor`` found."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    tool_version: str
    runtimes: tuple[RuntimeState, ...]
    extras: tuple[ExtraState, ...]
    instruction_sets: tuple[InstructionSet, ...]
    environment: Environment
    fingerprint: str
    threads_available: int = Field(ge=1)
    memory_available_mib: int = Field(ge=0)
    temporary_folder: str
    temporary_free_mib: int | None = Field(default=None, ge=0)
    telemetry: tuple[str, ...] = Field(description="what would report home, and its state")
    profiles: tuple[str, ...] = Field(description="hardware profiles that match this machine")
    noise_floor: float | None = Field(
        default=None, ge=0, description="smallest slowdown that can be told from none, a share"
    )

    @property
    def usable(self) -> bool:
        """True if at least one runtime works."""
        return any(runtime.state == "works" for runtime in self.runtimes)
