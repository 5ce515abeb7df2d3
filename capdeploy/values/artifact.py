"""An exported graph and the proof that it answers as the network does."""

from __future__ import annotations

from pydantic import Field

from capdeploy.values.noun import Noun


class Parity(Noun):
    """How far a graph's answers are from the network's, on real images."""

    stage: str = Field(description="exported, simplified, or a runtime's name")
    images: int = Field(gt=0)
    max_abs_error: float = Field(ge=0, description="largest difference of any logit")
    top1_agreement: float = Field(ge=0, le=1)
    atol: float = Field(gt=0, description="largest max_abs_error that is accepted")

    @property
    def holds(self) -> bool:
        """True if the error is within `atol` and every top-1 answer is the same."""
        return self.max_abs_error <= self.atol and self.top1_agreement == 1.0


class Simplification(Noun):
    """What onnxsim did, or why its result is not used."""

    applied: bool
    nodes_before: int = Field(ge=0)
    nodes_after: int = Field(ge=0)
    reason: str | None = Field(default=None, description="why it was not applied")


class Artifact(Noun):
    """A graph file of the bundle."""

    file: str
    opset: int = Field(ge=18)
    nodes: int = Field(gt=0)
    size_bytes: int = Field(gt=0)
    simplification: Simplification
    parity: tuple[Parity, ...] = Field(min_length=1)
